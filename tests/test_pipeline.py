"""The whole system with the bundled weights: what a user does and what can go wrong."""

import inspect
import socket
from fractions import Fraction

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage.data import astronaut, coffee
from transformers import BertConfig, BertModel, pipeline

import avatarsync
from avatarsync import AvatarSyncPipeline, Phoneme, PhonemeTrack, Speech
from avatarsync.errors import (
    AvatarSyncError,
    EmptyTextError,
    FaceNotFoundError,
    FaceTooSmallError,
    InvalidArgumentError,
    InvalidAudioError,
    InvalidFrameRateError,
    InvalidImageError,
    InvalidTrackError,
    ModelLoadError,
    MultipleFacesError,
    OutputError,
    SilentAudioError,
    UnknownLanguageError,
)
from avatarsync.image_processing_face import eye_distance, pose_driven_matrix, transform_points, warp_image
from avatarsync.rendering import FaceRenderer


@pytest.fixture(scope="module")
def talk():
    return AvatarSyncPipeline.from_pretrained()


@pytest.fixture(scope="module")
def portrait():
    """Head and shoulders, 240 × 240."""
    return np.ascontiguousarray(astronaut()[:240, 110:350])


@torch.no_grad()
def inner_gaps(talk, speech, portrait):
    """Height of the inner-lip gap that each frame is drawn with, as a share of the eye distance."""
    model, schedule = talk.model, talk.processor(speech)
    alignment = model.face_aligner.align(portrait)
    reference = FaceRenderer(model.visual_tokenizer, portrait, alignment, "pose_driven").reference
    reference = model.at_rest(reference, schedule.silent_unit)
    times = schedule.frames.times()
    codes = model.generate_codes(schedule.unit_ids, schedule.durations, schedule.keyframe_times, times, reference)
    codes = torch.cat(list(codes))
    landmarks = model.visual_tokenizer.decode(codes, reference.expand(len(codes))).landmarks.numpy()
    return times, (landmarks[:, 14, 1] - landmarks[:, 13, 1]) / eye_distance(landmarks)


def test_the_task_is_registered_and_needs_no_network(monkeypatch, portrait):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    talk = pipeline("talking-head")
    video = talk(portrait, text="Hello, it is good to see you.")
    assert isinstance(talk, AvatarSyncPipeline)
    assert video.frames.shape[1:] == (240, 240, 3) and video.frames.dtype == np.uint8
    assert video.fps == Fraction(25)
    assert abs(len(video.frames) - round(len(video.audio) / video.sampling_rate * 25)) <= 1
    assert video.track.language == "en-us"


def test_the_mouth_opens_on_vowels_and_shuts_on_closures_and_in_silence(talk, portrait):
    speech = talk.speak("Papa map. Bob, mama, mop.")
    times, gaps = inner_gaps(talk, speech, portrait)

    def at(symbols):
        return np.interp([(p.start + p.end) / 2 for p in speech.track if p.symbol in symbols], times, gaps)

    vowels, closures, silence = at({"ɑ", "æ"}), at({"m", "p", "b"}), at({"sil"})
    assert len(vowels) >= 5 and len(closures) >= 8 and len(silence) >= 3
    assert np.median(vowels) > 0.04
    assert np.median(closures) < 0.35 * np.median(vowels)
    assert np.median(silence) < 0.35 * np.median(vowels)
    # And it shows: the mouth's pixels on vowels are not those on closures.
    frames = talk(portrait, speech=speech, blink=False).frames.astype(int)
    matrix = pose_driven_matrix(talk.model.face_aligner.align(portrait).landmarks, 128)
    mouths = np.stack([warp_image(frame.astype(np.uint8), matrix, 128)[88:120, 40:88] for frame in frames])
    widest, closed = mouths[gaps.argmax()].astype(int), mouths[gaps.argmin()].astype(int)
    assert np.abs(widest - closed).mean() > 5


def test_a_video_of_a_text_begins_and_ends_at_rest(talk, portrait):
    speech = talk.speak("Are you?")
    assert [speech.track[0].symbol, speech.track[-1].symbol] == ["sil", "sil"]
    frames = talk(portrait, text="Are you?", motion="still", blink=False).frames
    spoken = [index for index in range(len(frames)) if 0.3 < index / 25 < speech.duration - 0.4]

    def change(index):
        return np.abs(frames[index].astype(int) - frames[-1]).mean()

    # A moment before it speaks, a face is about to: the first frame is less at rest than the last.
    assert change(0) < 0.3 * max(change(index) for index in spoken)
    assert change(-2) < 0.05 * max(change(index) for index in spoken)


