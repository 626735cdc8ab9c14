"""Reenactment: landmarks that are true, backgrounds that stay, teeth of the right colour, pairs that never change."""

import pickle
import shutil

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.data import astronaut

from avatarsync import AvatarSyncPipeline, face_mesh
from avatarsync.data.dataset import Rows, load, save_splits
from avatarsync.data.expressions import Expressions
from avatarsync.data.reenactment import (
    LIP_SHADE,
    REENACTED_FEATURES,
    DriverFrames,
    ReenactedRows,
    ReenactPortraits,
    doubts,
    light_behind_lips,
    lit_like,
    reenact,
    wide_margin,
)
from avatarsync.errors import DatasetError
from avatarsync.expression_transfer import CHIN, ExpressionTransfer
from avatarsync.image_processing_face import pose_driven_matrix, transform_points, warp_image
from avatarsync.warping import mesh_flow

SIZE, MARGIN = 128, 48


@pytest.fixture(scope="module")
def transfer():
    return ExpressionTransfer()


@pytest.fixture(scope="module")
def face():
    """The astronaut's wide crop (1, 3, 224, 224) and landmarks (1, 468, 2) in fractions of the inner crop."""
    landmarks = AvatarSyncPipeline.from_pretrained().model.face_aligner.align(astronaut()).landmarks
    matrix = pose_driven_matrix(landmarks, SIZE)
    matrix[:, 2] += MARGIN
    wide = warp_image(astronaut(), matrix, SIZE + 2 * MARGIN)
    points = (transform_points(landmarks, matrix) - MARGIN) / SIZE
    return torch.from_numpy(wide).permute(2, 0, 1)[None].float(), torch.from_numpy(points)[None].float()


def expression(opening):
    """The neutral face with its lower lip lowered by `opening` of the crop's side, `(1, 468, 2)`."""
    landmarks = face_mesh.neutral_landmarks()
    landmarks[[ring[i] for ring in face_mesh.LIP_RINGS for i in face_mesh.LOWER_LIP_POSITIONS], 1] += opening
    return landmarks[None]


def gap(landmarks):
    return float(landmarks[..., 14, 1] - landmarks[..., 13, 1])


def test_what_lies_at_a_landmark_lies_there_in_the_result(face, transfer):
    """Dots painted on skin and lips are found again where the result's landmarks say.

    Small ones: the opening mouth stretches a large dot in its corner to one side.
    """
    for landmark in (17, 61, 291, 152, 50):
        dotted, (x, y) = face[0].clone(), (face[1][0, landmark] * SIZE + MARGIN).round().int().tolist()
        dotted[..., y - 1 : y + 2, x - 1 : x + 2] = torch.tensor([0.0, 255.0, 0.0])[:, None, None]
        for opening in (0.0, 0.08):
            plain, landmarks = reenact(*face, face[0], expression(opening), transfer, margin=MARGIN)
            picture, _ = reenact(dotted, face[1], face[0], expression(opening), transfer, margin=MARGIN)
            ys, xs = torch.nonzero((picture - plain).abs().amax((0, 1)) > 60).float().mean(0)
            expected = landmarks[0, landmark] * SIZE + MARGIN
            assert abs(xs - expected[0]) < 1.6 and abs(ys - expected[1]) < 1.6, landmark
        assert gap(landmarks) == pytest.approx(0.08, abs=0.01)


def test_nothing_moves_away_from_the_face(face, transfer):
    picture, _ = reenact(*face, face[0], expression(0.08), transfer, margin=MARGIN)
    assert (picture - face[0]).abs().max() > 50
    for corner in (np.s_[..., :30, :30], np.s_[..., :30, -30:], np.s_[..., -20:, :20]):
        torch.testing.assert_close(picture[corner], face[0][corner], atol=1e-3, rtol=0)


