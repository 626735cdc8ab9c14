"""Phoneme tracks in pieces, transcripts, layouts and gaps in the landmarks."""

import numpy as np
import pytest
from labelling import LeftOut, fill_gaps
from layouts import find_sources
from speech_pieces import clip_phonemes, cut_at_silences, visual_units
from transcripts import edge_differences, read_transcript

from avatarsync.errors import DatasetError, InvalidTrackError
from avatarsync.phonemes import Phoneme, PhonemeTrack, VisualMapping


def sentences(count, speech=2.2, pause=0.3):
    return [Phoneme("a", k * (speech + pause), k * (speech + pause) + speech) for k in range(count)]


@pytest.mark.parametrize("longest", (5.0, 7.3, 20.0))
def test_long_videos_are_cut_in_silences(longest):
    track, num_frames = sentences(30), 1875
    pieces = cut_at_silences(track, num_frames, 25.0, longest)
    assert [first for first, _ in pieces] == [0] + [last for _, last in pieces[:-1]]
    assert pieces[-1][1] == num_frames
    assert all(0.25 * longest * 25 - 1 <= last - first <= longest * 25 for first, last in pieces)
    for _, last in pieces[:-1]:
        assert not any(phoneme.start * 25 < last < phoneme.end * 25 for phoneme in track)


def test_speech_without_a_pause_is_cut_all_the_same():
    pieces = cut_at_silences([Phoneme("a", 0, 100)], 2500, 25.0, 20.0)
    assert pieces == [(0, 500), (500, 1000), (1000, 1500), (1500, 2000), (2000, 2500)]
    assert cut_at_silences([Phoneme("a", 0, 1)], 500, 25.0, 20.0) == [(0, 500)]


def test_pieces_of_phonemes_are_counted_from_their_start():
    track = [Phoneme("b", 0.0, 0.9, "bin"), Phoneme("ɪ", 0.9, 1.5, "bin"), Phoneme("n", 1.8, 2.5, "bin")]
    clipped = clip_phonemes(track, 1.0, 2.0)
    assert [(p.symbol, round(p.start, 6), round(p.end, 6), p.word) for p in clipped] == [
        ("ɪ", 0.0, 0.5, "bin"),
        ("n", 0.8, 1.0, "bin"),
    ]
    units = visual_units(clipped, VisualMapping.default(), 1.2)
    assert [unit["unit"] == "SIL" for unit in units] == [False, True, False, True]
    edges = [(unit["start"], unit["end"]) for unit in units]
    assert edges[0][0] == 0 and edges[-1][1] == 1.2
    assert all(before[1] == after[0] for before, after in zip(edges, edges[1:], strict=False))


def test_transcripts_of_every_kind(tmp_path):
    align = tmp_path / "a.align"
    align.write_text("0 5000 sil\n5000 10000 bin\n10000 25000 blue\n25000 30000 sil\n")
    found = read_transcript(align)
    assert (found.text, found.words) == ("bin blue", [(0.2, 0.4, "bin"), (0.4, 1.0, "blue")])
    track = PhonemeTrack([Phoneme("b", 0.21, 0.45, "bin"), Phoneme("u", 0.45, 0.9, "blue")])
    starts, ends = edge_differences(track, found.words)
    np.testing.assert_allclose((starts, ends), ([0.01, 0.05], [0.05, -0.1]))
    assert edge_differences(PhonemeTrack(track[:1]), found.words) == ([], [])
    grid = tmp_path / "a.TextGrid"
    track.save(grid)
    assert read_transcript(grid).words == [(0.21, 0.45, "bin"), (0.45, 0.9, "blue")]
    grid.write_bytes(grid.read_text().encode("utf-16"))  # Praat's default beyond ASCII
    assert read_transcript(grid).text == "bin blue"
    text = tmp_path / "a.txt"
    text.write_text("\ufeff绿色 田园\nlv se 0.1 0.5\n", encoding="utf-8")
    assert read_transcript(text, first_line=True).text == "绿色 田园"
    assert read_transcript(text).words is None
    text.write_text(" \n")
    assert read_transcript(text) is None
    for path, content in ((align, b"0 5000\n"), (grid, b"no grid"), (text, b"\xff\xfe\xfa"), (align, b"a b bin\n")):
        path.write_bytes(content)
        with pytest.raises(InvalidTrackError, match=path.name):
            read_transcript(path)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def listed(folder, layout, language=None):
    sources = find_sources([folder], [], layout, language)["clips"]
    relative = [source.transcript and source.transcript.relative_to(folder).as_posix() for source in sources]
    return {source.id: (source.speaker, name, source.language) for source, name in zip(sources, relative, strict=True)}


