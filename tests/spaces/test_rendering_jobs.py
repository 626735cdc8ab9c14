"""What the demo's buttons start, with the bundled weights."""

import io

import av
import numpy as np
import pytest
import rendering_jobs
import soundfile
import torch
from example_portraits import save_examples
from limits import MAX_FILE_BYTES, MAX_SECONDS, MAX_SIDE, LimitError
from PIL import Image
from rendering_jobs import Choices, Studio, find_adapters, sentence
from skimage.data import astronaut, coffee
from timeline import to_rows

from avatarsync import AvatarSyncPipeline, PhonemeTrack
from avatarsync.errors import (
    AdapterError,
    AvatarSyncError,
    FaceNotFoundError,
    InvalidAudioError,
    InvalidImageError,
    InvalidTrackError,
    UnknownLanguageError,
)
from avatarsync.video import PROVENANCE


@pytest.fixture(scope="module")
def studio():
    return Studio(AvatarSyncPipeline.from_pretrained())


@pytest.fixture(scope="module")
def portrait():
    return np.ascontiguousarray(astronaut()[20:180, 140:300])


def run(steps):
    """All steps; the pieces of their stream joined; the job of the last."""
    steps = list(steps)
    assert [step.job is not None for step in steps] == [False] * (len(steps) - 1) + [True]
    return steps, b"".join(step.piece[0] for step in steps[:-1]), steps[-1].job


@pytest.fixture(scope="module")
def made(studio, portrait):
    speech = studio.speak("It is good to see you again, after all these years.", "en-us", None)
    return run(studio.render(portrait, speech, Choices(fps=10, seed=2, articulation=1.25)))


def frames_of(source):
    with av.open(source) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_video_grows_piece_by_piece(made):
    steps, stream, job = made
    shares = [step.share for step in steps]
    assert shares == sorted(shares) and shares[-1] == 1
    assert sum(step.piece[1] for step in steps[:-1]) == pytest.approx(job.seconds)
    assert job.seconds == pytest.approx(job.speech.duration, abs=0.1)
    assert len(frames_of(io.BytesIO(stream))) == round(job.seconds * 10)
    assert str(round(job.seconds * 10)) in steps[-1].message
    assert job.making.options["articulation"] == 1.25


def test_what_is_saved(made, tmp_path):
    job = made[2]
    video, json, grid = job.save(tmp_path)
    assert len(frames_of(str(video))) == round(job.seconds * 10)
    with av.open(str(video)) as container:
        assert container.metadata["comment"] == PROVENANCE
    assert PhonemeTrack.load(json) == job.speech.track
    assert [p.symbol for p in PhonemeTrack.load(grid)] == [p.symbol for p in job.speech.track]


