import pytest
import torch

from avatarsync import VisualTokenizerConfig, VisualTokenizerModel, face_mesh
from avatarsync.visual_tokenizer_layers import MOST_SHADING, MOST_TINT

TINY = {
    "crop_size": 64,
    "encoder_width": 8,
    "motion_width": 32,
    "motion_rank": 8,
    "painter_size": 32,
    "painter_width": 8,
}


@pytest.fixture(params=["lfq", "vq"])
def model(request):
    torch.manual_seed(0)
    return VisualTokenizerModel(VisualTokenizerConfig(quantizer=request.param, code_bits=6, **TINY)).eval()


@pytest.fixture
def faces():
    torch.manual_seed(1)
    landmarks = face_mesh.neutral_landmarks() + 0.003 * torch.randn(3, 468, 2)
    return torch.rand(3, 3, 64, 64) * 2 - 1, landmarks


def test_a_crop_becomes_codes_of_the_vocabulary(model, faces):
    continuous = model.encode(faces[0])
    assert continuous.shape == (3, 16, 6) and continuous.abs().max() <= 1
    quantized = model.quantize(continuous)
    assert quantized.ids.shape == (3, 16)
    assert quantized.ids.min() >= 0 and quantized.ids.max() < model.config.codebook_size
    assert torch.equal(model.quantizer.ids_to_codes(quantized.ids), quantized.codes.detach())


def test_a_picture_alone_is_its_own_reference(model, faces):
    pictures = faces[0]
    with torch.no_grad():
        alone = model.encode(pictures)
        assert torch.allclose(model.encode(pictures, pictures), alone, atol=1e-6)
        beside = model.encode(pictures, pictures.roll(1, 0))
        assert ((beside - alone).abs().amax((1, 2)) > 1e-4).all(), "it is compared with each one's own reference"
        assert torch.allclose(model.encode(pictures[1:2], pictures[:1]), beside[1:2], atol=1e-5)
        out = model(pictures, label_expression=faces[1], own_reference_pixel_values=pictures.roll(1, 0))
    assert torch.equal(out.codes, model.quantize(beside).codes)


def test_without_motion_and_paint_the_decoder_returns_the_reference(model, faces):
    with torch.no_grad():
        model.painter.head.weight[:3] = 0
        model.painter.head.bias[:3] = 0
        reference = model.prepare_reference(*faces)
        out = model.paint(reference.codes, reference, reference.landmarks)
    assert not out.flow.any()
    assert torch.allclose(out.pixels, faces[0], atol=1e-5)


def test_paint_stays_inside_its_mask(model, faces):
    with torch.no_grad():
        model.painter.head.weight[4:] = 0
        model.painter.head.bias[4:] = 0
        reference = model.prepare_reference(*faces)
        moved = reference.landmarks.clone()
        moved[:, [ring[i] for ring in face_mesh.LIP_RINGS for i in face_mesh.LOWER_LIP_POSITIONS], 1] += 0.06
        out = model.paint(reference.codes, reference, moved)
    still = (out.flow.abs().sum(1, keepdim=True) == 0) & (out.mask == 0)
    assert out.mask.max() > 0.5
    assert 0.3 < still.float().mean() < 1
    assert torch.allclose(torch.where(still, out.pixels - faces[0], 0.0), torch.zeros(1), atol=1e-5)


def test_nothing_need_be_painted_to_know_where_a_face_goes(model, faces, monkeypatch):
    with torch.no_grad():
        reference = model.prepare_reference(*faces)
        painted = model.decode(reference.codes.roll(1, 0), reference, detail=2)
        monkeypatch.setattr(model.painter, "forward", None)
        moved = model.decode(reference.codes.roll(1, 0), reference, detail=2, painted=False)
    assert set(moved) == {"landmarks", "expression", "flow", "line", "mouth"}
    for name, value in moved.items():
        assert torch.equal(value, painted[name])


