"""From folders of videos and portraits to a dataset: real faces, real speech, the script as users call it."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import prepare_data
import pytest
import soundfile
from PIL import Image
from skimage.data import astronaut, coffee
from transcripts import track_words

from avatarsync import AvatarSyncPipeline
from avatarsync.data import dataset as data
from avatarsync.image_processing_face import eye_centres, eye_distance
from avatarsync.phonemes import PhonemeTrack, speak
from avatarsync.video import VideoWriter

SCRIPT = Path(prepare_data.__file__)
# Lips that close and open wide: the lag to the sound can be told within four seconds.
TEXT = "Pa, ma. Papa. Mama. Bob and a bomb. Above."


@dataclass
class Footage:
    """A person who speaks: frames `(T, 240, 240, 3)`, their rate, the sound and when its words are said."""

    frames: np.ndarray
    fps: int
    audio: np.ndarray
    rate: int
    track: PhonemeTrack

    def write(self, path, first=0, last=None, step=1, late=0, sound=True):
        """Part of it as a video; `late`: frames by which the picture is late."""
        path.parent.mkdir(parents=True, exist_ok=True)
        last = len(self.frames) if last is None else last
        per_frame = self.rate / self.fps
        audio = self.audio[round(first * per_frame) : round(last * per_frame)] if sound else None
        with VideoWriter(path, self.fps / step, 240, 240, audio, self.rate if sound else None) as writer:
            for index in range(first, last, step):
                writer.write(self.frames[max(index - late, 0)])
        return path


@pytest.fixture(scope="module")
def footage():
    talk = AvatarSyncPipeline.from_pretrained()
    speech = talk.speak(TEXT)
    stream = talk.stream(np.ascontiguousarray(astronaut()[:240, 110:350]), speech=speech, fps=25, seed=0)
    return Footage(np.stack(list(stream)), 25, speech.audio, speech.sampling_rate, speech.track)


@pytest.fixture(scope="module")
def four_words(footage):
    """The beginning of it."""
    end = track_words(footage.track)[3][1] + 0.2
    track = PhonemeTrack([phoneme for phoneme in footage.track if phoneme.end <= end])
    return Footage(
        footage.frames[: round(25 * end)], 25, footage.audio[: round(footage.rate * end)], footage.rate, track
    )


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """One face, one cup of coffee, one broken file."""
    folder = tmp_path_factory.mktemp("portraits")
    Image.fromarray(astronaut()[:300, 80:380]).save(folder / "eileen.png")
    Image.fromarray(coffee()[:200, :200]).save(folder / "coffee.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def prepare(capsys, *arguments):
    """Exit status, and what is printed."""
    status = prepare_data.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out if status == 0 else printed.err


def write_align(path, footage):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{round(a * 25000)} {round(b * 25000)} {word}" for a, b, word in track_words(footage.track)]
    path.write_text("\n".join(["0 1 sil", *lines]) + "\n")


def everything(folder):
    """All rows of a dataset by id, each with its split."""
    loaded = data.load(folder)
    rows = {}
    for part in (loaded.clips, loaded.portraits):
        for split, members in ({} if part is None else part).items():
            rows |= {row["id"]: (split, row) for row in members.data.table.to_pylist()}
    return rows


def test_a_corpus_from_start_to_growth(tmp_path, capsys, four_words, portraits):
    """GRID's layout and portraits by two workers; the same command again; a new video; other settings."""
    footage, corpus, out = four_words, tmp_path / "corpus", tmp_path / "out"
    footage.write(corpus / "s1" / "aaa.mp4", step=2)
    write_align(corpus / "s1" / "align" / "aaa.align", footage)
    footage.write(corpus / "s2" / "bbb.mp4", step=2)
    write_align(corpus / "align" / "s2" / "bbb.align", footage)
    command = ["--videos", corpus, "--portraits", portraits, "--layout", "grid", "--out", out, "--workers", 2,
               "--pictures_per_clip", 3, "--split", "speaker"]  # fmt: skip
    status, printed = prepare(capsys, *command)
    assert status == 0, printed
    assert "clips: 2 kept" in printed and "portraits: 1 kept (1 frames), 2 left out" in printed
    assert "- no face: 1\n  - coffee" in printed and "- unreadable: 1\n  - broken" in printed
    assert "word starts against the transcripts' times: " in printed
    assert sorted(path.name for path in out.iterdir()) == [
        "clips", "portraits", "report.json", "report.md", "schema.json",
    ]  # fmt: skip

    loaded = data.load(out)
    assert (loaded.settings["crop"], loaded.settings["landmarker"], loaded.settings["upscale"]) == (
        "pose_driven", "bundled", "none",
    )  # fmt: skip
    assert len(loaded.clips["train"]) == len(loaded.clips["test"]) == 1
    rows = data.Rows(loaded.clips["train"])
    assert rows.ids[0] == f"{rows.speakers[0]}/{'aaa' if rows.speakers[0] == 's1' else 'bbb'}"
    check_clip(rows, 0, footage)
    row = loaded.clips["train"].data.table.to_pylist()[0]
    assert (row["language"], row["frame_size"]) == ("en-us", [240, 240])
    assert row["text"].lower().split() == words(footage.track)
    assert abs(row["sync_lag"]) <= 2
    units = row["units"]
    assert (units[0]["start"], units[-1]["end"]) == (0, pytest.approx(rows.num_frames[0] / rows.fps(0)))
    assert all(before["end"] == after["start"] for before, after in zip(units, units[1:], strict=False))
    assert {"P/B/M", "SIL"} & {unit["unit"] for unit in units}

    portrait = data.Rows(loaded.portraits["train"])
    assert (portrait.ids, portrait.num_frames.tolist(), portrait.fps(0)) == (["eileen"], [1], 0.0)
    assert np.isnan(loaded.portraits["train"]["sync_lag"][0])
    assert portrait.picture(0, 0).shape == (300, 300, 3)

    before = everything(out)
    status, printed = prepare(capsys, *command)
    assert (status, "0 files labelled now" in printed) == (0, True)
    assert str(everything(out)) == str(before)

    footage.write(corpus / "s1" / "ccc.mp4", last=26, step=2)
    Image.fromarray(astronaut()[:250, 110:360]).save(portraits / "broken.jpg")  # mended
    status, printed = prepare(capsys, *command, "--workers", 1)
    assert (status, "2 files labelled now" in printed) == (0, True)
    after = everything(out)
    assert set(after) == {*before, "s1/ccc", "broken"}
    assert str({name: after[name] for name in before}) == str(before)
    assert after["s1/ccc"][0] == before["s1/aaa"][0]  # a speaker stays on one side

    status, printed = prepare(capsys, *command, "--crop_size", 64, "--max_lag", 3)
    assert status == 2
    assert "crop_size was 128, is 64; max_lag was 2, is 3" in printed and printed.count("\n") == 1
    schema = json.loads((out / "schema.json").read_text())
    (out / "schema.json").write_text(json.dumps({**schema, "schema_version": 99}))
    status, printed = prepare(capsys, *command)
    assert (status, "schema version 99" in printed) == (2, True)