def test_an_edited_row_renders_its_seconds_and_leaves_the_others(studio, made, tmp_path):
    job = made[2]
    rows = to_rows(job.speech.track)
    rows[2][0] = "m" if rows[2][0] != "m" else "ɑ"
    steps, _, again = run(studio.render_again(job, rows))
    changed = [one != other for one, other in zip(job.segments, again.segments, strict=True)]
    assert changed[0] and not changed[-1]
    assert again.changed[0] == 0 and again.changed[1] < job.seconds
    assert again.speech.track[2].symbol == rows[2][0]
    (tmp_path / "before").mkdir()
    before, after = frames_of(str(job.save(tmp_path / "before")[0])), frames_of(str(again.save(tmp_path)[0]))
    same = [np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    first, stop = (round(edge * 10) for edge in again.changed)
    assert all(same[:first] + same[stop:]) and not all(same[first:stop])
    # And once more, from what was edited.
    rows[2][0] = job.speech.track[2].symbol
    _, _, back = run(studio.render_again(again, rows))
    assert back.speech.track == job.speech.track


def test_an_edit_that_is_not_seen_draws_nothing(studio, made):
    job = made[2]
    rows = to_rows(job.speech.track)
    rows[0][3] = "THAT"
    steps, stream, again = run(studio.render_again(job, rows))
    assert again.segments == job.segments and again.speech.track[0].word == "THAT"
    assert "Drew 0 of" in steps[-1].message and len(frames_of(io.BytesIO(stream))) == round(job.seconds * 10)


def test_an_unchanged_or_broken_table_is_refused(studio, made):
    job = made[2]
    with pytest.raises(LimitError, match="edit a row"):
        next(studio.render_again(job, to_rows(job.speech.track)))
    rows = to_rows(job.speech.track)
    rows[1][2] = "never"
    with pytest.raises(InvalidTrackError, match="Row 2"):
        next(studio.render_again(job, rows))


def test_visitors_are_told_what_the_package_warns_of(studio, portrait, made, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(studio, "warn", told.append)
    job = made[2]
    rows = to_rows(job.speech.track)
    spoken = next(number for number, row in enumerate(rows) if row[0] != "sil")
    rows[spoken][0] = "7"
    run(studio.render_again(job, rows))
    assert len(told) == 1 and told[0].startswith("No such phoneme is known as '7'") and told[0].endswith(".")
    told.clear()
    soundfile.write(tmp_path / "spoken.wav", job.speech.audio, job.speech.sampling_rate)
    studio.listen(tmp_path / "spoken.wav", "Good to see you again.", "en-us")
    assert len(told) == 1 and "where words are missing, the lips will be wrong" in told[0]
    told.clear()
    list(studio.render(portrait, studio.speak("Yes.", "en-us", None), Choices(fps=10)))
    assert told == []


def test_work_that_takes_too_long_is_stopped(studio, portrait, monkeypatch):
    monkeypatch.setattr(rendering_jobs, "TIME_LIMIT", 0)
    speech = studio.speak("Yes.", "en-us", None)
    with pytest.raises(LimitError, match="shorter"):
        list(studio.render(portrait, speech, Choices(fps=10)))


def test_recordings(studio, tmp_path):
    text = "Good morning to all of you, my friends."
    spoken = studio.speak(text, "en-us", "f3")
    spoken.save(tmp_path / "voice.wav")
    heard = studio.listen(tmp_path / "voice.wav", f" {text} ", "en-us")
    assert heard.duration == pytest.approx(spoken.duration) and {p.word for p in heard.track} >= {"good", "morning"}
    (tmp_path / "cut.wav").write_bytes((tmp_path / "voice.wav").read_bytes()[:30_000])
    (tmp_path / "text.wav").write_text("no sound")
    for name in ("cut.wav", "text.wav"):
        with pytest.raises(InvalidAudioError) as caught:
            studio.listen(tmp_path / name, "", "en-us")
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(LimitError):
        studio.listen(None, "", "en-us")


def test_a_long_recording_is_refused_before_it_is_decoded(studio, tmp_path):
    with av.open(str(tmp_path / "long.mp3"), "w") as container:
        stream = container.add_stream("mp3", rate=16000, layout="mono")
        for index in range((MAX_SECONDS + 5) * 16000 // 1152):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1152 * index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert (tmp_path / "long.mp3").stat().st_size < MAX_FILE_BYTES
    with pytest.raises(LimitError, match="seconds"):
        studio.listen(tmp_path / "long.mp3", "", "en-us")


def test_portraits(studio, tmp_path):
    large = Image.fromarray(astronaut()).resize((1500, 1500))
    large.save(tmp_path / "large.jpg")
    assert studio.read_portrait(tmp_path / "large.jpg").shape == (MAX_SIDE, MAX_SIDE, 3)
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")  # ten kilobytes
    with pytest.raises(LimitError, match="megapixels"):
        studio.read_portrait(tmp_path / "bomb.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "large.jpg").read_bytes()[:3000])
    for name in ("text.png", "cut.jpg"):
        with pytest.raises(InvalidImageError) as caught:
            studio.read_portrait(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(LimitError):
        studio.read_portrait(None)


def test_every_example_has_a_face(studio, tmp_path):
    paths = save_examples(tmp_path)
    assert len(paths) == 3
    speech = studio.speak("Yes.", "en-us", None)
    for path in paths:
        steps = studio.render(studio.read_portrait(path), speech, Choices(fps=10))
        assert next(steps).piece[1] > 0


def test_errors_are_sentences_of_the_page(studio, tmp_path):
    speech = studio.speak("Yes.", "en-us", None)
    with pytest.raises(FaceNotFoundError) as caught:
        next(studio.render(np.ascontiguousarray(coffee()[:300, :300]), speech, Choices()))
    assert "face_box" not in sentence(caught.value) and "No face" in sentence(caught.value)
    with pytest.raises(UnknownLanguageError) as caught:
        studio.speak("Yes.", "klingon", None)
    assert sentence(caught.value).startswith("Unknown") and sentence(caught.value).endswith((".", "!"))
    with pytest.raises(AvatarSyncError):
        studio.speak("…!?", "en-us", None)


def test_adapters_are_found(tmp_path):
    for name in ("anna", "ben"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    assert find_adapters(tmp_path) == {"anna": tmp_path / "anna", "ben": tmp_path / "ben"}
    assert find_adapters(tmp_path / "anna") == {"anna": tmp_path / "anna"}
    assert find_adapters(None) == find_adapters("") == {}
    for folder in (tmp_path / "missing", tmp_path / "notes"):
        with pytest.raises(AdapterError, match="holds no adapter"):
            find_adapters(folder)


def test_an_identity_speaks_and_another_edit_stays_that_identity(portrait, adapter):
    studio = Studio(AvatarSyncPipeline.from_pretrained(), {"anna": adapter})
    speech = studio.speak("Yes, it is so good.", "en-us", None)
    options = {"fps": 10, "blink": False}
    base, anna = (
        run(studio.render(portrait, speech, Choices(identity=name, **options)))[2] for name in (None, "anna")
    )
    assert base.segments != anna.segments
    run(studio.render(portrait, speech, Choices(**options)))  # somebody else, in between
    rows = to_rows(speech.track)
    rows[1][0] = "m" if rows[1][0] != "m" else "f"
    _, _, again = run(studio.render_again(anna, rows))
    rows[1][0] = speech.track[1].symbol
    _, _, back = run(studio.render_again(again, rows))
    assert again.segments != anna.segments and back.segments == anna.segments
    with pytest.raises(LimitError, match="not offered"):
        next(studio.render(portrait, speech, Choices(identity="../anna")))


def test_an_adapter_for_another_base_is_told_when_the_demo_starts(adapter):
    talk = AvatarSyncPipeline.from_pretrained()
    with torch.no_grad():
        talk.model.visual_tokenizer.painter.head.bias[0] += 1
    with pytest.raises(AdapterError, match="another base|made for the base"):
        Studio(talk, {"anna": adapter})