def test_flat_layout(tmp_path):
    folder = tmp_path / "anna"
    touch(folder, "one.mp4", "one.txt", "sub/two.MOV", "sub/deep/three.v2.mkv", "sub/deep/three.v2.TextGrid", ".x.mp4")
    assert listed(folder, "flat", "de") == {
        "one": ("anna", "one.txt", "de"),
        "sub/two": ("sub", None, "de"),
        "sub/deep/three.v2": ("sub", "sub/deep/three.v2.TextGrid", "de"),
    }


def test_grid_layout(tmp_path):
    touch(tmp_path, "s1/a.mpg", "s1/align/a.align", "s2/b.mpg", "align/s2/b.align", "s3/c.mpg", "s3/c.align")
    touch(tmp_path, "s4/video/mpg_6000/d.mpg", "s4/align/d.align", "s5/e.mpg")
    assert listed(tmp_path, "grid") == {
        "s1/a": ("s1", "s1/align/a.align", "en-us"),
        "s2/b": ("s2", "align/s2/b.align", "en-us"),
        "s3/c": ("s3", "s3/c.align", "en-us"),
        "s4/video/mpg_6000/d": ("s4", "s4/align/d.align", "en-us"),
        "s5/e": ("s5", None, "en-us"),
    }
    assert listed(tmp_path / "s1", "grid") == {"a": ("s1", "align/a.align", "en-us")}


def test_cmlr_layout(tmp_path):
    stem = "s1/20090622/section_1_000.00_003.08"
    touch(tmp_path, f"video/{stem}.mp4", f"audio/{stem}.wav", f"text/{stem}.txt", "video/s2/x/section_2_1.00_2.00.mp4")
    assert listed(tmp_path, "cmlr") == {
        stem: ("s1", f"text/{stem}.txt", "cmn"),
        "s2/x/section_2_1.00_2.00": ("s2", None, "cmn"),
    }
    first, second = find_sources([tmp_path], [], "cmlr", None)["clips"]
    assert first.audio == tmp_path / "audio" / f"{stem}.wav"
    assert (first.name, first.first_line, second.audio) == (f"video/{stem}.mp4", True, None)


def test_hdtf_layout(tmp_path):
    touch(tmp_path, "WDA_BarackObama_000.mp4", "WDA_BarackObama_001.mp4", "RD_Radio10_000.mp4")
    assert {name: speaker for name, (speaker, *_) in listed(tmp_path, "hdtf").items()} == {
        "RD_Radio10_000": "RD_Radio10",
        "WDA_BarackObama_000": "WDA_BarackObama",
        "WDA_BarackObama_001": "WDA_BarackObama",
    }


def test_folders_without_sources_are_refused(tmp_path):
    touch(tmp_path, "s1/a.mp4", "b.txt")
    with pytest.raises(DatasetError, match="not a folder"):
        find_sources([tmp_path / "missing"], [], "flat", None)
    with pytest.raises(DatasetError, match="layout cmlr"):
        find_sources([tmp_path], [], "cmlr", None)
    with pytest.raises(DatasetError, match="no picture"):
        find_sources([], [tmp_path], "flat", None)


def faces(num_frames):
    points = np.tile(np.random.default_rng(0).random((1, 468, 2)).astype(np.float32), (num_frames, 1, 1))
    points[:, [33, 133]], points[:, [362, 263]] = (40, 50), (100, 50)  # eyes 60 pixels apart
    return points + np.arange(num_frames, dtype=np.float32)[:, None, None]


def test_lost_frames_take_their_neighbours_landmarks():
    track = faces(60)
    lost = track.copy()
    lost[[0, 30]] = np.nan
    filled = fill_gaps(lost)
    np.testing.assert_array_equal(filled[0], track[1])
    np.testing.assert_array_equal(filled[30], track[29])
    np.testing.assert_array_equal(np.delete(filled, [0, 30], 0), np.delete(track, [0, 30], 0))


def test_clips_without_a_steady_face_are_left_out():
    lost = faces(60)
    lost[10:14] = np.nan
    with pytest.raises(LeftOut, match="no face: a face in only 56 of 60 frames"):
        fill_gaps(lost)
    cut = faces(60)
    cut[25:] += 100
    with pytest.raises(LeftOut, match="cut or second face: the face jumps at frame 25"):
        fill_gaps(cut)