def words(track):
    return [word.lower() for *_, word in track_words(track)]


def check_clip(rows, index, footage):
    """Crops show the face where the landmarks say; phonemes are where they are said."""
    landmarks = rows.landmarks(index)
    assert (rows.num_frames[index], rows.fps(index)) == (len(footage.frames[::2]), 12.5)
    right, left = eye_centres(landmarks)
    np.testing.assert_allclose((right + left) / 2, np.tile([0.5, 0.38], (len(landmarks), 1)), atol=0.02)
    assert np.abs(right[:, 1] - left[:, 1]).max() < 0.03
    # Lips are redder than the cheeks beside them, in every crop.
    for frame in (0, len(landmarks) // 2):
        crop = rows.crop(index, frame).astype(float)
        assert crop.shape == (128, 128, 3)

        def redness(point, frame=frame, crop=crop):
            x, y = np.round(landmarks[frame, point] * 128).astype(int)
            patch = crop[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))
            return patch[0] / patch.sum()

        assert redness(17) > max(redness(50), redness(280))
    # The crop is the frame seen through the matrix.
    frame = footage.frames[::2][3].astype(float)
    points = landmarks[3] * 128
    matrix = rows.matrices(index)[3]
    at = np.linalg.solve(matrix[:, :2], (points - matrix[:, 2]).T).T.round().astype(int)
    seen = rows.crop(index, 3)[points[:, 1].round().astype(int).clip(0, 127), points[:, 0].round().astype(int)]
    assert np.corrcoef(seen.ravel(), frame[at[:, 1], at[:, 0]].ravel())[0, 1] > 0.95
    assert rows.picture_landmarks(index).shape == (3, 468, 2)
    assert rows.picture(index, 2).shape == (240, 240, 3)
    assert 0.7 < np.median(rows.openness(index)) < 1.2
    found, said = rows.track(index), track_words(footage.track)
    assert words(found) == words(footage.track)
    difference = [mine[0] - theirs[0] for mine, theirs in zip(track_words(found), said, strict=True)]
    assert np.abs(difference).mean() < 0.05


