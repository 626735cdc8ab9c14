"""Videos do not depend on what PyTorch is set to where they are made."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from avatarsync import AvatarSyncPipeline, Phoneme, PhonemeTrack, Speech
from avatarsync.errors import InvalidArgumentError


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another default device": lambda: torch.device("meta"),
    "another default dtype": lambda: default_dtype(torch.float64),
}


@pytest.fixture(scope="module")
def made():
    """A pipeline, a function that makes a short video with it, and its frames."""
    talk, portrait = AvatarSyncPipeline.from_pretrained(), np.ascontiguousarray(astronaut()[:240, 110:350])
    track = PhonemeTrack([Phoneme("m", 0.0, 0.1), Phoneme("ɑ", 0.1, 0.25)])
    speech = Speech(track, np.zeros(4000, np.float32), 16000, "en-us")

    def make():
        return talk(portrait, speech=speech, temperature=0.5)

    return talk, make, make().frames


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_video_is_the_same_whatever_pytorch_is_set_to(made, name, threads):
    talk, make, expected = made
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with SETTINGS[name]():
            video = make()
            video.track[1].symbol = "i"
            again = talk.rerender(video)
    finally:
        torch.set_num_threads(before)
    # Sums are split among threads.
    assert np.abs(video.frames.astype(int) - expected).max() <= 1
    assert not np.array_equal(again.frames, video.frames)


def test_settings_are_left_as_they_were(made):
    talk, make, _ = made
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        make()
        assert torch.is_autocast_enabled("cpu") and torch.get_default_device().type == "meta"


@pytest.mark.parametrize("device", ["meta", torch.bfloat16, None, "mps:7"])
def test_what_is_no_device_of_this_machine_is_told_shortly(made, device):
    talk, _, _ = made
    with pytest.raises(InvalidArgumentError, match="try cpu") as caught:
        talk.to(device)
    assert len(str(caught.value)) < 250 and talk.device == torch.device("cpu")


def test_a_model_that_was_changed_since_is_told_how_to_change_it_back(made):
    """In training it would draw at random, in half precision fail within some layer."""
    changed = copy.deepcopy(made[0])
    for change, message in [(changed.model.train, "model.eval"), (changed.model.half, "model.float")]:
        change()
        with pytest.raises(InvalidArgumentError, match=message):
            changed.stream(np.zeros((200, 200, 3), np.uint8), text="Yes.")
        changed.model.eval()