def test_frames_outside_the_face_are_the_portrait(talk, portrait):
    video = talk(portrait, text="Oh my.", motion="still")
    box = talk.model.face_aligner.align(portrait).box
    margin = 0.35 * max(box[2:])
    outside = np.ones(portrait.shape[:2], bool)
    top, bottom = max(0, int(box[1] - margin)), int(box[1] + box[3] + margin)
    left, right = max(0, int(box[0] - margin)), int(box[0] + box[2] + margin)
    outside[top:bottom, left:right] = False
    assert outside.mean() > 0.2
    assert (video.frames[:, outside] == portrait[outside]).all()


def test_streaming_and_calling_agree_and_the_seed_decides(talk, portrait):
    speech = talk.speak("A moment, please, and then another one.")
    called = talk(portrait, speech=speech, seed=3, temperature=1.0)
    stream = talk.stream(portrait, speech=speech, seed=3, temperature=1.0)
    assert (stream.num_frames, stream.height, stream.width) == called.frames.shape[:3]
    assert all(np.array_equal(one, other) for one, other in zip(stream, called.frames, strict=True))
    other = talk(portrait, speech=speech, seed=4, temperature=1.0)
    assert not np.array_equal(other.frames, called.frames)


def test_streams_that_are_left_end(talk, portrait):
    """By themselves, too: what the interpreter finds unfinished at its own end, it ends with tracebacks."""
    streams = [talk.stream(portrait, text="Hello.") for _ in range(2)]
    generators = [stream._frames for stream in streams]
    for stream in streams:
        next(stream)
    streams[0].close()
    with pytest.raises(StopIteration):
        next(streams[0])
    del stream, streams[1]
    assert [inspect.getgeneratorstate(generator) for generator in generators] == [inspect.GEN_CLOSED] * 2


def test_an_edited_track_is_followed(talk, portrait):
    speech = talk.speak("Hello there.")
    before = talk(portrait, speech=speech)
    speech.track[3].end += 0.05
    after = talk(portrait, speech=speech)
    assert before.frames.shape == after.frames.shape
    assert not np.array_equal(before.frames, after.frames)
    assert after.track == speech.track != before.track


def test_a_recording_with_and_without_its_words(talk, portrait, tmp_path):
    talk.speak("Good morning, my friend.").save(tmp_path / "speech.wav")
    with_words = talk.listen(tmp_path / "speech.wav", transcript="Good morning, my friend.")
    without = talk.listen(tmp_path / "speech.wav")
    assert {"m", "f"} <= {p.symbol for p in with_words.track}
    assert len(without.track) > 5
    video = talk(portrait, audio=tmp_path / "speech.wav", transcript="Good morning, my friend.")
    assert video.track == with_words.track
    assert video.sampling_rate == with_words.sampling_rate


def test_mandarin(talk, portrait):
    video = talk(portrait, text="你好，很高兴见到你。", language="cmn")
    assert len(video.frames) > 25 and video.track.language == "cmn"


@pytest.mark.parametrize("fps", [10, 60, "30000/1001", 23.976])
def test_any_frame_rate(talk, portrait, fps):
    video = talk(portrait, text="Yes.", fps=fps)
    seconds = len(video.audio) / video.sampling_rate
    assert abs(len(video.frames) - round(seconds * float(video.fps))) <= 1


@pytest.mark.parametrize("kind", ["grey", "alpha", "odd", "rotated", "large", "pil"])
def test_any_portrait(talk, portrait, tmp_path, kind):
    image, size = Image.fromarray(portrait), (240, 240)
    if kind == "grey":
        image = image.convert("L")
    elif kind == "alpha":
        image = image.convert("RGBA")
    elif kind == "odd":
        image, size = image.resize((301, 303)), (303, 301)
    elif kind == "large":
        image, size = image.resize((2400, 2400), Image.Resampling.BICUBIC), (2400, 2400)
    source = tmp_path / "face.png"
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        source = tmp_path / "face.jpg"
        image.rotate(90, expand=True).save(source, exif=exif, quality=95)
    elif kind == "pil":
        source = image
    else:
        image.save(source)
    speech = Speech(PhonemeTrack([Phoneme("ɑ", 0.0, 0.12)]), np.zeros(1920, np.float32), 16000, "en-us")
    video = talk(source, speech=speech)
    assert video.frames.shape == (3, *size, 3)
    video.save(tmp_path / "out.mp4")