def test_sound_that_drifts_is_found_and_mended(tmp_path, capsys, footage):
    videos = tmp_path / "videos"
    footage.write(videos / "good.mp4", step=2)
    footage.write(videos / "late.mp4", step=2, late=8)
    for name in ("good", "late"):
        (videos / f"{name}.txt").write_text(TEXT)
    out = tmp_path / "left_out"
    status, printed = prepare(capsys, "--videos", videos, "--out", out)
    assert status == 0, printed
    assert "- drifting sync: 1\n  - late: the picture is +" in printed
    natural = everything(out)["good"][1]["sync_lag"]
    assert set(everything(out)) == {"good"} and abs(natural) <= 2

    (videos / "good.mp4").unlink()
    out = tmp_path / "shifted"
    status, printed = prepare(capsys, "--videos", videos, "--out", out, "--sync", "shift")
    assert status == 0, printed
    late = everything(out)["late"][1]
    assert abs(late["sync_lag"] - natural - 4) <= 1
    # Its frames are now those of the clip that was in step (up to what is natural), its phonemes where they were.
    good = everything(tmp_path / "left_out")["good"][1]
    assert [p["symbol"] for p in late["phonemes"]] == [p["symbol"] for p in good["phonemes"]][: len(late["phonemes"])]
    np.testing.assert_allclose(
        [p["start"] for p in late["phonemes"]],
        [p["start"] for p in good["phonemes"]][: len(late["phonemes"])],
        atol=0.03,
    )
    shown = gaps(late)
    errors = {lag: np.abs(shown[8:40] - gaps(good)[8 + lag : 40 + lag]).mean() for lag in range(-4, 5)}
    assert abs(min(errors, key=errors.get) - natural) <= 1
    assert len(late["crops"]) == len(good["crops"]) - late["sync_lag"]


def gaps(row):
    landmarks = np.array(row["landmarks"]).reshape(-1, 468, 2)
    return np.linalg.norm(landmarks[:, 14] - landmarks[:, 13], axis=-1) / eye_distance(landmarks)


def test_chinese_with_separate_sound(tmp_path, capsys, footage):
    """CMLR's layout: sound and text have their own folders, language and first line of the text count."""
    stem = "s1/20090622/section_1_000.00_003.08"
    text = "你好，很高兴见到你。"
    speech = speak(text, "cmn")
    frames = round(len(speech.audio) / speech.sampling_rate * 25)
    frames = min(frames, len(footage.frames))
    video = footage.write(tmp_path / "video" / f"{stem}.mp4", last=frames, step=2, sound=False)
    for kind in ("audio", "text"):
        (tmp_path / kind / stem).parent.mkdir(parents=True)
    audio = speech.audio[: round(frames / 25 * speech.sampling_rate)]
    soundfile.write(tmp_path / "audio" / f"{stem}.wav", audio, speech.sampling_rate)
    (tmp_path / "text" / f"{stem}.txt").write_text(f"{text}\nsomething else\n", encoding="utf-8")
    held_out = tmp_path / "held_out.txt"
    held_out.write_text(f"{stem}\n")
    out = tmp_path / "out"
    status, printed = prepare(
        capsys, "--videos", tmp_path, "--layout", "cmlr", "--out", out, "--sync", "keep", "--held_out", held_out,
        "--crop", "face_centric", "--crop_size", 96, "--upscale", "lanczos", "--fps", 10,
    )  # fmt: skip
    assert status == 0, printed
    split, row = everything(out)[stem]
    assert (split, row["speaker"], row["language"], row["text"]) == ("test", "s1", "cmn", text)
    assert row["source"] == video.relative_to(tmp_path).as_posix()
    assert row["fps"] == 10
    assert "ɕ" in "".join(phoneme["symbol"] for phoneme in row["phonemes"])
    matrices = np.array(row["matrices"]).reshape(-1, 2, 3)
    assert np.abs(matrices[:, 0, 1]).max() < 1e-6  # upright
    landmarks = np.array(row["landmarks"]).reshape(-1, 468, 2)
    middle = (landmarks.min(1) + landmarks.max(1)) / 2
    np.testing.assert_allclose(middle, np.full_like(middle, 0.5), atol=0.06)
    assert data.Rows(data.load(out).clips["test"]).crop(0, 0).shape == (96, 96, 3)
    settings = data.load(out).settings
    assert (settings["upscale"], settings["crop"], settings["fps"]) == ("lanczos", "face_centric", 10)


