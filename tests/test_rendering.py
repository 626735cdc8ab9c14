import numpy as np
import pytest
import torch

from avatarsync import VisualTokenizerConfig, VisualTokenizerModel, face_mesh
from avatarsync.modeling_face_aligner import FaceAlignment
from avatarsync.mouth_colours import ROUNDED_DARK
from avatarsync.rendering import BATCH_MULTIPLE, BELOW, FaceRenderer


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    config = VisualTokenizerConfig(
        crop_size=64, encoder_width=8, motion_width=32, motion_rank=8, painter_size=32, painter_width=8
    )
    return VisualTokenizerModel(config).eval()


def portrait(height, width, face=0.5, turn=0.0):
    """A noisy picture and a face of the neutral shape in its middle, `face` of the height tall, turned by radians."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    points = (face_mesh.neutral_landmarks().numpy() - 0.5) * height * face * 1.2
    cos, sin = np.cos(turn), np.sin(turn)
    points = points @ np.array([[cos, sin], [-sin, cos]]) + (width / 2, height / 2)
    points = points.astype(np.float32)
    low, high = points.min(0), points.max(0)
    return image, FaceAlignment((*low, *(high - low)), points, 1.0)


@pytest.mark.parametrize(
    ("height", "width", "face", "turn"),
    [(128, 128, 0.9, 0.0), (333, 257, 0.5, 0.35), (600, 401, 0.7, -0.2), (1500, 1001, 0.6, 0.0)],
)
def test_what_does_not_move_is_the_input_bit_for_bit(tokenizer, height, width, face, turn):
    image, alignment = portrait(height, width, face, turn)
    renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven")
    frames = renderer.render(torch.tanh(3 * torch.randn(2, 16, 10)))
    assert frames.shape == (2, height, width, 3) and frames.dtype == np.uint8
    changed = (frames != image).any(-1)
    assert changed.any((1, 2)).all()
    # Nothing beyond the mesh with its fade rings, with two pixels for interpolation.
    vertices = face_mesh.add_fade_rings(torch.from_numpy(alignment.landmarks)).numpy()
    low, high = np.floor(vertices.min(0)).astype(int) - 3, np.ceil(vertices.max(0)).astype(int) + 4
    outside = np.ones((height, width), bool)
    outside[max(0, low[1]) : high[1], max(0, low[0]) : high[0]] = False
    assert not changed[:, outside].any()


def test_a_face_that_rests_is_the_picture_itself(tokenizer, monkeypatch):
    image, alignment = portrait(300, 280)
    renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven")
    # Expression and reference's expression alike, shut lips: nothing is left to move or to paint.
    monkeypatch.setattr(tokenizer.transfer, "forward", lambda reference, *others: reference)
    frames = renderer.render(torch.zeros(1, 16, 10))
    assert (frames[0] != image).any(-1).mean() < 0.002


def test_paint_is_sharpened_as_far_as_it_is_enlarged(tokenizer):
    def colours(height):
        image, alignment = portrait(height, height, face=0.9)
        return FaceRenderer(tokenizer, image, alignment, "pose_driven", prepare=False).mouth

    strengths = [colours(height).sharpening for height in (64, 80, 90, 200, 1000)]
    assert strengths[0] == 0 < strengths[1] < strengths[2] < strengths[3] == strengths[4]
    paint = torch.full((2, 3, 16, 16), -0.5)
    paint[..., 8:] = 0.5
    sharpened = colours(200)._sharpened(paint)
    torch.testing.assert_close(sharpened[..., [0, 1, 14, 15]], paint[..., [0, 1, 14, 15]])
    step = sharpened[..., 8] - sharpened[..., 7]
    assert (step > 1.3).all() and sharpened.abs().max() <= 1


def test_large_faces_have_their_mouths_drawn_unless_they_are_to_be_painted(tokenizer, monkeypatch):
    monkeypatch.setattr("avatarsync.mouth_colours.limit_yellow", lambda paint, teeth: paint)
    # Shading, which is painted, reaches beyond the mouth.
    monkeypatch.setattr("avatarsync.visual_tokenizer_layers.MOST_SHADING", 1e-9)
    monkeypatch.setattr("avatarsync.visual_tokenizer_layers.MOST_TINT", 1e-9)
    monkeypatch.setattr(tokenizer.transfer, "forward", lambda reference, *others: opened(reference))

    def opened(reference):
        lips = [ring[i] for ring in face_mesh.LIP_RINGS for i in face_mesh.LOWER_LIP_POSITIONS]
        return reference.index_add(
            1, torch.tensor(lips), torch.tensor([0.0, 0.08]).expand(len(reference), len(lips), 2)
        )

    def frame(height, **options):
        image, alignment = portrait(height, height, face=0.9)
        image[:] = 180, 145, 125
        image[: height // 10] = 40, 60, 120  # a picture in colours
        renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven", **options)
        return renderer, renderer.render(torch.zeros(1, 16, 10))[0], alignment.landmarks

    for height, share in ((70, 0.0), (83, 0.5), (300, 1.0)):
        renderer, drawn, _ = frame(height)
        assert renderer.mouth.drawn == pytest.approx(share, abs=0.02)
        _, painted, landmarks = frame(height, only_paint=True)
        changed = np.argwhere((drawn != painted).any(-1))
        assert (len(changed) > 0) == (share > 0)
    lips = landmarks[[78, 308, 13, 14]]
    low, high = lips.min(0), lips.max(0)
    assert (changed.min(0)[::-1] >= low - 12).all() and (changed.max(0)[::-1] <= high + (12, 0.12 * 300)).all()
    # Teeth are lighter than this skin, what is behind them is far darker.
    inside = drawn[changed[:, 0], changed[:, 1]].mean(-1)
    assert inside.max() > 150 + 5 and inside.min() < 80


@torch.inference_mode()
@pytest.mark.parametrize("height", [120, 150, 600])  # painted, some of both, drawn
def test_mouths_are_laid_over_what_is_marked_as_if_colours_were_known_everywhere(tokenizer, height):
    image, alignment = portrait(height, height)
    renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven")
    decoded = renderer._decode(torch.tanh(3 * torch.randn(3, 16, 10)), None)
    lookup = renderer.lookup.places(renderer.rows, renderer.columns, None, 3)
    tongue = torch.tensor([0.0, 0.5, 1.0])
    shares = torch.zeros(2, 3, 1, *lookup.shape[1:3])
    shares[:, 0, :, 10:30, 20:50] = torch.rand(2, 1, 20, 30)
    shares[0, 2, :, 15:18, 5:9] = 1.0  # nothing in the second frame
    drawing, paint = shares * torch.tensor([renderer.mouth.drawn, 1 - renderer.mouth.drawn]).view(2, 1, 1, 1, 1)
    before = 255 * torch.rand(3, 3, *lookup.shape[1:3])
    expected = before.clone()
    if renderer.mouth.drawn < 1:
        expected += paint * (
            (renderer.mouth.painted_at(lookup, decoded.landmarks, decoded.paint) + 1) * 127.5 - before
        )
    if renderer.mouth.drawn:
        expected += drawing * ((renderer.mouth.drawn_at(lookup, decoded.landmarks, tongue) + 1) * 127.5 - before)
    pixels = before.clone()
    paint = None if renderer.mouth.drawn == 1 else paint
    renderer.mouth.lay_over(pixels, drawing, paint, lookup, decoded, tongue)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-3)
    assert torch.equal(pixels[1], before[1]) and not torch.equal(pixels[0], before[0])


def test_a_painter_that_knows_the_mouth_is_not_corrected(tokenizer, monkeypatch):
    image, alignment = portrait(70, 70, face=0.9)
    codes = torch.tanh(torch.randn(1, 16, 10, generator=torch.Generator().manual_seed(0)))

    def frames():
        return [
            FaceRenderer(tokenizer, image, alignment, "pose_driven", only_paint=known).render(codes).astype(int)
            for known in (False, True)
        ]

    before = frames()
    monkeypatch.setattr("avatarsync.mouth_colours.limit_yellow", lambda paint, teeth: torch.zeros_like(paint))
    (corrected, left) = frames()
    assert np.abs(corrected - before[0]).max() > 20 and np.array_equal(left, before[1])


def test_a_large_smile_keeps_its_own_teeth(tokenizer, monkeypatch):
    """To the pixel."""
    image, alignment = portrait(400, 400, face=0.9)
    points = alignment.landmarks
    points[[ring[i] for ring in face_mesh.LIP_RINGS for i in face_mesh.LOWER_LIP_POSITIONS], 1] += 0.07 * 400
    image[:] = 180, 145, 125
    image[:40] = 40, 60, 120  # a picture in colours
    teeth = np.array([225, 210, 185]) - 12 * (np.arange(400) // 4 % 2)[:, None]
    top, bottom = int(points[13, 1]), int(points[14, 1])
    left, right = int(points[78, 0]) - 4, int(points[308, 0]) + 5
    image[top - 8 : bottom + 9, left:right] = teeth[left:right]
    monkeypatch.setattr(tokenizer.transfer, "forward", lambda reference, *others: lowered(reference))

    def lowered(reference):
        chin = torch.tensor([*(ring[i] for ring in face_mesh.LIP_RINGS for i in face_mesh.LOWER_LIP_POSITIONS), 152])
        return reference.index_add(1, chin, torch.tensor([0.0, 0.04]).expand(len(reference), len(chin), 2))

    frame = FaceRenderer(tokenizer, image, alignment, "pose_driven").render(torch.zeros(1, 16, 10))[0]
    kept = np.s_[top + 12 : bottom - 12, (left + right) // 2 - 30 : (left + right) // 2 + 30]
    assert np.abs(frame[kept].astype(int) - image[kept]).max() <= 2
    below = frame[bottom + 5 : bottom + 9, (left + right) // 2]
    assert below.mean() < 120, "dark where the jaw went down"


def test_a_moving_head_takes_the_hair_along_and_leaves_the_corners(tokenizer, monkeypatch):
    image, alignment = portrait(400, 360, face=0.3)
    smooth = np.kron(image[::20, ::20], np.ones((20, 20, 1), np.uint8))[:400, :360]
    renderer = FaceRenderer(tokenizer, smooth, alignment, "pose_driven", moving_head=True)
    monkeypatch.setattr(tokenizer.transfer, "forward", lambda reference, *others: reference)
    codes = torch.zeros(2, 16, 10)
    poses = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.03, -0.02, 0.0, 0.0]])
    still, moved = renderer.render(codes, head_poses=poses)
    assert (still != smooth).any(-1).mean() < 0.002
    oval = alignment.landmarks[list(face_mesh.FACE_OVAL)]
    middle = np.round(oval.mean(0)).astype(int)
    unit = (alignment.landmarks[263, 0] - alignment.landmarks[33, 0]) / 0.44  # about the crop's side in pixels
    across, down = 0.03 * unit, -0.02 * unit
    top = int(oval[:, 1].min() - 0.1 * unit)  # hair
    for y, x in ((middle[1], middle[0]), (top, middle[0])):
        window = moved[y - 10 : y + 11, x - 10 : x + 11].astype(float)
        errors = {
            (dy, dx): np.abs(window - smooth[y - dy - 10 : y - dy + 11, x - dx - 10 : x - dx + 11]).mean()
            for dy in range(-9, 10)
            for dx in range(-9, 10)
        }
        best = min(errors, key=errors.get)
        assert abs(best[0] - down) < 2 and abs(best[1] - across) < 2
    for corner in (np.s_[:20, :20], np.s_[-20:, :20], np.s_[:20, -20:], np.s_[-20:, -20:]):
        assert np.array_equal(moved[corner], smooth[corner])


def test_a_roll_turns_the_head_clockwise(tokenizer, monkeypatch):
    image, alignment = portrait(400, 360, face=0.3)
    smooth = np.kron(image[::20, ::20], np.ones((20, 20, 1), np.uint8))[:400, :360]
    renderer = FaceRenderer(tokenizer, smooth, alignment, "pose_driven", moving_head=True)
    shift = 0.05 * renderer.lookup.head[2]
    nose = np.round(alignment.landmarks[1]).astype(int) - (renderer.left, renderer.top)
    # The head leans to the right of the picture: what is seen there comes from further left.
    assert shift[0, nose[1], nose[0]] < -0.02


def test_a_nod_brings_brow_and_chin_nearer_to_each_other(tokenizer):
    image, alignment = portrait(400, 360, face=0.3)
    renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven", moving_head=True)
    shift = -0.05 * renderer.lookup.head[3]
    offset = renderer.left, renderer.top
    brow, chin = (np.round(alignment.landmarks[index]).astype(int) - offset for index in (9, 152))
    places = renderer.lookup.still
    centre = 2 * renderer.head.centre[1] - 1
    for x, y in (brow, chin):
        # Pixels are fetched from further out, by the share and their distance from the middle of the face.
        assert shift[0, y, x] == 0
        assert shift[1, y, x] == pytest.approx(0.05 * (places[1, y, x].item() - centre), rel=1e-3)
    assert shift[1, brow[1], brow[0]] < 0 < shift[1, chin[1], chin[0]]


def test_motion_fades_before_the_crop_ends(tokenizer):
    image, alignment = portrait(400, 300)
    renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven")
    x, y = renderer.lookup.still
    rim = (x.abs() >= 1) | (y <= -1) | (y >= 1 + 2 * BELOW)
    assert rim.any() and not renderer.fade[0, 0][rim].any()
    assert renderer.fade.max() == 1


def test_a_dropping_jaw_takes_along_what_lies_below_the_crop(tokenizer, monkeypatch):
    image, alignment = portrait(400, 300)
    renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven")

    def dropped(reference, *others):
        return reference + 0.05 * (reference > 0.8) * torch.tensor([0.0, 1.0])

    monkeypatch.setattr(tokenizer.transfer, "forward", dropped)
    chin = alignment.landmarks[152].round().astype(int)
    crops_edge = int(renderer.to_picture[1] @ (0, renderer.size, 1))
    column = (renderer.render(torch.zeros(1, 16, 10))[0] != image).any(-1)[:, chin[0]]
    assert chin[1] + 4 < crops_edge + 10 and column[chin[1] - 10 : crops_edge + 10].mean() > 0.95
    # It fades out over the neck, without a step.
    side = renderer.size * renderer.detail
    down = renderer._decode(torch.zeros(1, 16, 10), None).flow[0, 1, :, side // 2]
    assert len(down) == (1 + BELOW) * side and down[-1] == 0
    assert down[int(0.95 * side) :].diff().abs().max() < 1


@torch.inference_mode()
@pytest.mark.parametrize("moving_head", [False, True])
def test_places_between_nodes_are_those_worked_out_for_each_pixel(tokenizer, monkeypatch, moving_head):
    image, alignment = portrait(700, 640, face=0.6, turn=0.2)
    image = np.kron(image[::10, ::10], np.ones((10, 10, 1), np.uint8))[:700, :640]
    codes = torch.tanh(torch.randn(2, 16, 10))
    poses = torch.tensor([[0.02, 0.01, 0.03, -0.02], [-0.01, 0.0, -0.02, 0.01]]) if moving_head else None

    def frames():
        renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven", moving_head)
        return renderer.step, renderer.render(codes, head_poses=poses).astype(int)

    step, drawn = frames()
    monkeypatch.setattr("avatarsync.rendering.round", lambda pixels: 1, raising=False)
    every, expected = frames()
    assert step > every == 1
    errors = np.abs(drawn - expected)
    # A cell of this tokenizer has more than four pixels, and the picture has edges as sharp as they come.
    assert errors.mean() < 0.25 and np.abs(drawn - image).mean() > 20 * errors.mean()


@pytest.mark.parametrize(("height", "step"), [(70, 1), (200, 2), (900, 8)])
def test_frames_do_not_depend_on_their_company(tokenizer, height, step):
    """Neither painted nor drawn ones, nor those of which places are known between nodes."""
    image, alignment = portrait(height, height, face=0.9)
    renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven")
    assert renderer.mouth.drawn == (height >= 200) and renderer.step == step
    codes, eyes = torch.tanh(torch.randn(5, 16, 10)), torch.linspace(0, 1, 5)
    asked = torch.linspace(1, 0, 25).view(5, 5)
    together = renderer.render(codes, eyes, articulators=asked)
    alone = [renderer.render(codes[i : i + 1], eyes[i : i + 1], articulators=asked[i : i + 1]) for i in range(5)]
    assert np.abs(together.astype(int) - np.concatenate(alone)).max() <= 1


@pytest.mark.parametrize("frames", [1, 4, 9])
def test_frames_are_decoded_so_many_at_a_time_whatever_the_batch(tokenizer, monkeypatch, frames):
    """CPUs round products of other numbers of frames otherwise, some of them only in bfloat16."""
    image, alignment = portrait(70, 70, face=0.9)
    renderer, decode, sizes = FaceRenderer(tokenizer, image, alignment, "pose_driven"), tokenizer.decode, []
    monkeypatch.setattr(tokenizer, "decode", lambda codes, *a, **k: sizes.append(len(codes)) or decode(codes, *a, **k))
    assert len(renderer.render(torch.tanh(torch.randn(frames, 16, 10)))) == frames
    assert sizes == [BATCH_MULTIPLE] * -(-frames // BATCH_MULTIPLE)


def test_rounded_lips_are_dark_inside_but_for_a_painter_that_knows_the_mouth(tokenizer, monkeypatch):
    lips = [point for ring in face_mesh.LIP_RINGS for point in ring]
    lower = [ring[i] for ring in face_mesh.LIP_RINGS for i in face_mesh.LOWER_LIP_POSITIONS]
    narrowed = [0.0]

    def opened(reference, *others):
        moved = reference.index_add(
            1, torch.tensor(lower), torch.tensor([0.0, 0.03]).expand(len(reference), len(lower), 2)
        )
        middle = moved[:, 13:14, 0]
        moved[:, lips, 0] = middle + (1 - narrowed[0]) * (moved[:, lips, 0] - middle)
        return moved

    monkeypatch.setattr(tokenizer.transfer, "forward", opened)
    image, alignment = portrait(70, 70, face=0.9)
    image = np.full_like(image, 200)
    row, column = ((alignment.landmarks[13] + alignment.landmarks[14]) / 2 + (0, 0.015 * 70)).round().astype(int)[::-1]
    seen = {}
    for only_paint in (False, True):
        renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven", only_paint=only_paint)
        for narrowed[0] in (0.0, 0.25):
            seen[only_paint, narrowed[0]] = renderer.render(torch.zeros(1, 16, 10))[0, row, column].mean()
    assert seen[False, 0.0] == seen[True, 0.0]
    assert seen[False, 0.25] < (1 - ROUNDED_DARK / 2) * seen[True, 0.25]


def test_the_tongue_is_seen_inside_the_mouths_of_large_faces_alone(tokenizer, monkeypatch):
    jaw = [ring[i] for ring in face_mesh.LIP_RINGS for i in face_mesh.LOWER_LIP_POSITIONS] + [152]

    def opened(reference, *others):
        return reference.index_add(1, torch.tensor(jaw), torch.tensor([0.0, 0.08]).expand(len(reference), len(jaw), 2))

    monkeypatch.setattr(tokenizer.transfer, "forward", opened)
    for height in (70, 300):
        image, alignment = portrait(height, height, face=0.9)
        renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven")
        asked = torch.zeros(2, 5)
        asked[1, 0] = 0.8
        low, raised = renderer.render(torch.zeros(2, 16, 10), articulators=asked)
        changed = np.argwhere((low != raised).any(-1))[:, ::-1]
        assert (len(changed) > 100) == (height == 300)
    (left, top), (right, bottom) = alignment.landmarks[[78, 308, 13]].min(0), alignment.landmarks[[78, 308, 14]].max(0)
    assert (changed >= (left - 2, top - 2)).all() and (changed <= (right + 2, bottom + 0.12 * 300)).all()


@pytest.mark.parametrize(
    "height, smile, obeyed", [(70, 0.0, [0, 0, 0, 1]), (70, 0.25, [1, 0, 1, 1]), (300, 0.0, [1, 1, 1, 1])]
)
def test_phonemes_move_the_lips_of_faces_whose_mouths_are_drawn_and_of_smiles(tokenizer, height, smile, obeyed):
    image, alignment = portrait(height, height, face=0.9)
    lips = [point for ring in face_mesh.LIP_RINGS for point in ring]
    middle = alignment.landmarks[13, 0]
    alignment.landmarks[lips, 0] = middle + (1 + smile) * (alignment.landmarks[lips, 0] - middle)
    renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven")
    assert renderer.mouth.lips.tolist() == pytest.approx(obeyed)
    asked = torch.cat([torch.zeros(4, 1), torch.eye(4)], 1)
    frames = renderer.render(torch.zeros(5, 16, 10), articulators=torch.cat([torch.zeros(1, 5), asked]))
    assert [(frame != frames[0]).any() for frame in frames[1:]] == [bool(share) for share in obeyed]
    known = FaceRenderer(tokenizer, image, alignment, "pose_driven", only_paint=True)
    assert not known.mouth.lips.any(), "an identity's own way of speaking is left to it"


def test_both_crops_draw(tokenizer):
    image, alignment = portrait(240, 240)
    for strategy in ("pose_driven", "face_centric"):
        frames = FaceRenderer(tokenizer, image, alignment, strategy).render(torch.tanh(torch.randn(1, 16, 10)))
        assert (frames[0] != image).any()


def test_a_face_cut_by_the_edge_is_drawn(tokenizer):
    image, alignment = portrait(200, 200, face=1.4)
    frames = FaceRenderer(tokenizer, image, alignment, "pose_driven").render(torch.tanh(torch.randn(1, 16, 10)))
    assert frames.shape == (1, 200, 200, 3)