def test_shading_stays_inside_the_painters_window(model, faces):
    with torch.no_grad():
        model.painter.head.weight[4:] *= 20
        reference = model.prepare_reference(*faces)
        assert not model.paint(reference.codes, reference, reference.landmarks).shading.any()
        out = model.paint(reference.codes, reference, reference.landmarks + 0.02)
        corners = model.mouth_window(reference.landmarks)
    beside = torch.ones_like(out.shading)
    for index, (x, y) in enumerate(corners.tolist()):
        beside[index, :, y : y + 32, x : x + 32] = 0
        middle = out.shading[index, :, y + 8 : y + 24, x + 8 : x + 24].abs().mean()
        rim = out.shading[index, :, y, x : x + 32].abs().mean()
        assert middle > 0.05 and rim < 0.1 * middle
    assert not (out.shading * beside).any()


def test_shading_may_brighten_far_more_than_it_tints(model):
    generator = torch.Generator().manual_seed(0)
    window = torch.rand(2, 8, 32, 32, generator=generator) * 2 - 1
    with torch.no_grad():
        model.painter.head.weight.mul_(1e3)
        codes = torch.zeros(2, model.config.num_tokens, model.config.code_bits)
        shading = model.painter(window, codes)[2]
    grey = shading.mean(1, keepdim=True)
    assert 0.5 * MOST_SHADING < grey.abs().max() <= MOST_SHADING + MOST_TINT
    assert 0 < (shading - grey).abs().max() <= 2 * MOST_TINT


def test_shading_is_no_cast(model, faces):
    """Another colour all over the window is not painted: it would be seen as a patch."""
    with torch.no_grad():
        reference = model.prepare_reference(*faces)
        before = model.paint(reference.codes, reference, reference.landmarks + 0.02).shading
        model.painter.head.bias[4:] += 1.0
        after = model.paint(reference.codes, reference, reference.landmarks + 0.02).shading
    assert torch.allclose(before, after, atol=0.02)


def test_more_detail_says_the_same_finer(model, faces):
    with torch.no_grad():
        reference = model.prepare_reference(*faces)
        codes = torch.tanh(torch.randn(3, 16, 6))
        coarse, fine = model.decode(codes, reference), model.decode(codes, reference, detail=2)
    assert fine.flow.shape[-1] == 2 * coarse.flow.shape[-1]
    assert fine.pixels.shape == coarse.pixels.shape
    assert torch.equal(fine.landmarks, coarse.landmarks)


def test_losses_reach_every_part_and_go_down(model, faces):
    model.train()
    pixels, landmarks = faces
    target = landmarks.clone()
    target[:, [14, 17, 87, 317, 84, 314], 1] += 0.05
    batch = {
        "pixel_values": pixels,
        "reference_pixel_values": pixels.flip(0),
        "reference_landmarks": landmarks,
        "labels": pixels * 0.5,
        "label_landmarks": target,
        "label_expression": target,
    }
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(15):
        out = model(**batch)
        losses.append((out.expression_loss.item(), out.pixel_loss.item()))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("quantizer"))
    assert losses[-1][0] < losses[0][0] and losses[-1][1] < losses[0][1]


@torch.no_grad()
def test_items_are_painted_at_the_true_landmarks_or_where_their_codes_lead(model, faces):
    pictures, landmarks = faces
    true = landmarks + 0.02
    inputs = {
        "pixel_values": pictures.flip(0),
        "reference_pixel_values": pictures,
        "reference_landmarks": landmarks,
        "own_reference_pixel_values": pictures,
    }
    by_codes = model(**inputs).decoded.landmarks
    chosen = torch.tensor([True, False, True])
    mixed = model(**inputs, label_landmarks=true, led=chosen).decoded.landmarks
    assert torch.equal(mixed[chosen], by_codes[chosen]) and torch.equal(mixed[~chosen], true[~chosen])
    assert torch.equal(model(**inputs, label_landmarks=true).decoded.landmarks, true)
    assert torch.equal(model(**inputs, led=~chosen).decoded.landmarks, by_codes)
    assert (by_codes - true).abs().max() > 1e-3


def test_saving_and_loading_keeps_every_weight(model, faces, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = VisualTokenizerModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        references = [one.prepare_reference(*faces) for one in (model, loaded)]
        expected, out = (one.decode(r.codes, r).pixels for one, r in zip((model, loaded), references, strict=True))
    assert torch.equal(out, expected)
