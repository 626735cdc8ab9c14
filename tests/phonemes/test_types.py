import copy
import json

import numpy as np
import pytest
import soundfile

from avatarsync.errors import InvalidArgumentError, InvalidTrackError, OutputError
from avatarsync.phonemes import Phoneme, PhonemeTrack, Speech


def make_track() -> PhonemeTrack:
    return PhonemeTrack(
        [
            Phoneme("h", 0.1, 0.2, "hi"),
            Phoneme("aɪ", 0.2, 0.4, "hi"),
            Phoneme("sil", 0.4, 0.5),
            Phoneme("ð", 0.6, 0.7, 'a "b"'),
        ],
        "en-us",
        1.0,
    )


def test_behaves_like_a_list():
    track = make_track()
    assert len(track) == 4 and track[1].symbol == "aɪ" and [p.symbol for p in track] == ["h", "aɪ", "sil", "ð"]
    track.append(Phoneme("m", 1.0, 1.2))
    assert track.duration == 1.2 and track[-1].symbol == "m"
    del track[-1]
    assert track.duration == 1.0 and track.validate() is track


def test_duration_defaults_to_the_last_end():
    assert PhonemeTrack([Phoneme("a", 0, 0.5)]).duration == 0.5
    assert PhonemeTrack().duration == 0.0


def test_a_growing_phoneme_pushes_the_edge_it_touches():
    track = make_track()
    track[1].end += 0.05
    assert track[2].start == pytest.approx(0.45)
    track[1].start -= 0.02
    assert track[0].end == pytest.approx(0.18)
    track.validate()


def test_a_shrinking_phoneme_leaves_a_gap_and_overlap_over_a_gap_is_refused():
    track = make_track()
    track[0].end = 0.15
    assert track[1].start == 0.2
    track[2].end = 0.65  # a gap away from the next: not its edge
    with pytest.raises(InvalidTrackError, match="entry 3 .* overlaps entry 2"):
        track.validate()


def test_pushing_a_neighbour_out_of_existence_is_refused():
    track = make_track()
    track[0].end = 0.45
    with pytest.raises(InvalidTrackError, match="entry 1 .* spans no time"):
        track.validate()


def test_a_removed_or_copied_phoneme_no_longer_moves_the_track():
    track = make_track()
    copied = copy.deepcopy(track)
    removed = track.pop(0)
    removed.end = 0.9
    copied[1].end = 0.45
    assert track[0].start == 0.2 and track[1].start == 0.4 and copied[2].start == 0.45


@pytest.mark.parametrize(
    ("phonemes", "message"),
    [
        ([Phoneme("a", 0, 0.5), Phoneme("b", 0.4, 0.8)], "entry 1 .* overlaps entry 0.*0.5 s"),
        ([Phoneme("a", 0.5, 0.6), Phoneme("b", 0.1, 0.2)], "entry 1 .* overlaps"),
        ([Phoneme("a", 0.5, 0.4)], "entry 0 .* spans no time"),
        ([Phoneme("a", 0.5, 0.5)], "entry 0 .* spans no time"),
        ([Phoneme("a", -0.1, 0.4)], "entry 0 .* before 0"),
        ([Phoneme("a", float("nan"), 0.4)], "finite"),
        ([Phoneme("a", 0, float("inf"))], "finite"),
        ([Phoneme("a", "0", 0.4)], "finite"),
        ([Phoneme(" ", 0, 0.4)], "no symbol"),
        ([Phoneme("a", 0, 0.4, 5)], "entry 0 .* word is 5: give a string"),
        ([Phoneme("a", 0, 1e5)], "12 hours.*not in milliseconds"),
    ],
)
def test_validation_names_the_entry(phonemes, message):
    with pytest.raises(InvalidTrackError, match=message):
        PhonemeTrack(phonemes).validate()


@pytest.mark.parametrize("name", ["track.json", "track.TextGrid"])
def test_files_round_trip(tmp_path, name):
    track = make_track()
    track.save(tmp_path / name)
    loaded = PhonemeTrack.load(tmp_path / name)
    if name.endswith("TextGrid"):
        loaded.language = "en-us"  # a TextGrid has no place for it
    assert loaded == track
    assert [path.name for path in tmp_path.iterdir()] == [name]  # no partial file stays


def test_json_is_plain():
    content = json.loads(make_track().to_json())
    assert content["language"] == "en-us" and content["duration"] == 1.0
    assert content["phonemes"][0] == {"symbol": "h", "start": 0.1, "end": 0.2, "word": "hi"}
    assert PhonemeTrack.from_json(make_track().to_json()) == make_track()


def test_textgrid_is_what_praat_writes():
    text = make_track().to_textgrid()
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 1\n')
    assert "intervals: size = 7" in text  # four phonemes and the gaps before, between and after
    assert 'text = "a ""b"""' in text


def test_reads_short_textgrids_with_several_tiers():
    text = "\n".join(
        ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "1", "<exists>", "3"]
        + ['"TextTier"', '"clicks"', "0", "1", "1", "0.5", '"x"']
        + ['"IntervalTier"', '"words"', "0", "1", "2", "0", "0.5", '""', "0.5", "1", '"mi"']
        + ['"IntervalTier"', '"Phones"', "0", "1", "3", "0", "0.5", '""', "0.5", "0.7", '"m"', "0.7", "1", '"i"']
    )
    track = PhonemeTrack.from_textgrid(text, language="it")
    assert [(p.symbol, p.start, p.end, p.word) for p in track] == [("m", 0.5, 0.7, "mi"), ("i", 0.7, 1.0, "mi")]
    assert track.duration == 1.0 and track.language == "it"


