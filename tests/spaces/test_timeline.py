"""The table and the picture of a track."""

import copy
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from limits import MAX_ROWS
from timeline import HEADERS, from_rows, picture, round_track, to_rows

from avatarsync import Phoneme, PhonemeTrack
from avatarsync.errors import AvatarSyncError, InvalidTrackError


@pytest.fixture
def track():
    return PhonemeTrack(
        [
            Phoneme("h", 0.0, 0.1, "hey"),
            Phoneme("eɪ", 0.1, 0.3, "hey"),
            Phoneme("sil", 0.3, 0.5),
            Phoneme("j", 0.5, 0.58, "you"),
            Phoneme("uː", 0.58, 0.9, "you"),
        ],
        "en-us",
        1.0,
    )


def test_what_nobody_edits_is_what_it_was(track):
    track[1].end = 0.3000004  # as speech has it: no whole milliseconds
    rounded = round_track(track)
    assert from_rows(to_rows(rounded), rounded) == rounded
    assert [p.end for p in rounded][1] == 0.3 and rounded.duration == track.duration
    assert all(len(row) == len(HEADERS) for row in to_rows(track))


def test_a_phoneme_shorter_than_the_table_can_show_is_left_out():
    rounded = round_track(PhonemeTrack([Phoneme("a", 0.1, 0.5), Phoneme("t", 0.5, 0.5002), Phoneme("m", 0.5002, 1.0)]))
    assert [p.symbol for p in rounded] == ["a", "m"]
    rounded.validate()


def test_edits_arrive(track):
    rows = to_rows(track)
    rows[1][0] = "m"
    rows[4][3] = "ewe"
    edited = from_rows(rows, track)
    assert [p.symbol for p in edited] == ["h", "m", "sil", "j", "uː"]
    assert edited[4].word == "ewe" and edited.duration == 1.0 and edited.language == "en-us"


def test_a_moved_edge_takes_its_neighbour_along(track):
    rows = to_rows(track)
    rows[0][2] = "0,15"  # as text, with the comma of many keyboards
    rows[4][1] = 0.54
    edited = from_rows(rows, track)
    assert edited[1].start == 0.15 and edited[3].end == 0.54
    rows = to_rows(track)
    rows[1][2] = 0.25  # a phoneme that shrinks leaves a gap, which is silence
    assert from_rows(rows, track)[2].start == 0.3


def test_rows_come_and_go(track):
    rows = to_rows(track)
    del rows[2]
    rows += [["", "", None, ""], [None, float("nan"), None, None]]
    assert [p.symbol for p in from_rows(rows, track)] == ["h", "eɪ", "j", "uː"]
    rows.insert(2, ["t", 0.35, 0.4, ""])
    assert from_rows(rows, track)[2].symbol == "t"


def changed(row, column, value):
    def edit(rows):
        rows[row][column] = value

    return edit


WRONG = {
    "no number": (changed(1, 1, "soon"), "Row 2"),
    "infinite": (changed(1, 2, "inf"), "Row 2"),
    "before the start": (changed(0, 1, -1), "Row 1"),
    "backwards": (changed(1, 2, 0.05), "Row 2"),
    "no sound": (changed(3, 0, ""), "Row 4"),
    "beyond the sound": (changed(4, 2, 3), "Row 5"),
    "overlapping two": (changed(1, 2, 0.7), "Row"),
    "nothing left": (lambda rows: rows.clear(), "empty"),
    "endless": (lambda rows: rows.extend([["a", 0, 1, ""]] * MAX_ROWS), "rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told_by_its_row(track, name):
    edit, message = WRONG[name]
    rows = to_rows(track)
    edit(rows)
    before = copy.deepcopy(track)
    with pytest.raises(AvatarSyncError, match=message) as caught:
        from_rows(rows, track)
    assert len(str(caught.value)) > 20
    assert track == before


def test_an_inserted_row_may_not_overlap(track):
    rows = to_rows(track)
    rows.insert(1, ["t", 0.05, 0.12, ""])
    with pytest.raises(InvalidTrackError, match="Row 1"):
        from_rows(rows, track)


def parsed(drawing):
    return ElementTree.fromstring(drawing)


def test_the_picture_shows_every_phoneme_and_word(track):
    audio = np.sin(np.arange(16000) / 5).astype(np.float32)
    root = parsed(picture(track, audio, 16000, changed=(0.25, 0.75)))
    (svg,) = root.iter("svg")
    width = float(svg.get("width"))
    texts = [text.text for text in root.iter("text")]
    assert {"h", "eɪ", "j", "uː", "hey", "you"} <= set(texts)
    boxes = [group.find("rect") for group in root.iter("g")]
    assert len(boxes) == len(track)
    assert [float(box.get("x")) for box in boxes] == pytest.approx([p.start * width for p in track], abs=1)
    (mark,) = [rect for rect in root.iter("rect") if rect.get("class") == "tl-changed"]
    assert float(mark.get("x")) == pytest.approx(0.25 * width) and float(mark.get("width")) == pytest.approx(width / 2)


def test_the_waveform_is_loud_where_the_sound_is(track):
    audio = np.zeros((16000, 2), np.float32)
    audio[8000:] = 0.5 * np.sin(np.arange(8000) / 5)[:, None]
    root = parsed(picture(track, audio, 16000))
    path = next(path.get("d") for path in root.iter("path") if path.get("class") == "tl-wave")
    heights = np.array([[float(v) for v in point.split()] for point in path[1:-1].split("L")])
    above = heights[: len(heights) // 2, 1]
    assert np.ptp(above[: len(above) // 3]) < 1 and above.min() < 10
    assert above.argmin() >= len(above) // 2


def test_what_people_write_does_not_become_markup():
    track = PhonemeTrack([Phoneme("<b>&", 0.0, 1.0, '"><script>alert(1)</script>')])
    drawing = picture(track, np.zeros(16000, np.float32), 16000)
    assert "<script" not in drawing and "<b>" not in drawing
    assert '"><script>alert(1)</script>' in [text.text for text in parsed(drawing).iter("text")]
