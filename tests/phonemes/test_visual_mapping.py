import json

import pytest

from avatarsync.configuration_avatarsync import AvatarSyncConfig
from avatarsync.errors import InvalidMappingError
from avatarsync.phonemes import Phoneme, PhonemeTrack, VisualMapping, arpabet, espeak, languages, speak

# The phones of the corpus that the weights were trained on: a unit without one of them would never be learned.
TRAINED_PHONES = (
    "SIL AA AE AH AO AW AY B CH D DH EH EY F G IH IY JH K L M N OW P R S T TH UW V W Y Z".split()  # noqa: SIM905
)


@pytest.fixture
def mapping() -> VisualMapping:
    return VisualMapping.default()


def test_has_the_units_that_the_models_expect(mapping):
    assert len(mapping.units) == AvatarSyncConfig().keyframe_generator_config.num_units == 24
    assert mapping.units[0] == "SIL" and mapping.unit_id("sil") == 0


def test_every_unit_was_trained(mapping):
    assert {mapping.unit(phone) for phone in TRAINED_PHONES} == set(mapping.units)


def test_arpabet_and_ipa_agree(mapping):
    for phone, ipa in arpabet.TO_IPA.items():
        if phone not in ("AH", "ER"):  # ʌ and ɝ stand for both of their vowels, stressed or not
            assert mapping.unit(phone) == mapping.unit(ipa), phone
    assert mapping.unit("AH") == mapping.unit("ʌ") == mapping.unit("ə")
    assert mapping.unit("ER") == mapping.unit("ɚ") == mapping.unit("R")


@pytest.mark.parametrize(
    ("unit", "symbols"),
    [
        ("M", "p b m ph pʰ bʰ mʲ P B0 m̩"),
        ("F", "f v F V"),
        ("SIL", "sil SIL sp +NSN+ <sil> h# H# pau epi"),
        ("UW", "u y yɛ yæ uei ʊ uː ˈuː yː UW1 UH2"),
        ("AW", "aʊ ɑu au AW0"),
        ("AY", "aɪ ai ˈaɪ AY1"),
        ("OW", "oʊ ou əʊ OW ø"),
        ("S", "s z ts tsh ɕ tɕ tɕh S Z"),
        ("CH", "ʃ ʒ tʃ dʒ t͡ʃ t͡ʃʰ ʂ ʈʂ ʈʂh SH CH JH ZH"),
        ("K", "k ɡ g ŋ x χ kʰ NG"),
        ("EH", "ɛ ɛ̃ ɛː EH1"),
        ("AA", "a ɑ ɑː ɑ̃ ã ɑɹ AA"),
        ("IY", "i iː i5 ˈi iou"),
        ("W", "w ɥ W"),
        ("AH", "h HH ə ʌ ʔ"),
    ],
)
def test_known_symbols(mapping, unit, symbols):
    assert {symbol: mapping.unit(symbol) for symbol in symbols.split()} == dict.fromkeys(symbols.split(), unit)


def test_unknown_symbols_are_neutral(mapping):
    assert not mapping.knows("☃") and mapping.unit("☃") == mapping.neutral
    assert mapping.knows("pq☃") and mapping.unit("pq☃") == "M"


@pytest.mark.parametrize(
    ("symbol", "end"),
    [
        ("oʊ", "UW"),
        ("OW1", "UW"),
        ("əʊ", "UW"),
        ("ou5", "UW"),
        ("o", "OW"),
        ("oː", "OW"),
        ("ø", "OW"),
        ("aʊ", "AW"),
        ("u", "UW"),
    ],
)
def test_what_a_vowel_ends_in(mapping, symbol, end):
    assert mapping.units[mapping.last_unit_id(symbol)] == end


def test_without_a_unit_of_u_a_vowel_ends_in_its_own(mapping):
    table = mapping.to_dict()
    renamed = {"UW": "ROUND"}
    table["units"] = [renamed.get(unit, unit) for unit in table["units"]]
    table["phonemes"]["ROUND"] = table["phonemes"].pop("UW")
    other = VisualMapping.from_dict(table)
    assert other.last_unit_id("oʊ") == other.unit_id("oʊ")