def test_reads_utf16_textgrids(tmp_path):
    (tmp_path / "a.TextGrid").write_text(make_track().to_textgrid(), encoding="utf-16")
    assert [p.symbol for p in PhonemeTrack.load(tmp_path / "a.TextGrid")] == ["h", "aɪ", "sil", "ð"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "{"),
        ("a.json", "[1]"),
        ("a.json", '{"phonemes": [{"symbol": "a"}]}'),
        ("a.json", '{"phonemes": [{"symbol": "a", "start": 0, "end": 1}, {"symbol": "b", "start": 0, "end": 2}]}'),
        ("a.json", '{"phonemes": [{"symbol": "a", "start": 0, "end": 1, "word": 5}]}'),
        ("a.json", '{"phonemes": [{"symbol": "a", "start": 0, "end": 1}], "duration": 1e8}'),
        ("a.json", '{"phonemes": [{"symbol": "a", "start": 0, "end": 1}], "duration": "1"}'),
        ("a.json", '{"phonemes": [{"symbol": "a", "start": 0, "end": 1' + "0" * 400 + "}]}"),
        ("a.TextGrid", "hello"),
        ("a.TextGrid", make_track().to_textgrid()[:300]),
        ("missing.json", None),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidTrackError):
        PhonemeTrack.load(tmp_path / name)


def test_suffix_and_place_are_checked(tmp_path):
    with pytest.raises(InvalidArgumentError, match=".json or .TextGrid"):
        make_track().save(tmp_path / "track.txt")
    with pytest.raises(OutputError, match="cannot be written"):
        make_track().save(tmp_path / "missing" / "track.json")
    overlapping = PhonemeTrack([Phoneme("a", 0, 0.5), Phoneme("b", 0.4, 0.8)])
    with pytest.raises(InvalidTrackError):
        overlapping.save(tmp_path / "track.json")
    assert not list(tmp_path.iterdir())


def test_a_copy_is_edited_by_itself():
    track = make_track()
    copied = copy.copy(track)
    del copied[0]
    copied[0].end = 0.45
    assert track == make_track() and copied[1].start == 0.45


def test_entries_may_come_from_an_iterator():
    track = make_track()
    track[1:3] = (Phoneme("m", *edges) for edges in [(0.2, 0.3), (0.3, 0.5)])
    track[1].end = 0.35
    assert track[2].start == 0.35


def test_what_is_no_phoneme_is_refused_and_not_kept():
    track = make_track()
    for add in (lambda: track.append("m"), lambda: track.__setitem__(0, ("m", 0, 1)), lambda: PhonemeTrack(["m"])):
        with pytest.raises(InvalidTrackError, match=r"give Phoneme\(symbol, start, end\)"):
            add()
    assert track == make_track()


@pytest.mark.parametrize("text", ["[" * 100_000, f'{{"phonemes": [1{"0" * 5000}]}}'], ids=["deep", "long"])
def test_json_beyond_what_python_reads_is_refused(text):
    with pytest.raises(InvalidTrackError, match="not valid JSON"):
        PhonemeTrack.from_json(text)


@pytest.mark.parametrize("shape", [(8000,), (8000, 2)])
def test_speech_saves_its_audio(tmp_path, shape):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)
    speech = Speech(PhonemeTrack([Phoneme("a", 0, 0.5)]), audio, 16000)
    assert speech.duration == 0.5
    speech.save(tmp_path / "speech.wav")
    read, rate = soundfile.read(tmp_path / "speech.wav", dtype="float32")
    assert rate == 16000 and read.shape == shape and np.abs(read - audio).max() < 1e-4
    with pytest.raises(InvalidArgumentError, match=".wav"):
        speech.save(tmp_path / "speech.mp3")


@pytest.mark.parametrize("kind", [np.float16, np.longdouble])
@pytest.mark.parametrize("rate", [np.float32(16000), 16000.0])
def test_speech_of_any_floats_and_rates_is_saved(tmp_path, kind, rate):
    speech = Speech(PhonemeTrack(), np.full(8000, 0.25, kind), rate)
    assert type(speech.duration) is float and speech.duration == 0.5
    speech.save(tmp_path / "speech.wav")
    read, read_rate = soundfile.read(tmp_path / "speech.wav")
    assert read_rate == 16000 and np.abs(read - 0.25).max() < 1e-4


def test_speeches_are_compared():
    audio = np.zeros(8000, np.float32)
    assert Speech(make_track(), audio, 16000) == Speech(make_track(), audio.copy(), 16000)
    assert Speech(make_track(), audio, 16000) != Speech(make_track(), audio + 0.1, 16000)


def test_speech_is_padded_with_silence():
    track = PhonemeTrack([Phoneme("a", 0.0, 0.3, "a"), Phoneme("sil", 0.3, 0.5)], language="en-us")
    speech = Speech(track, np.ones(8000, np.float32), 16000, "en-us")
    padded = speech.padded(0.1, 0.25)
    assert padded.duration == padded.track.duration == pytest.approx(0.85) and padded.language == "en-us"
    assert not padded.audio[:1600].any() and not padded.audio[9600:].any() and padded.audio[1600:9600].all()
    assert [(p.symbol, p.word) for p in padded.track] == [("sil", None), ("a", "a"), ("sil", None)]
    # Silence that was there grows.
    assert [edge for p in padded.track for edge in (p.start, p.end)] == pytest.approx([0, 0.1, 0.1, 0.4, 0.4, 0.85])
    padded.track.validate()
    assert len(track) == 2 and track[0].start == 0 and len(speech.audio) == 8000  # the speech itself stays as it was
    stereo = Speech(track, np.ones((8000, 2), np.float32), 16000).padded(0, 0.5)
    assert stereo.audio.shape == (16000, 2) and [p.symbol for p in stereo.track] == ["a", "sil"]
