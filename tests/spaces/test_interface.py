"""What the page makes of fields that were left empty; what it looks like is for `test_in_browser.py`."""

import pytest

from avatarsync import AvatarSyncPipeline

gr = pytest.importorskip("gradio")

from interface import BASE, Demo, StopSign  # noqa: E402
from rendering_jobs import Studio  # noqa: E402

GIVEN = {
    "portrait": None,
    "source": "text",
    "text": "Yes.",
    "voice": None,
    "recording": None,
    "transcript": "",
    "language": "en-us",
    "identity": BASE,
    "fps": 25,
    "seed": 0,
    "blink": True,
    "motion": "subtle",
    "articulation": 1.0,
    "past": 3,
    "future": 3,
    "face": 0,
    "consent": True,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return Demo(Studio(AvatarSyncPipeline.from_pretrained()), tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize(
    ("empty", "told"),
    [
        ("fps", "Frames per second is empty: give a number from 10 to 60."),
        ("seed", "Seed is empty: give a number from 0."),
        ("articulation", "Articulation is empty: give a number from 0.25 to 2."),
        ("past", "Attention before is empty: give a number from 0 to 3."),
        ("future", "Attention after is empty: give a number from 0 to 3."),
    ],
)
def test_an_empty_number_is_told_by_its_label_before_anything_is_done(demo, empty, told):
    shown = demo.speak(StopSign(), *{**GIVEN, empty: None}.values())
    assert told in next(shown)[demo.status]
    with pytest.raises(gr.Error, match=told):
        next(shown)