def test_unit_ids_of_a_track(mapping):
    track = PhonemeTrack([Phoneme("sil", 0, 0.1), Phoneme("m", 0.1, 0.2), Phoneme("aɪ", 0.2, 0.4)])
    assert mapping.unit_ids(track) == [0, mapping.units.index("M"), mapping.units.index("AY")]


def test_mandarin_lips(mapping):
    def units(text):
        return [mapping.unit(p.symbol) for p in speak(text, "cmn").track if p.symbol != "sil"]

    assert units("爸爸妈妈怕") == ["M", "AA", "M", "AA", "M", "AA", "M", "AA", "M", "AA"]
    assert units("女")[-1] == "UW" and units("去")[-1] == "UW" and units("五")[-1] == "UW"
    assert units("飞")[0] == "F" and units("我")[0] == "W" and units("月")[1] == "W"


# Consonant-vowel pairs in the scripts of espeak's languages; each voice reads what it can of them.
HAN = "你好女 知日月"
SAMPLES = (
    "ba ce di fo gu hy ja ke li mo nu py qa re si to vu wy xa ze sch ng ai au oi å ä ö ü ç ñ ø ł š ž",
    "ба ве го жу щи чё шю цы хэ фя",
    "αβγ δεζ ηθι κλμ νξο πρσ τυφ χψω",
    "בגד הוז",
    "سلام خوب چگ ژپ",
    "कख गघ चछ टठ तथ पफ शष",
    "কখ গঘ",
    "กขค ดตท",
    "かきくけこ しちつふ",
    "한국 꺼삐",
    HAN,
    "ሀለሐ",
    "ქართული",
    "բարեւ",
)


@pytest.mark.parametrize("language", languages())
def test_every_language_of_espeak_maps(mapping, language):
    unknown = set()
    for sample in SAMPLES:
        if sample == HAN and language in ("ja", "ko"):
            continue  # refused: espeak has no readings of these there
        track = speak(sample, language, rate=440).track
        unknown |= {p.symbol for p in track if not mapping.knows(p.symbol)}
    assert not unknown


def test_language_names_are_those_of_languages():
    assert set(espeak.language_names()) == set(languages())


def test_round_trips(tmp_path, mapping):
    copy = VisualMapping.from_dict(json.loads(json.dumps(mapping.to_dict())))
    assert copy.to_dict() == mapping.to_dict() and copy.unit_id("tɕh") == mapping.unit_id("tɕh")
    (tmp_path / "own.json").write_text(json.dumps(mapping.to_dict()))
    assert VisualMapping.from_json(tmp_path / "own.json").units == mapping.units


def edit(content: dict, **changes) -> dict:
    return {**content, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: edit(c, units=c["units"][:-1]), "exactly 24"),
        (lambda c: edit(c, units=c["units"][:-1] + ["M"]), "exactly 24"),
        (lambda c: edit(c, units=c["units"][::-1]), "unit 0"),
        (lambda c: edit(c, neutral="nothing"), "neutral"),
        (lambda c: edit(c, phonemes={**c["phonemes"], "M": []}), "'M' shows no phoneme"),
        (lambda c: edit(c, phonemes={**c["phonemes"], "M": ["p", "f"]}), "'f' is listed in"),
        (lambda c: edit(c, phonemes={**c["phonemes"], "M": [3]}), "'M' lists 3"),
        (lambda c: edit(c, phonemes={**c["phonemes"], "SIL": ["pau"]}), '"sil"'),
        (lambda c: edit(c, phonemes={**c["phonemes"], "QQ": ["p"]}), "QQ"),
        (lambda c: {"units": c["units"]}, "expected"),
    ],
)
def test_bad_tables_are_refused(mapping, change, message):
    with pytest.raises(InvalidMappingError, match=message):
        VisualMapping.from_dict(change(mapping.to_dict()))


def test_unreadable_tables_are_refused(tmp_path):
    (tmp_path / "own.json").write_text("{")
    for name in ("own.json", "missing.json"):
        with pytest.raises(InvalidMappingError, match=name):
            VisualMapping.from_json(tmp_path / name)