def test_a_margin_only_shows_more(face, transfer):
    inner = face[0][..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    small, landmarks = reenact(inner, face[1], inner, expression(0.08), transfer)
    wide, same = reenact(*face, face[0], expression(0.08), transfer, margin=MARGIN)
    torch.testing.assert_close(same, landmarks)
    difference = (wide[..., MARGIN:-MARGIN, MARGIN:-MARGIN] - small).abs()[..., 20:100, 20:108]
    assert difference.mean() < 0.5


def test_the_drivers_own_shape_may_differ_from_its_expression(face, transfer):
    """Another speaker's landmarks say where its mouth is, its expression where the portrait's goes."""
    other = expression(0.06) * torch.tensor([0.94, 1.02])
    wanted = expression(0.06)
    _, landmarks = reenact(*face, face[0], other, transfer, driver_expressions=wanted, margin=MARGIN)
    torch.testing.assert_close(landmarks, transfer(face[1], wanted, transfer.neutral[None]))
    assert not torch.allclose(landmarks, transfer(face[1], other, transfer.neutral[None]), atol=1e-3)


def closed(face, transfer):
    """The face with shut lips."""
    return reenact(*face, None, expression(0.0), transfer, margin=MARGIN)


def test_drawn_teeth_stay_while_the_jaw_drops(face, transfer):
    shut = closed(face, transfer)
    edges = []
    for opening in (0.09, 0.13):
        dropped = expression(opening)
        dropped[:, CHIN, 1] += opening
        picture, landmarks = reenact(*shut, None, dropped, transfer, margin=MARGIN)
        upper, lower = (landmarks[0, lip] * SIZE + MARGIN for lip in (13, 14))
        column = picture[0, :, :, int(upper[0]) + 3].mean(0)  # amid a tooth
        inside = column[int(upper[1]) + 2 : int(lower[1]) - 1]
        assert inside.max() > 2 * inside.min(), "teeth, and the dark below them"
        teeth = torch.nonzero(inside > (inside.max() + inside.min()) / 2)
        edges.append(int(upper[1]) + 2 + int(teeth[teeth < len(inside) / 2].max()))
    assert abs(edges[0] - edges[1]) <= 1, "the edge follows the skull, not the jaw"


def test_a_portrait_that_shows_its_teeth_keeps_them(face, transfer, monkeypatch):
    """Green teeth are found where they were, when the jaw drops, and nowhere else is anything green."""
    monkeypatch.setattr("avatarsync.mouth_interior.LOWER_LIGHT", 0.1)  # lower ones are drawn, and of their colour
    points = face[1] * SIZE + MARGIN
    top, bottom = (int(points[0, lip, 1]) for lip in (13, 14))
    left, right = (int(points[0, corner, 0]) for corner in (82, 312))
    _, inside = mesh_flow(points, points, face[0].shape[-1])
    # None in the rim of the lower lip, nor in the corners.
    first, last = (int(points[0, corner, 0]) for corner in (80, 310))
    teeth = torch.zeros_like(inside)
    teeth[:, :, :bottom, first:last] = inside[:, :, :bottom, first:last]
    green = torch.where(inside > 0, 40.0, face[0])
    green = torch.where(teeth > 0, torch.tensor([60.0, 255.0, 60.0])[:, None, None], green)
    picture, _ = reenact(green, face[1], None, expression(0.08), transfer, margin=MARGIN)
    seen = torch.nonzero(picture[0, 1] - picture[0, 0] > 100)
    assert len(seen) > 0.5 * (bottom - top) * (right - left)
    assert top - 2 <= seen[:, 0].min() and seen[:, 0].max() <= bottom + 1


def test_a_drivers_coloured_light_does_not_colour_the_teeth():
    mouth = torch.ones(1, 1, 8, 8)
    white, skin = torch.full((1, 3, 8, 8), 180.0), torch.tensor([[200.0, 156.0, 141.0]])
    white[..., 4:, :] = 40
    yellow = torch.tensor([1.2, 1.0, 0.6])
    plain = lit_like(white, mouth, skin, skin)
    dyed = lit_like(white * yellow[:, None, None], mouth, skin, skin * yellow)
    spread = [(teeth[0, :, 0, 0].max() - teeth[0, :, 0, 0].min()).item() for teeth in (plain, dyed)]
    assert spread[0] < 3 and spread[1] < 25  # 108 as filmed
    dark = lit_like(white, mouth, skin * 0.4, skin)
    assert dark[0, :, 0, 0].mean() > 0.7 * plain[0, :, 0, 0].mean()


def test_lips_shade_the_rim_of_a_mouth_and_all_of_one_that_is_hardly_open():
    mouth = torch.zeros(1, 1, SIZE, SIZE)
    mouth[..., 56:72, 40:88] = 1
    light = light_behind_lips(mouth, SIZE)[0, 0, :, 64]
    assert light[64] > 0.98 and light[56] < 0.75 and (light[56:64].diff() >= 0).all()
    mouth[..., 59:, :] = 0  # a slit of three pixels
    assert light_behind_lips(mouth, SIZE)[mouth > 0].max() < 1 - 0.6 * LIP_SHADE


def test_driver_frames_depend_on_seed_portrait_and_number_alone(face_dataset):
    clips = Rows(load(face_dataset).clips["train"])
    drivers = DriverFrames(clips, 7)
    first = [drivers.draw("somebody", number) for number in range(50)]
    assert first == [DriverFrames(clips, 7).draw("somebody", number) for number in range(50)]
    assert first[::-1] == [drivers.draw("somebody", number) for number in reversed(range(50))]
    assert first != [DriverFrames(clips, 8).draw("somebody", number) for number in range(50)]
    assert first != [drivers.draw("somebody else", number) for number in range(50)]
    assert all(name in clips.ids and 0 <= frame < 8 for name, frame in first)


def test_open_mouths_are_drawn_more_often(face_dataset):
    clips = Rows(load(face_dataset).clips["train"])
    drivers = DriverFrames(clips, 0)
    drawn = [drivers.draw("somebody", number) for number in range(300)]
    gaps = [gap(clips.landmarks(clips.ids.index(name))[frame]) for name, frame in drawn]
    everything = clips.all_landmarks()
    assert np.mean(gaps) > 1.2 * (everything[:, 14, 1] - everything[:, 13, 1]).mean()


@pytest.fixture(scope="module")
def made(face_dataset):
    data = load(face_dataset)
    portraits, clips = Rows(data.portraits["train"]), Rows(data.clips["train"])
    pairs = {"portrait": ["open", "blue", "open"], "driver": ["anna/1", "anna/0", "anna/0"], "driver_frame": [2, 3, 0]}
    return portraits, clips, pairs, ReenactPortraits(portraits, clips)


def test_it_is_a_transform_of_datasets(made):
    portraits, clips, pairs, transform = made
    rows = datasets.Dataset.from_dict(pairs).map(transform, batched=True, features=REENACTED_FEATURES, batch_size=2)
    assert rows.features == REENACTED_FEATURES and rows["portrait"] == pairs["portrait"]
    assert rows[0]["crop"].size == (128, 128) and rows[0]["wide"].size == (224, 224)
    reenacted = ReenactedRows(rows)
    driver = torch.from_numpy(clips.landmarks(clips.ids.index("anna/1"))[2:3].copy())
    expected = Expressions.of_rows(clips)(driver, ["anna"])
    np.testing.assert_allclose(reenacted.expression(0), expected[0], atol=1e-6)
    wide, places = reenacted.wide(0)
    margin = wide_margin(128)
    np.testing.assert_allclose(places, reenacted.landmarks(0) * 128 + margin, atol=1e-4)
    inside = wide[margin:-margin, margin:-margin].astype(float)
    assert np.abs(inside - reenacted.crop(0)).mean() < 4  # of two JPEGs
    again = pickle.loads(pickle.dumps(reenacted))
    np.testing.assert_array_equal(again.crop(2), reenacted.crop(2))
    assert gap(reenacted.landmarks(2)) < gap(portraits.landmarks(0)[0])  # an open mouth was closed


def test_the_transform_is_deterministic_and_does_not_mix_its_rows(made):
    _, _, pairs, transform = made
    together, again = transform(pairs), transform(pairs)
    assert together["crop"] == again["crop"]
    alone = transform({name: values[1:2] for name, values in pairs.items()})
    np.testing.assert_allclose(alone["landmarks"][0], together["landmarks"][1], atol=1e-6)


@pytest.mark.parametrize(("mouths", "same"), [("drawn", True), ("portraits", True), ("drivers", False)])
def test_a_mouth_that_is_not_the_drivers_shows_nothing_of_it(made, monkeypatch, mouths, same):
    """Drivers painted green make the same pictures; with their own mouths they do not."""
    portraits, clips, pairs, _ = made
    transform = ReenactPortraits(portraits, clips, mouths)
    plain = transform(pairs)
    monkeypatch.setattr(clips, "crop", lambda row, frame: np.full((128, 128, 3), (0, 255, 0), np.uint8))
    painted = transform(pairs)
    assert all((plain[name] == painted[name]) is same for name in ("crop", "wide"))
    np.testing.assert_array_equal(plain["expression"], painted["expression"])


def test_a_portraits_mouth_keeps_its_contrast():
    interior, mouth = (
        100 + 50 * torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.ones(1, 1, 8, 8),
    )
    skin = torch.tensor([[1.207, 0.941, 0.852]]) * 120
    torch.testing.assert_close(lit_like(interior, mouth, skin, skin, filmed=False), interior)
    assert lit_like(interior, mouth, skin, skin).std() > interior.std()


def test_without_a_smile_nobody_lends_a_mouth(face_dataset):
    data = load(face_dataset)
    closed = Rows(data.portraits["train"].select([1, 2]))
    with pytest.raises(DatasetError, match="no portrait smiles with open lips"):
        ReenactPortraits(closed, Rows(data.clips["train"]), "portraits")


def test_turned_and_small_faces_are_doubtful():
    neutral, matrix = face_mesh.neutral_landmarks().numpy(), np.eye(2, 3)
    assert doubts(neutral, matrix) is None
    turned = neutral.copy()
    turned[1, 0] += 0.09
    assert doubts(turned, matrix) == "turned too far"
    assert doubts(neutral, 2 * matrix) == "face too small"


def test_damaged_or_missing_reenactments_are_refused(made, face_dataset, tmp_path):
    folder = shutil.copytree(face_dataset, tmp_path / "data")
    with pytest.raises(DatasetError, match="no reenacted portraits.*reenact_portraits.py --data"):
        ReenactedRows.load(folder, "train")
    (folder / "reenacted").mkdir()
    with pytest.raises(DatasetError, match="cannot be read"):
        ReenactedRows.load(folder, "train")
    shutil.copytree(folder / "portraits", folder / "reenacted", dirs_exist_ok=True)
    with pytest.raises(DatasetError, match="columns"):
        ReenactedRows.load(folder, "train")
    rows = made[3](made[2])
    rows = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    save_splits(folder / "reenacted", {"train": rows}, REENACTED_FEATURES)
    with pytest.raises(DatasetError, match="lacks the splits"):
        ReenactedRows.load(folder, "train")
    save_splits(folder / "reenacted", {"train": rows, "test": rows[:1]}, REENACTED_FEATURES)
    assert len(ReenactedRows.load(folder, "train")) == 3 and len(ReenactedRows.load(folder, "test")) == 1


def test_a_portrait_without_its_whole_picture_is_named(face_dataset, made):
    portraits, clips, pairs, _ = made
    dataset = load(face_dataset).portraits["train"]
    bare = dataset.map(lambda row: {"pictures": [], "picture_landmarks": []}, features=dataset.features)
    with pytest.raises(DatasetError, match="open comes without its whole picture"):
        ReenactPortraits(Rows(bare), clips).wide_portrait(0)


def test_skin_gives_the_padding_no_say(face, transfer):
    """Padding a driver's crop does not change what it lends."""
    inner = face[0][..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    padded = F.pad(inner, (MARGIN,) * 4, mode="replicate")
    one, _ = reenact(*face, face[0], face[1], transfer, expression(0.08), MARGIN)
    other, _ = reenact(*face, padded, face[1], transfer, expression(0.08), MARGIN)
    torch.testing.assert_close(one, other, atol=1e-2, rtol=0)
