"""The face aligner's training: batches whose labels lie where the pixels say, all heads, exact resume, measures."""

import json
import shutil

import numpy as np
import pytest
import reenact_portraits
import torch
import train_face_aligner
from face_aligner_data import DetectorBatches, FacePictures, LandmarkBatches, LipBatches
from face_aligner_metrics import HeldOut
from face_augmentation import beside_the_face, photograph, similarity, warp_picture
from PIL import Image
from safetensors.torch import load_file
from training_utils import complete_checkpoints

from avatarsync import AvatarSyncPipeline, FaceAlignerModel, face_mesh
from avatarsync.data.dataset import load, save_splits
from avatarsync.errors import DatasetError, InvalidArgumentError
from avatarsync.image_processing_face import warp_image
from avatarsync.mirrored_landmarks import MIRRORED

LOOP = ["--max_train_steps", "4", "--batch_size", "3", "--log_steps", "1", "--eval_steps", "4",
        "--checkpoint_steps", "2", "--warmup_steps", "1", "--mixed_precision", "no"]  # fmt: skip
SIZES = ["--config", "detector_width=4", "landmark_width=4", "lip_width=4", "detector_size=64", "landmark_size=64",
         "lip_size=32"]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps its state for the life of a process; every run here is one of its own."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def data(face_dataset, tmp_path_factory):
    folder = shutil.copytree(face_dataset, tmp_path_factory.mktemp("aligner") / "data")
    reenact_portraits.main(["--data", str(folder), "--per_portrait", "2"])
    return folder


@pytest.fixture(scope="module")
def pictures(data):
    return FacePictures(load(data), data, "train")


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundled")
    AvatarSyncPipeline.from_pretrained().model.face_aligner.save_pretrained(folder)
    return folder


def train(data, out, head, *options):
    train_face_aligner.main(["--data", str(data), "--out", str(out), "--head", head, *LOOP, *SIZES, *options])


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "detector"
    train(data, out, "detector")
    return out