def test_saving_loading_and_moving(talk, portrait, tmp_path):
    talk.save_pretrained(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "processor_config.json"}
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1, "whoever may read the config may read the weights"
    if not torch.cuda.is_available():
        for device in (0, "cuda"):
            with pytest.raises(InvalidArgumentError, match="try cpu"):
                pipeline("talking-head", device=device)
    loaded = pipeline("talking-head", model=str(tmp_path / "model"))
    assert loaded.to("cpu") is loaded and loaded.device == torch.device("cpu")
    again = AvatarSyncPipeline.from_pretrained(tmp_path / "model")
    expected = talk(portrait, text="Yes.").frames.astype(int)
    for other in (loaded, again):
        assert np.abs(other(portrait, text="Yes.").frames - expected).max() <= 1


def test_a_table_of_ones_own(talk, portrait, tmp_path):
    table = talk.processor.mapping.to_dict()
    table["phonemes"]["M"], table["phonemes"]["AA"] = table["phonemes"]["AA"], table["phonemes"]["M"]
    processor = avatarsync.AvatarSyncProcessor(visual_mapping=table)
    processor.save_pretrained(tmp_path)
    assert avatarsync.AvatarSyncProcessor.from_pretrained(tmp_path).mapping.unit("m") == "AA"
    swapped = AvatarSyncPipeline(model=talk.model, processor=processor, device=torch.device("cpu"))
    assert not np.array_equal(swapped(portrait, text="Mama.").frames, talk(portrait, text="Mama.").frames)


def test_eyes_blink_only_when_asked(talk, portrait):
    speech = Speech(PhonemeTrack([Phoneme("sil", 0.0, 8.0)]), np.zeros(128000, np.float32), 16000, "en-us")
    still, blinking = (
        talk(portrait, speech=speech, fps=10, blink=blink, motion="still").frames for blink in (False, True)
    )
    matrix = pose_driven_matrix(talk.model.face_aligner.align(portrait).landmarks, 128)
    eyes = np.stack([warp_image(frame, matrix, 128)[38:58, 20:108] for frame in still]).astype(int)
    assert np.abs(np.diff(eyes, axis=0)).max() <= 3
    # A face that says nothing does not tremble either: from 2 s to 6 s it is one picture.
    assert np.abs(np.diff(still[20:60].astype(int), axis=0)).max() <= 3
    assert not np.array_equal(still, blinking)


def test_who_articulates_opens_the_mouth_farther_and_closes_it_all_the_same(talk, portrait):
    speech = talk.speak("My mother has a car.")
    matrix = pose_driven_matrix(talk.model.face_aligner.align(portrait).landmarks, 128)

    def gaps(articulation):
        frames = talk(portrait, speech=speech, articulation=articulation, motion="still", blink=False).frames
        landmarks = [talk.model.face_aligner.align(frame).landmarks for frame in frames]
        points = np.stack([transform_points(face, matrix) for face in landmarks])
        return points[:, 14, 1] - points[:, 13, 1]

    mumbled, usual, clear = (gaps(articulation) for articulation in (0.5, 1.0, 1.5))
    opened = [np.quantile(gap, 0.9) for gap in (mumbled, usual, clear)]
    assert opened[0] < 0.75 * opened[1] < 0.75 * 0.85 * opened[2]
    closed = [round(25 * (phone.start + phone.end) / 2) for phone in speech.track if phone.symbol == "m"]
    assert closed and all(clear[frame - 1 : frame + 2].min() < 0.1 * opened[2] for frame in closed)


def test_a_still_head_in_silence_rests(talk, portrait):
    """Nobody speaks, nobody blinks, nothing moves: all frames are the same, and the portrait but for lips and jaw."""
    track = PhonemeTrack([Phoneme("sil", 0.0, 1.0)], "en-us")
    silence = Speech(track, np.zeros(16000, np.float32), 16000, "en-us")
    still = talk(portrait, speech=silence, motion="still", blink=False).frames
    moving = talk(portrait, speech=silence, motion="subtle", blink=False).frames
    assert (still == still[0]).all(), "nothing moves once it rests"
    changed_rows = np.flatnonzero((still[0] != portrait).any((1, 2)))
    eyes = talk.model.face_aligner.align(portrait).landmarks[[33, 263], 1]
    assert len(changed_rows) and changed_rows.min() > eyes.max(), "a smile with teeth has closed"
    assert len(np.unique(moving.reshape(len(moving), -1), axis=0)) > len(moving) // 2
    jumps = np.abs(np.diff(moving.astype(int), axis=0)).mean((1, 2, 3))
    assert jumps.max() < 1, "the head sways, it does not jump"