def test_long_videos_become_pieces(tmp_path, capsys, footage):
    """HDTF's layout, without transcripts: phonemes are heard, and pieces cut from a longer video."""
    longer = Footage(
        np.concatenate([footage.frames, footage.frames[::-1]]),
        25,
        np.tile(footage.audio, 2),
        footage.rate,
        footage.track,
    )
    longer.frames = longer.frames[: round(len(longer.audio) / longer.rate * 25)]
    longer.write(tmp_path / "WDA_BarackObama_000.mp4", step=2)
    out = tmp_path / "out"
    status, printed = prepare(
        capsys, "--videos", tmp_path, "--layout", "hdtf", "--out", out, "--sync", "keep", "--max_seconds", 3,
    )  # fmt: skip
    assert status == 0, printed
    rows = everything(out)
    assert sorted(rows) == [f"WDA_BarackObama_000/{number:03}" for number in range(len(rows))]
    assert len(rows) >= 2
    assert len({split for split, _ in rows.values()}) == 1  # pieces of a video stay together
    assert {row["speaker"] for _, row in rows.values()} == {"WDA_BarackObama"}
    seconds = [len(row["crops"]) / row["fps"] for _, row in rows.values()]
    assert max(seconds) <= 3.01
    assert sum(seconds) == pytest.approx(len(longer.frames) / 25, abs=0.1)
    for _, row in rows.values():
        assert any(phoneme["symbol"] != "sil" for phoneme in row["phonemes"])
        assert row["phonemes"][-1]["end"] <= len(row["crops"]) / row["fps"] + 1e-6
        assert len(row["crops"]) == len(row["landmarks"]) == len(row["matrices"]) == len(row["openness"])


def join(picture, sound, target):
    """The picture of one video and the sound of another, as most programs write mp4: the index comes last."""
    with av.open(str(picture)) as first, av.open(str(sound)) as second, av.open(str(target), "w") as joined:
        streams = (first.streams.video[0], second.streams.audio[0])
        copies = [joined.add_stream_from_template(stream) for stream in streams]
        for stream, copy in zip(streams, copies, strict=True):
            for packet in stream.container.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    joined.mux(packet)