@pytest.fixture(scope="module")
def landmarks(data, detector, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "landmarks"
    train(data, out, "landmarks", "--init_from", str(detector))
    return out


@pytest.fixture(scope="module")
def lips(data, landmarks, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "lips"
    train(data, out, "lips", "--init_from", str(landmarks))
    return out


# Pictures and batches ----------------------------------------------------------------------------------------------


def test_pictures_of_all_kinds_are_found(pictures):
    assert pictures.counts == {"portraits": 4, "clips": 4, "reenacted": 6}
    for kind, shape in (("portraits", (256, 256, 3)), ("clips", (256, 256, 3)), ("reenacted", (224, 224, 3))):
        picture, landmarks = pictures.get(kind, 1)
        assert picture.shape == shape and picture.dtype == np.uint8 and landmarks.shape == (468, 2)
        assert landmarks.min() > 0 and landmarks.max() < shape[0]


def test_kinds_come_in_their_shares(pictures, monkeypatch):
    drawn = []
    monkeypatch.setattr(FacePictures, "get", lambda self, kind, index: drawn.append(kind))
    random = np.random.default_rng(0)
    for _ in range(1000):
        pictures.draw(random)
    assert drawn.count("reenacted") == pytest.approx(250, abs=50)
    drawn.clear()
    for _ in range(300):
        pictures.draw(random, ("portraits", "clips"))
    assert set(drawn) == {"portraits", "clips"}


@pytest.mark.parametrize(("kind", "size"), [(LandmarkBatches, 128), (DetectorBatches, 96)])
def test_batches_are_determined_by_their_number(pictures, kind, size):
    first, again = kind(pictures, 4, size, seed=3), kind(pictures, 4, size, seed=3)
    later = again[8]
    assert all(torch.equal(later[name], value) for name, value in first[8].items())
    name = next(name for name in later if name.endswith("pixels"))
    assert not torch.equal(first[9][name], later[name])
    assert not torch.equal(kind(pictures, 4, size, seed=4)[8][name], later[name])
    assert later[name].shape == (4, 3, size, size) and later[name].abs().max() <= 1


def dotted_pictures(pictures, monkeypatch):
    """Every picture black, but for a red dot on the right eye, a green one on the left, a blue one on the nose."""
    whole = FacePictures.get

    def get(self, kind, index):
        picture, landmarks = whole(self, kind, index)
        picture = np.zeros_like(picture)
        places = [landmarks[[33, 133]].mean(0), landmarks[[362, 263]].mean(0), landmarks[2]]
        for channel, (x, y) in enumerate(np.round(places).astype(int)):
            picture[y - 3 : y + 4, x - 3 : x + 4, channel] = 255
        return picture, landmarks

    monkeypatch.setattr(FacePictures, "get", get)
    return pictures


def centre(channel):
    ys, xs = torch.nonzero(channel > 60).float().mean(0)
    return np.array([xs, ys])


def test_landmark_labels_lie_where_the_crop_shows_them(pictures, monkeypatch):
    batches = LandmarkBatches(dotted_pictures(pictures, monkeypatch), 1, 128, 0)
    mirrored, angles = 0, []
    for seed in range(40):
        random = np.random.default_rng(seed)
        crop, labels = batches.crop(*pictures.draw(random), random)
        right, left = labels[[33, 133]].mean(0), labels[[362, 263]].mean(0)
        # A mirrored face's right eye is what was its left one.
        flipped = np.linalg.norm(centre(crop[0]) - right) > np.linalg.norm(centre(crop[0]) - left)
        mirrored += flipped
        for channel, place in ((0, left if flipped else right), (1, right if flipped else left), (2, labels[2])):
            if place.min() > 8 and place.max() < 120:
                assert np.abs(centre(crop[channel]) - place).max() < 1.5
        assert right[0] < left[0] or abs(right[1] - left[1]) > 10  # upright: right is on the left of the picture
        angles.append(np.arctan2(*(left - right)[::-1]))
    assert 10 < mirrored < 30 and np.abs(angles).max() > np.radians(40)


def test_detector_labels_lie_where_the_picture_shows_them(pictures, monkeypatch):
    batches = DetectorBatches(dotted_pictures(pictures, monkeypatch), 1, 192, 0)
    mirrored = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        canvas, box, keypoints = batches.place_face(torch.zeros(3, 192, 192), random)
        if min(box[2:]) < 40 or keypoints.min() < 5 or keypoints.max() > 186:
            continue
        flipped = np.linalg.norm(centre(canvas[0]) - keypoints[0]) > np.linalg.norm(centre(canvas[0]) - keypoints[1])
        mirrored += flipped
        for channel, order in ((0, int(flipped)), (1, int(not flipped)), (2, 2)):
            assert np.abs(centre(canvas[channel]) - keypoints[order]).max() < 2
        assert (keypoints > box[:2]).all() and (keypoints < box[:2] + box[2:]).all()
    assert mirrored > 3


def test_faces_beside_each_other_do_not_touch(pictures):
    batch = DetectorBatches(pictures, 24, 96, 1)[0]
    several = 0
    for boxes in batch["face_boxes"].numpy():
        boxes = boxes[boxes[:, 2] > 0]
        several += len(boxes) > 1
        for index, one in enumerate(boxes):
            for other in boxes[:index]:
                gap = np.abs(one[:2] + one[2:] / 2 - other[:2] - other[2:] / 2) - (one[2:] + other[2:]) / 2
                assert gap.max() > 0
    assert several and (batch["face_boxes"][:, 0, 2] == 0).any()  # and some pictures are empty


def test_mirroring_pairs_the_points_of_the_two_halves():
    partner = np.array(MIRRORED)
    assert (partner[partner] == np.arange(468)).all() and (partner == np.arange(468)).sum() == 28
    right, left = np.array(face_mesh.RIGHT_EYE_CONTOUR), np.array(face_mesh.LEFT_EYE_CONTOUR)
    assert (partner[right] == left).all()
    for ring in face_mesh.LIP_RINGS:
        assert (partner[list(ring[1:10])] == ring[9:0:-1]).all() and partner[ring[0]] == ring[10]
    neutral = face_mesh.neutral_landmarks().numpy()
    mirrored = (neutral * (-1, 1) + (2 * neutral[1, 0], 0))[partner]
    assert np.linalg.norm(mirrored - neutral, axis=-1).max() < 0.1


def test_warping_agrees_with_the_packages_own(pictures):
    picture, _ = pictures.get("portraits", 0)
    for scale, tolerance in ((1.3, 3), (0.45, 4)):
        linear = similarity(0.3, scale, False)
        matrix = np.concatenate([linear, np.array([[40.0], [-30.0]]) * scale], 1).astype(np.float32)
        square, inside = warp_picture(picture, matrix, 96)
        expected = torch.from_numpy(warp_image(picture, matrix, 96)).permute(2, 0, 1)
        assert (square - expected)[:, inside].abs().mean() < tolerance
        assert inside.any() and not inside.all()


def test_the_picture_beside_a_face_has_none_of_it(pictures):
    picture, landmarks = pictures.get("portraits", 0)
    picture = picture.copy()
    low, high = landmarks.min(0).astype(int), landmarks.max(0).astype(int)
    picture[low[1] : high[1], low[0] : high[0]] = (1, 2, 3)
    for seed in range(20):
        band = beside_the_face(picture, landmarks, np.random.default_rng(seed))
        assert min(band.shape[:2]) >= 12 and not (band == (1, 2, 3)).all(-1).any()
    assert (
        beside_the_face(picture[low[1] : high[1], low[0] : high[0]], landmarks - low, np.random.default_rng(0)) is None
    )


def test_photographs_stay_in_range_and_keep_the_place():
    pixels = torch.zeros(16, 3, 64, 64)
    pixels[..., 20:30, 40:50] = 200
    made = photograph(pixels, np.random.default_rng(0), torch.Generator().manual_seed(0))
    assert made.min() >= -1 and made.max() <= 1
    inside, outside = made[..., 22:28, 42:48].mean((1, 2, 3)), made[..., 40:, :20].mean((1, 2, 3))
    assert (inside - outside > 0.2).float().mean() > 0.8


def test_lip_labels_lie_on_the_lips(pictures):
    batch = LipBatches(pictures, 12, 96, seed=0)[0]
    assert batch["lip_pixels"].shape == (12, 3, 96, 96) and batch["lip_labels"].shape == (12, 80, 2)
    rings = batch["lip_labels"].unflatten(1, (4, 20))
    width = (rings[:, 0, 10] - rings[:, 0, 0]).norm(dim=-1)
    assert ((width > 35) & (width < 85)).all()
    # Mirrored or not, right corners are on the left and lower lips below.
    assert (rings[:, 0, 0, 0] < rings[:, 0, 10, 0]).all() and (rings[:, 0, 5, 1] > rings[:, 0, 15, 1]).all()
    centre = rings[:, 0].mean(1)
    assert ((centre - 47.5).abs() < 15).all()


def test_a_covered_mouth_is_no_longer_seen(pictures):
    batches = LipBatches(pictures, 4, 96, seed=0)
    random = np.random.default_rng(0)
    for _ in range(20):
        picture, landmarks = pictures.draw(random)
        crop, lips = batches.crop(picture, landmarks, random)
        before = crop.clone()
        batches.cover(crop, lips, random)
        (left, top), (right, bottom) = lips.min(0).astype(int), np.ceil(lips.max(0)).astype(int)
        changed = (crop != before).any(0)[max(top, 0) : bottom, max(left, 0) : right]
        assert changed.float().mean() > 0.35


# Runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["detector", "landmarks", "lips"])
def test_a_head_is_trained_and_the_others_left_alone(head, detector, landmarks, lips, tmp_path, data):
    if head == "detector":
        train(data, tmp_path / "one", "detector", "--max_train_steps", "1")
        before, after = load_file(tmp_path / "one" / "model.safetensors"), load_file(detector / "model.safetensors")
        changed = "detector."
    elif head == "landmarks":
        before, after = load_file(detector / "model.safetensors"), load_file(landmarks / "model.safetensors")
        changed = "landmarker."
    else:
        before, after = load_file(landmarks / "model.safetensors"), load_file(lips / "model.safetensors")
        changed = "lips."
    for name, value in after.items():
        if not name.startswith(changed):
            assert torch.equal(value, before[name]), name
    moved = [name for name in after if name.startswith(changed) and not torch.equal(after[name], before[name])]
    assert len(moved) > 0.9 * len([name for name in after if name.startswith(changed)])


@pytest.mark.parametrize("head", ["detector", "landmarks"])
def test_two_steps_resume_two_steps_are_four_steps_bit_for_bit(head, data, detector, landmarks, tmp_path):
    whole, options = (detector, []) if head == "detector" else (landmarks, ["--init_from", str(detector)])
    out = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(out / "checkpoints" / "checkpoint-000004")
    (out / "model.safetensors").unlink()
    train(data, out, head, "--resume", "latest", *options)
    for name in ("model.safetensors", "checkpoints/checkpoint-000004/model.safetensors"):
        one, other = load_file(out / name), load_file(whole / name)
        assert all(torch.equal(one[key], other[key]) for key in other), name


def test_a_run_leaves_measures_sheet_and_card(landmarks):
    assert len(complete_checkpoints(landmarks)) == 2
    assert FaceAlignerModel.from_pretrained(landmarks).config.landmark_size == 64
    entries = [json.loads(line) for line in (landmarks / "history.jsonl").read_text().splitlines()]
    last = {name for entry in entries for name in entry}
    assert {"landmark_loss", "presence_loss", "held_out/portraits_found", "held_out/reenacted_found",
            "held_out/false_alarms"} <= last  # fmt: skip
    assert Image.open(landmarks / "samples" / "step-000004.png").size == (1600, 200)
    assert (
        "landmarks head, on whole pictures: 4 of portraits, 4 of clips, 6 of reenacted"
        in (landmarks / "README.md").read_text()
    )


def test_a_few_steps_at_one_picture_lower_the_loss(data, tmp_path, monkeypatch):
    """Training trains: the same batch over and over is learned."""
    first = LandmarkBatches.__getitem__
    monkeypatch.setattr(LandmarkBatches, "__getitem__", lambda self, index: first(self, 0))
    train(data, tmp_path / "run", "landmarks", "--max_train_steps", "16", "--warmup_steps", "0", "--log_steps", "1",
          "--eval_steps", "100", "--checkpoint_steps", "100")  # fmt: skip
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    losses = [entry["landmark_loss"] for entry in map(json.loads, lines) if "landmark_loss" in entry]
    assert losses[-1] < 0.95 * losses[0]


def test_the_bundled_aligner_is_measured(data, bundled, tmp_path, capsys):
    for head, error, limit in (("landmarks", "portraits_error_all", 6), ("detector", "portraits_error_keypoints", 25)):
        out = tmp_path / head
        train(data, out, head, "--measure", "--init_from", str(bundled))
        figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert figures["portraits_found"] == 1 and figures["clips_found"] == 1
        assert 0 < figures[error] < limit and figures["milliseconds"] > 0
        assert Image.open(out / "held_out.png").size[0] == 1600
        assert not (out / "config.json").exists()
    assert figures.keys().isdisjoint({"reenacted_found"})


def test_what_is_not_found_counts_and_is_drawn(data):
    pictures = FacePictures(load(data), data, "test")
    held_out = HeldOut(pictures, "landmarks")
    blind = AvatarSyncPipeline.from_pretrained().model.face_aligner
    with torch.no_grad():
        blind.detector.head.bias[0] = -100.0
    figures = held_out.evaluate(blind)
    assert figures["portraits_found"] == 0 and figures["false_alarms"] == 0
    assert "portraits_error_all" not in figures
    assert held_out.sheet(blind).shape == (200, 1600, 3)


def test_bad_input_is_refused(data, face_dataset, tmp_path):
    with pytest.raises(DatasetError, match="prepare_data"):
        train(tmp_path, tmp_path / "run", "detector")
    with pytest.raises(InvalidArgumentError, match="--init_from"):
        train(data, tmp_path / "run", "detector", "--measure")
    bare = shutil.copytree(face_dataset, tmp_path / "bare")
    for part in ("clips", "portraits"):
        rows = {name: [row | {"pictures": [], "picture_landmarks": [], "crops": [], "landmarks": []} for row in
                       split.remove_columns(["crops", "pictures", "landmarks", "picture_landmarks"])]
                for name, split in getattr(load(face_dataset), part).items()}  # fmt: skip
        save_splits(bare / part, rows)
    with pytest.raises(DatasetError, match="no whole picture.*pictures_per_clip"):
        train(bare, tmp_path / "run", "detector")