def test_both_crops(talk, portrait):
    talk.model.config.crop_strategy = "face_centric"
    try:
        assert talk(portrait, text="Yes.").frames.shape[1:] == (240, 240, 3)
    finally:
        talk.model.config.crop_strategy = "pose_driven"


def with_faces(*sizes):
    """A picture with the astronaut's face pasted once per size."""
    canvas = np.full((300, 300 * len(sizes), 3), 120, np.uint8)
    face = Image.fromarray(astronaut()[:240, 110:350])
    for index, size in enumerate(sizes):
        canvas[:size, 300 * index : 300 * index + size] = np.array(face.resize((size, size)))
    return canvas


def test_the_largest_of_several_faces_or_the_one_that_is_named(talk):
    picture = with_faces(290, 170)
    video = talk(picture, text="Yes.")
    assert (video.frames[:, :, 300:] == picture[:, 300:]).all()
    second = talk(with_faces(290, 290), text="Yes.", face_index=1).frames
    first = talk(with_faces(290, 290), text="Yes.", face_index=0).frames
    assert not np.array_equal(first, second)


WRONG = {
    "no face": (FaceNotFoundError, {"image": coffee()}),
    "two faces": (MultipleFacesError, {"image": with_faces(290, 290)}),
    "no such face": (InvalidArgumentError, {"face_index": 4}),
    "box outside": (InvalidArgumentError, {"face_box": (900, 900, 50, 50)}),
    "face too small": (FaceTooSmallError, {"image": np.array(Image.fromarray(astronaut()).resize((200, 200)))}),
    "not a picture": (InvalidImageError, {"image": b"these are not the bytes of a picture"}),
    "picture too small": (InvalidImageError, {"image": np.zeros((64, 64, 3), np.uint8)}),
    "empty text": (EmptyTextError, {"text": "  "}),
    "unspeakable text": (EmptyTextError, {"text": "…!?"}),
    "unknown language": (UnknownLanguageError, {"language": "klingon"}),
    "too slow": (InvalidFrameRateError, {"fps": 5}),
    "too fast": (InvalidFrameRateError, {"fps": 120}),
    "nothing to say": (InvalidArgumentError, {"text": None}),
    "transcript of a text": (InvalidArgumentError, {"transcript": "Hello."}),
    "silence": (SilentAudioError, {"text": None, "audio": np.zeros(16000, np.float32), "sampling_rate": 16000}),
    "the bytes of a recording": (InvalidAudioError, {"text": None, "audio": bytes(100_000)}),
    "a rate in words": (
        InvalidAudioError,
        {"text": None, "audio": np.zeros(16000, np.float32), "sampling_rate": "16000"},
    ),
    "a face in words": (InvalidArgumentError, {"face_index": "left"}),
    "no number": (InvalidArgumentError, {"temperature": float("nan")}),
    "an endless number": (InvalidArgumentError, {"temperature": 10**400}),
    "no seed": (InvalidArgumentError, {"seed": -1}),
    "not a text": (InvalidArgumentError, {"text": 5}),
    "not a speech": (InvalidArgumentError, {"text": None, "speech": PhonemeTrack([Phoneme("a", 0.0, 1.0)])}),
    "not a track": (InvalidArgumentError, {"text": None, "speech": Speech([], np.zeros(16000, np.float32), 16000)}),
    "half a box": (InvalidArgumentError, {"face_box": (1, 2, 3)}),
    "track beyond its audio": (
        InvalidTrackError,
        {
            "text": None,
            "speech": Speech(PhonemeTrack([Phoneme("a", 0.0, 2.0)]), np.zeros(16000, np.float32), 16000, "en-us"),
        },
    ),
    "broken audio": (
        InvalidAudioError,
        {
            "text": None,
            "speech": Speech(PhonemeTrack([Phoneme("a", 0.0, 1.0)]), np.full(16000, np.nan, np.float32), 16000, "en"),
        },
    ),
    "samples of sixteen bits as floats": (
        InvalidAudioError,
        {"text": None, "audio": np.sin(np.arange(16000)) * 32767, "sampling_rate": 16000},
    ),
    "a numbered voice": (InvalidArgumentError, {"voice": 5}),
    "negative temperature": (InvalidArgumentError, {"temperature": -1.0}),
    "no articulation": (InvalidArgumentError, {"articulation": 0.0}),
    "articulation in words": (InvalidArgumentError, {"articulation": "clear"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_names_its_fix_before_any_frame(talk, portrait, name):
    expected, changes = WRONG[name]
    with pytest.raises(expected) as caught:
        talk.stream(**({"image": portrait, "text": "Hello."} | changes))
    assert isinstance(caught.value, AvatarSyncError)
    assert 20 < len(str(caught.value)) < 500


def test_a_truncated_recording_is_refused(talk, portrait, tmp_path):
    (tmp_path / "broken.mp3").write_bytes(b"ID3\x04\x00\x00" + bytes(200))
    with pytest.raises(InvalidAudioError):
        talk.stream(portrait, audio=tmp_path / "broken.mp3")


def test_a_track_that_overlaps_itself_is_refused(talk, portrait):
    track = PhonemeTrack([Phoneme("a", 0.0, 0.5), Phoneme("m", 0.3, 0.8)])
    with pytest.raises(InvalidTrackError):
        talk.stream(portrait, speech=Speech(track, np.zeros(16000, np.float32), 16000, "en-us"))


def test_a_track_in_milliseconds_is_told_so(talk, portrait):
    track = PhonemeTrack([Phoneme("a", 0.0, 900.0)])
    with pytest.raises(InvalidTrackError, match="not in milliseconds"):
        talk.stream(portrait, speech=Speech(track, np.zeros(16000, np.float32), 16000, "en-us"))
    with pytest.raises(InvalidTrackError, match="shorten"):
        talk.stream(portrait, speech=Speech(track, np.zeros(160000, np.float32), 16000, "en-us"))


def test_a_video_whose_rate_was_changed_is_not_rendered_again(talk, portrait):
    video = talk(portrait, text="Oh.", fps=10)
    video.fps = Fraction(30)
    with pytest.raises(InvalidArgumentError, match="made at 10 per second.* fps=30"):
        talk.rerender(video)


def test_several_portraits_one_after_the_other(talk, portrait):
    videos = talk([portrait, portrait], text="Yes.")
    assert len(videos) == 2 and np.array_equal(videos[0].frames, videos[1].frames)
    with pytest.raises(InvalidArgumentError):
        talk([portrait, portrait], text="Yes.", num_workers=2)
    with pytest.raises(InvalidImageError, match="at least one"):
        talk([], text="Yes.")


def test_what_cannot_be_uploaded_is_saved(talk, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route to the Hub\nand much more")

    monkeypatch.setattr(HfApi, "create_repo", unreachable)
    with pytest.raises(OutputError, match=r"m is saved.*\(no route to the Hub\).* hf upload me/m \S+m$"):
        talk.save_pretrained(tmp_path / "m", push_to_hub=True, repo_id="me/m")
    AvatarSyncPipeline.from_pretrained(tmp_path / "m")


def test_a_saved_pipeline_is_uploaded_in_one_commit(talk, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **o: asked.append((name, o)) or RepoUrl(f"me/{name}"))
    monkeypatch.setattr(HfApi, "upload_folder", lambda _, **options: asked.append(options))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "private.txt").write_text("not for others")
    talk.save_pretrained(tmp_path / "m", push_to_hub=True, private=True, commit_message="A model")
    (name, options), commit = asked
    assert name == "m" and options["private"] is True
    assert commit["repo_id"] == "me/m" and commit["commit_message"] == "A model"
    files = [path.name for path in (tmp_path / "m").iterdir()]
    sent = set(filter_repo_objects(files, allow_patterns=commit["allow_patterns"]))
    assert sent == {"config.json", "model.safetensors", "processor_config.json"}


def test_models_that_cannot_be_loaded_are_refused(talk, tmp_path):
    with pytest.raises(ModelLoadError):
        AvatarSyncPipeline.from_pretrained(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError):
        AvatarSyncPipeline.from_pretrained(tmp_path / "empty")
    talk.save_pretrained(tmp_path / "partial")
    weights = load_file(tmp_path / "partial" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("interpolation.")}
    save_file(kept, tmp_path / "partial" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="interpolation"):
        AvatarSyncPipeline.from_pretrained(tmp_path / "partial")
    (tmp_path / "partial" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelLoadError):
        AvatarSyncPipeline.from_pretrained(tmp_path / "partial")
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelLoadError, match="bert"):
        AvatarSyncPipeline.from_pretrained(tmp_path / "bert")