def test_videos_that_cannot_be_used_are_named(tmp_path, capsys, footage):
    videos, out = tmp_path / "videos", tmp_path / "out"
    footage.write(videos / "silent.mp4", last=30, sound=False)
    footage.write(videos / "short.mp4", last=15)
    join(footage.write(tmp_path / "a.mp4", last=40), footage.write(tmp_path / "b.mp4"), videos / "half.mp4")
    content = (videos / "half.mp4").read_bytes()
    (videos / "truncated.mp4").write_bytes(content[: len(content) // 2])
    (videos / "text.mp4").write_text("no video")
    footage.write(videos / "misread.mp4", last=25)
    (videos / "misread.align").write_text("these are no times")
    faceless = Footage(np.full_like(footage.frames, 90), 25, footage.audio, footage.rate, footage.track)
    faceless.write(videos / "faceless.mp4", step=2)
    status, printed = prepare(capsys, "--videos", videos, "--out", out)
    assert status == 2
    assert "everything was left out" in printed
    report = (out / "report.md").read_text()
    sources = json.loads((out / "report.json").read_text())["sources"]["clips"]
    reasons = {name: record["left_out"][0]["reason"] for name, record in sources.items()}
    assert reasons == {
        "silent": "no speech",
        "short": "wrong length",
        "truncated": "unreadable",
        "text": "unreadable",
        "misread": "transcript does not fit",
        "faceless": "no face",
        "half": "wrong length",
    }
    assert all(name in report for name in reasons)


def test_wrong_commands_end_in_one_line(tmp_path, capsys, portraits):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (tmp_path / "ids.txt").write_text("nobody\n")
    out = tmp_path / "out"
    for arguments, message in (
        (["--out", out], "nothing to do"),
        (["--videos", tmp_path / "empty", "--out", out], "no video in the layout flat"),
        (["--videos", tmp_path / "missing", "--out", out], "not a folder"),
        (["--portraits", tmp_path / "empty", "--out", out], "no picture"),
        (["--portraits", portraits, "--out", tmp_path / "other"], "holds other files"),
        (["--portraits", portraits, "--out", out, "--fps", "500"], "frames per second"),
        (["--portraits", portraits, "--out", out, "--language", "klingon!"], "unknown language"),
        (["--portraits", portraits, "--out", out, "--test_share", "2"], "--test_share"),
        (["--portraits", portraits, "--out", out, "--workers", "0"], "--workers"),
        (["--portraits", portraits, "--out", out, "--landmarker", tmp_path / "x.task"], "no such file"),
        (["--portraits", portraits, "--out", out, "--upscale", "gfpgan"], "lanczos"),
        (["--portraits", portraits, "--out", out, "--held_out", tmp_path / "missing.txt"], "cannot be read"),
        (["--portraits", portraits, "--out", out, "--held_out", tmp_path / "ids.txt"], "names no source"),
    ):
        status, printed = prepare(capsys, *arguments)
        assert (status, printed.count("\n")) == (2, 1), printed
        assert message in printed
        assert not out.exists()


def test_a_full_disk_loses_nothing(tmp_path, capsys, portraits):
    """The limit on the size of files stands for a full disk: small rows fit, the large one does not."""
    folder, out = tmp_path / "portraits", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(astronaut()[20:180, 140:300]).save(folder / "a_small.png")
    noisy = np.array(Image.fromarray(astronaut()[:300, 80:380]).resize((512, 512)))
    noisy[:, :40] = np.random.default_rng(0).integers(0, 255, (512, 40, 3))  # does not compress
    Image.fromarray(noisy).save(folder / "b_large.png")
    command = ["--portraits", str(folder), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    limit = 60_000
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *command],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("prepare_data: error:") and "the same command then goes on" in message
    assert "Traceback" not in done.stderr
    work = out / prepare_data.WORK / "portraits"
    assert sorted(path.suffix for path in work.iterdir()) == [".arrow", ".json"]  # the small one, nothing in halves
    status, printed = prepare(capsys, *command)
    assert (status, "1 files labelled now" in printed) == (0, True), printed
    assert set(everything(out)) == {"a_small", "b_large"}


def test_choosing_what_is_held_out():
    groups = [f"clip{index}" for index in range(200)]
    test = prepare_data.choose_test(groups, {}, 0.05, seed=0)
    assert len(test) == 10
    assert test == prepare_data.choose_test(groups[::-1], {}, 0.05, seed=0)
    assert test != prepare_data.choose_test(groups, {}, 0.05, seed=1)
    before = {group: group in test for group in groups}
    more = groups + [f"new{index}" for index in range(100)]
    grown = prepare_data.choose_test(more, before, 0.05, seed=0)
    assert grown & set(groups) == test and len(grown) == 15
    assert len(prepare_data.choose_test(groups[:3], {}, 0.05, seed=0)) == 1
    assert prepare_data.choose_test(groups[:1], {}, 0.05, seed=0) == set()
    assert prepare_data.choose_test(groups, {}, 0.0, seed=0) == set()
