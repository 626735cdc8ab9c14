"""Rendering again after an edit: the same as rendering everything, for the price of what changed."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from skimage.data import astronaut

from avatarsync import AvatarSyncModel, AvatarSyncPipeline, Phoneme, PhonemeTrack, Speech, TalkingHeadVideo
from avatarsync.errors import InvalidArgumentError, InvalidTrackError
from avatarsync.rendering import FaceRenderer

TEXT = "It is good to see you again, my friend."


@pytest.fixture(scope="module")
def talk():
    return AvatarSyncPipeline.from_pretrained()


@pytest.fixture(scope="module")
def portrait():
    """Head and shoulders, 160 × 160."""
    return np.ascontiguousarray(astronaut()[20:180, 140:300])


@pytest.fixture(scope="module")
def video(talk, portrait):
    return talk(portrait, text=TEXT, seed=4)


@pytest.fixture
def drawn(monkeypatch):
    """Numbers of frames that were drawn, batch after batch; the drawing itself stays as it is."""
    counts = []
    render = FaceRenderer.render

    def counting(self, codes, *args, **kwargs):
        counts.append(len(codes))
        return render(self, codes, *args, **kwargs)

    monkeypatch.setattr(FaceRenderer, "render", counting)
    return counts


def longer(track):
    """A phoneme in the middle takes 40 ms from the next."""
    track[len(track) // 2].end += 0.04


def other_sound(track):
    middle = len(track) // 2
    track[middle].symbol = "m" if track[middle].symbol not in ("m", "p", "b") else "ɑ"


def missing(track):
    del track[len(track) // 2]


def speech_of(video, track):
    return Speech(track, video.audio, video.sampling_rate, track.language)


def test_a_large_face_is_the_same_as_rendering_everything_with_its_tongue(talk, portrait):
    large = portrait.repeat(3, 0).repeat(3, 1)
    video = talk(large, text="Little lads like all the land.", seed=4, fps=12)
    track = copy.deepcopy(video.track)
    other_sound(track)
    again = talk.rerender(video, track)
    everything = talk(large, speech=speech_of(video, track), seed=4, fps=12)
    changed = talk.changed_frames(video.making, speech_of(video, track))
    assert 0 < len(changed) < len(video.frames)
    assert np.array_equal(again.frames, everything.frames)


@pytest.mark.parametrize(
    "edit, motion", [(longer, "subtle"), (other_sound, "subtle"), (missing, "subtle"), (longer, "still")]
)
def test_only_the_changed_span_is_drawn_and_equals_rendering_everything(talk, portrait, drawn, edit, motion):
    options = {"seed": 4, "motion": motion, "fps": 12}
    video = talk(portrait, text=TEXT, **options)
    track = copy.deepcopy(video.track)
    edit(track)
    assert track != video.track
    drawn.clear()
    again = talk.rerender(video, track)
    changed = talk.changed_frames(video.making, speech_of(video, track))
    assert sum(drawn) == len(changed) < 0.75 * len(video.frames)
    untouched = np.setdiff1d(np.arange(len(video.frames)), changed)
    assert np.array_equal(again.frames[untouched], video.frames[untouched])
    assert not np.array_equal(again.frames, video.frames)
    whole = talk(portrait, speech=speech_of(video, track), **options)
    # Batches of other sizes may round a number differently: a grey level here and there at most.
    difference = np.abs(whole.frames.astype(int) - again.frames)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-5
    assert again.track == track and again.fps == video.fps


def test_a_video_is_rendered_again_and_again(talk, video, drawn):
    track = copy.deepcopy(video.track)
    longer(track)
    edited = talk.rerender(video, track)
    back = talk.rerender(edited, video.track)
    assert np.abs(back.frames.astype(int) - video.frames).max() <= 1
    assert not np.array_equal(edited.frames, back.frames)


def test_a_track_edited_in_place_counts_as_edited(talk, video, drawn):
    mine = copy.deepcopy(video)
    other_sound(mine.track)
    assert not np.array_equal(talk.rerender(mine).frames, mine.frames)


def test_nothing_is_drawn_where_nothing_changed(talk, video, drawn):
    track = copy.deepcopy(video.track)
    for phoneme in track:
        phoneme.word = None  # words are not seen
    again = talk.rerender(video, track)
    assert drawn == []
    assert np.array_equal(again.frames, video.frames) and again.frames is not video.frames


def test_sampled_keyframes_keep_their_noise(talk, portrait, drawn):
    options = {"seed": 1, "temperature": 1.0}
    video = talk(portrait, text="Good to see you, my dear old friend.", **options)
    track = copy.deepcopy(video.track)
    longer(track)
    drawn.clear()
    again = talk.rerender(video, track)
    assert sum(drawn) < len(video.frames)
    whole = talk(portrait, speech=speech_of(video, track), **options)
    assert np.abs(whole.frames.astype(int) - again.frames).max() <= 1


def test_a_model_of_unbounded_attention_renders_everything_again(talk, portrait):
    config = copy.deepcopy(talk.model.config)
    config.keyframe_generator_config.attention_mode = "full"
    model = AvatarSyncModel(config)
    model.load_state_dict(talk.model.state_dict())
    unbounded = AvatarSyncPipeline(model, talk.processor)
    video = unbounded(portrait, text="Yes.")
    track = copy.deepcopy(video.track)
    longer(track)
    assert len(unbounded.changed_frames(video.making, speech_of(video, track))) == len(video.frames)
    assert len(unbounded.changed_frames(video.making, speech_of(video, video.track))) == 0
    with pytest.raises(InvalidArgumentError, match="bounded"):
        unbounded.stream(portrait, text="Yes.", attention_window=(0, 0))


def test_the_attention_window_narrows_what_an_edit_reaches(talk, portrait):
    # The head's motion would reach further than any window.
    wide = talk(portrait, text=TEXT, seed=4, motion="still")
    narrow = talk(portrait, text=TEXT, seed=4, motion="still", attention_window=(0, 0))
    assert not np.array_equal(narrow.frames, wide.frames)
    assert talk.model.keyframe_generator.reach != (0, 0)  # the model itself is as it was
    track = copy.deepcopy(narrow.track)
    other_sound(track)
    speech = speech_of(narrow, track)
    assert len(talk.changed_frames(narrow.making, speech)) < len(talk.changed_frames(wide.making, speech))


@pytest.mark.parametrize("window", [(-1, 0), (0, 99), (1,), 2, (0.5, 1), "ab"])
def test_attention_windows_that_are_none_are_refused(talk, portrait, window):
    with pytest.raises(InvalidArgumentError, match="attention_window"):
        talk.stream(portrait, text="Yes.", attention_window=window)


def test_a_stream_draws_the_frames_that_are_asked_for(talk, portrait, video):
    chosen = [0, 3, 4, len(video.frames) - 1]
    stream = talk.stream(portrait, text=TEXT, seed=4, frames=chosen)
    assert len(stream) == 4
    assert np.abs(np.stack(list(stream)).astype(int) - video.frames[chosen]).max() <= 1


def test_a_video_keeps_its_sound(talk, portrait, video):
    speech = speech_of(video, video.track)
    speech.audio = speech.audio.copy()
    stream = talk.stream(portrait, speech=speech)
    speech.audio *= 0.5
    assert np.array_equal(stream.audio, video.audio)


def test_numbers_may_be_those_of_numpy(talk, portrait, video):
    options = {"seed": np.int64(4), "temperature": np.float32(0), "articulation": np.float16(1)}
    frame = next(talk.stream(portrait, text=TEXT, frames=np.array([9], np.uint8), **options))
    assert np.abs(frame.astype(int) - video.frames[9]).max() <= 1


@pytest.mark.parametrize("frames", [[], [3, 2], [1, 1], [-1], [10_000], [0.5], [[1], [1, 2]]])
def test_frames_that_a_clip_does_not_have_are_refused(talk, portrait, frames):
    with pytest.raises(InvalidArgumentError, match="frames="):
        talk.stream(portrait, text=TEXT, frames=frames)


def test_what_cannot_be_rendered_again_is_refused(talk, video):
    by_hand = TalkingHeadVideo(video.frames, video.audio, video.sampling_rate, video.fps, video.track)
    with pytest.raises(InvalidArgumentError, match="made"):
        talk.rerender(by_hand)
    track = PhonemeTrack([Phoneme("a", 0.0, 0.5), Phoneme("m", 0.3, 0.8)])
    with pytest.raises(InvalidTrackError):
        talk.rerender(video, track)
    shorter = Speech(video.track, video.audio[: len(video.audio) // 2], video.sampling_rate)
    with pytest.raises((InvalidArgumentError, InvalidTrackError)):
        talk.changed_frames(video.making, shorter)
    for given, message in [
        (("a.mp4",), "a str is no "),
        ((video, list(video.track)), "give PhonemeTrack"),
        ((replace(video, frames=video.frames[:9]),), "has 9 now"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            talk.rerender(*given)
    another = replace(video, making=replace(video.making, identity="anna"))
    with pytest.raises(InvalidArgumentError, match="anna"):
        talk.rerender(another)
    with pytest.raises(InvalidArgumentError, match="stream"):
        talk(video.making.image, text=TEXT, frames=[0, 1])
