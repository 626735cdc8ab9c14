"""The evaluation command on videos that are made here, with the bundled face aligner in MediaPipe's place."""

import csv
import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import prepare_data
import pytest
import torch
from evaluation.clips import hold_head_still
from evaluation.landmarks import fill_lost
from evaluation.motion import Closures, flicker_with_still_lips, mouth_region
from evaluation.table import Row, closure_rows
from evaluation.tokenizer import reconstruction_gains
from PIL import Image
from skimage.data import astronaut

from avatarsync import AvatarSyncPipeline
from avatarsync.errors import FaceNotFoundError
from avatarsync.face_mesh import neutral_landmarks
from avatarsync.modeling_visual_tokenizer import Reference

SCRIPT = Path(__file__).resolve().parents[2] / "training" / "evaluate.py"


@pytest.fixture(scope="module")
def evaluate():
    # Not by its name: Hugging Face's package is called evaluate as well.
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SENTENCE = "Bob may."
    return module


@pytest.fixture(scope="module")
def talk():
    return AvatarSyncPipeline.from_pretrained()


@pytest.fixture(scope="module")
def portrait():
    return np.ascontiguousarray(astronaut()[:240, 110:350])


@pytest.fixture(scope="module")
def material(talk, portrait, tmp_path_factory):
    """One talking clip with its transcript, and a portrait."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "videos").mkdir()
    (folder / "portraits").mkdir()
    video = talk(portrait, text="Papa may buy.")
    video.frames[0] = portrait  # a reference on which nothing was drawn yet
    video.save(folder / "videos" / "clip.mp4")
    (folder / "videos" / "clip.txt").write_text("papa may buy")
    Image.fromarray(portrait).save(folder / "portraits" / "face.png")
    return folder


def test_a_model_is_measured_against_its_own_video(evaluate, material, tmp_path, capsys):
    """The clip was generated from what it is evaluated on: only coding and alignment lie between the two."""
    out = tmp_path / "out"
    arguments = ["--videos", material / "videos", "--portraits", material / "portraits", "--out", out]
    evaluate.main([str(argument) for argument in arguments])
    table = json.loads((out / "table.json").read_text())
    rows = {row["measure"]: row for row in table["rows"]}
    # The bundled aligner sees her smile where lips are all but closed: its curves are rough.
    assert 0 < rows["lip opening, Pearson r"]["value"] <= 1
    assert rows["lip opening, best lag within ±1 frame"]["value"] == 1
    # It knows no time: smoothed landmarks, held against the same goal, are its only ones.
    assert rows["lip opening, best lag within ±1 frame, smoothed"]["passed"]
    assert rows["mouth PSNR over copying, dB"]["value"] > 2
    assert rows["mouth PSNR over copying, dB"]["passed"]
    assert rows["mouth, head held still, PSNR over copying, dB"]["value"] > 1
    assert rows["sharpness against real"]["value"] == pytest.approx(1, abs=0.4)
    assert rows["pixels changed outside the face, clips"]["value"] == 0
    assert rows["pixels changed outside the face, portraits"]["value"] == 0
    assert rows["/m b p/ open ≤ 25%, clips"]["cases"] == 4
    assert rows["/m b p/ open ≤ 25%, portraits"]["cases"] == 3
    assert any("LPIPS not measured" in remark for remark in table["remarks"])
    assert any("face aligner" in remark for remark in table["remarks"])
    assert len(table["protocol"]["model"].split("sha256 ")[1]) == 64

    printed, written = capsys.readouterr().out, (out / "table.md").read_text()
    assert "lip opening, Pearson r" in printed and "| lip opening, Pearson r |" in written
    assert str(material) not in written + printed, "the protocol is to be shared: no paths of this machine"
    with open(out / "per_clip.csv", newline="") as file:
        (clip,) = csv.DictReader(file)
    assert clip["name"] == "clip" and float(clip["opening_r"]) > 0
    assert (out / "per_portrait.csv").read_text().splitlines()[1].startswith("face,")
    assert Image.open(out / "curves.png").width > 500


def test_words_may_be_left_untold(evaluate, material, tmp_path, monkeypatch):
    """Lips follow what is heard; what is said, whose closures are counted, is still the transcript's."""
    told, listen = [], AvatarSyncPipeline.listen

    def listening(self, audio, transcript=None, *options):
        told.append(transcript)
        return listen(self, audio, transcript, *options)

    monkeypatch.setattr(AvatarSyncPipeline, "listen", listening)
    evaluate.main(["--videos", str(material / "videos"), "--out", str(tmp_path / "out"), "--voice_alone"])
    assert told == ["papa may buy", None]
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    rows = {row["measure"]: row for row in table["rows"]}
    assert rows["/m b p/ open ≤ 25%, clips"]["cases"] == 4
    assert rows["mouth PSNR over copying, dB"]["value"] > 1
    assert "sound alone, the words untold" in table["protocol"]["clips"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure"),
        (["--videos", "nowhere"], "not a folder"),
        (["--portraits", "empty"], "no pictures"),
        (["--videos", "empty"], "no videos"),
        (["--videos", "silent"], "no transcript"),
        (["--videos", "videos", "--landmarker", "missing.task"], "no file missing.task"),
        (["--videos", "videos", "--lpips", "missing.onnx"], "no file missing.onnx"),
        (["--videos", "videos", "--limit", "0"], "--limit is 0"),
        (["--data", "empty"], "no schema.json"),
    ],
)
def test_bad_input_is_told_before_anything_is_generated(
    evaluate, material, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "silent").mkdir()
    shutil.copytree(material / "videos", tmp_path / "videos")
    shutil.copy(material / "videos" / "clip.mp4", tmp_path / "silent" / "clip.mp4")
    monkeypatch.setattr(evaluate, "start_process", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(SystemExit) as exit_status:
        evaluate.main([*arguments, "--out", "out"])
    assert exit_status.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_clips_that_cannot_be_measured_are_listed_and_alone_are_an_error(evaluate, material, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "broken.txt").write_text("bob")
    with pytest.raises(SystemExit):
        evaluate.main(["--videos", str(folder), "--out", str(tmp_path / "out")])
    assert "broken.mp4 cannot be read" in capsys.readouterr().err


def test_lost_frames_lie_between_their_neighbours():
    found = [np.full((468, 2), float(value)) for value in range(20)]
    found[7] = found[19] = None
    track = fill_lost(found)
    np.testing.assert_allclose(track[:, 0, 0], [*range(19), 18])
    found[3] = None
    with pytest.raises(FaceNotFoundError, match="17 of 20"):
        fill_lost(found)


def test_flicker_counts_where_lips_and_chin_stand_still():
    landmarks = np.repeat(neutral_landmarks().double().numpy()[None] * 128, 9, 0)
    landmarks[5:, 17, 1] += 3  # the lower lip drops, its inner rim stays
    frames = np.full((9, 128, 128, 3), 100, np.uint8)
    frames[2] += 1  # everything flashes by a grey level
    frames[5:, 90:] += 50
    flicker = flicker_with_still_lips(frames, landmarks)
    np.testing.assert_allclose(flicker.still_mouth, [1, 4, 1, 0, 0])
    assert len(flicker.still_gap) == 7 and flicker.still_gap.max() > 100
    assert mouth_region(landmarks, 128, 128)[0] > landmarks[:, 1, 1].max(), "the mouth's box lies below the nose"


def test_a_moving_head_is_held_still():
    """A picture that only shifts: afterwards all frames are the first, and so are the landmarks."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    picture = np.array(Image.fromarray(pixels).resize((160, 160), Image.Resampling.BICUBIC))
    shifts = np.array([0, 0, 0, 0, 2, 5, 5, 5, 5, 5])
    frames = np.stack([np.roll(picture, shift, axis=1) for shift in shifts])
    neutral = neutral_landmarks().double().numpy() * 128 + 16
    landmarks = neutral + np.stack([shifts, 0 * shifts], 1)[:, None]
    held, points = hold_head_still(frames, landmarks)
    settled = [0, 1, 8, 9]  # away from the step, which the matrices' smoothing blurs
    inner = (slice(None), slice(20, 140), slice(20, 140))
    assert np.abs(held[settled][inner].astype(int) - picture[None][inner]).max() <= 1
    np.testing.assert_allclose(points[settled], np.broadcast_to(neutral, (4, 468, 2)), atol=1e-2)


def test_verdicts_of_rows():
    assert Row("a", 0.8, goal=0.75).passed and not Row("a", 0.7, goal=0.75).passed
    assert Row("a", 0.7, goal=0.75, at_most=True).passed and Row("a", 0.7).passed is None
    assert not Row("a", float("nan"), goal=0.0).passed
    closures = Closures(np.array([0.1, 0.2, 0.3, 0.25]), np.array([]))
    (row,) = closure_rows("here", [closures], [closures])
    assert row.value == 0.75 and not row.passed and row.cases == 4


class Blurring(torch.nn.Module):
    """A tokenizer whose reconstruction is off by 4 grey levels, and by 1 at the true landmarks."""

    def prepare_reference(self, pixels, landmarks):
        return Reference(pixels, landmarks, pixels, landmarks, pixels[:, :1])

    def encode(self, pixels, reference_pixels):
        assert pixels.shape == reference_pixels.shape and not torch.equal(pixels, reference_pixels)
        return pixels

    def quantize(self, continuous):
        return SimpleNamespace(codes=continuous)

    def decode(self, codes, reference):
        return SimpleNamespace(pixels=codes + 4 / 127.5)

    def paint(self, codes, reference, landmarks):
        return SimpleNamespace(pixels=codes + 1 / 127.5)


def test_the_tokenizers_gain_is_over_copying_the_reference():
    landmarks = neutral_landmarks()
    reference = torch.full((3, 128, 128), 100.0)
    pictures = torch.full((2, 3, 128, 128), 140.0)
    gains = reconstruction_gains(Blurring(), iter([(reference, landmarks, pictures, landmarks.expand(2, -1, -1))]))
    np.testing.assert_allclose(gains, [[20, 20 * np.log10(40)]], atol=1e-4)


def test_the_tokenizer_is_measured_on_a_datasets_held_out_part(evaluate, material, tmp_path):
    data = tmp_path / "data"
    (tmp_path / "held_out.txt").write_text("clip\nface\n")
    arguments = ["--videos", material / "videos", "--portraits", material / "portraits", "--out", data]
    prepare_data.main([str(one) for one in [*arguments, "--held_out", tmp_path / "held_out.txt", "--sync", "keep"]])
    evaluate.main(["--data", str(data), "--out", str(tmp_path / "out")])
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["goal"] for row in table["rows"]] == [7, 4]
    assert [row["cases"] for row in table["rows"]] == [1, 1]
    speaker, unseen = ((row["value"], float(row["beside"].split()[-1])) for row in table["rows"])
    assert min(*speaker, *unseen) > 0
    assert unseen[1] > unseen[0], "true landmarks help the painter on faces whose expression is not their own"
    assert "clips" not in table["protocol"] and "tokenizer" in table["protocol"]
