"""Phoneme-to-Visual Mapping (PVM): many phonemes, one mouth shape.

The paper's "character-level" visual units: phonemes that look alike share a unit. The package's table,
`tables/visual_units.json`, is keyed on IPA base symbols and on ARPAbet, so that every espeak-ng language, pocketsphinx
and CTC phoneme models use the same 24 units.

How a symbol is looked up: as it is; else without stress, length, tone, diacritics and ties; else by its longest known
beginning. So an affricate ("tɕh") is what it begins with, and a diphthong that the table does not list takes its
first vowel: "iə" is the unit of "i". Falling diphthongs ("aɪ", "ɑu") are listed. Of the vowels, rounding counts before
tongue height: "yɛ" and "uei" are rounded. What no rule reaches gets the neutral unit.
"""

import functools
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ..errors import InvalidMappingError
from .types import Phoneme

NUM_UNITS = 24
SILENT_UNIT = "SIL"
# Units of vowels; "R" is that of r-coloured ones, too.
VOWEL_UNITS = frozenset(("AA", "AE", "AH", "AO", "AW", "AY", "EH", "EY", "IH", "IY", "OW", "R", "UW"))
# What diphthongs of the unit "OW" end in.
_CLOSE_ROUNDED = ("u", "ʊ", "w", "W")
# TIMIT's names of what is before, after and between words; by their letters they would be sounds.
_TIMIT_SILENCES = ("h#", "pau", "epi")
_TABLE = Path(__file__).parent / "tables" / "visual_units.json"
# Combining marks, modifier letters and symbols (stress, length, tone letters), digits (tones), punctuation.
_MARKS = ("Mn", "Lm", "Sk", "Nd", "No", "Pd", "Pc", "Po", "Ps", "Pe", "Zs", "Cf")


class VisualMapping:
    """A table from phoneme symbols to 24 visual units.

    Args:
        phonemes: unit → the symbols that it shows.
        units: names of the 24 units, the index is the id; unit 0 is "SIL".
        neutral: the unit of unknown symbols.

    Raises:
        InvalidMappingError: the table is incomplete or contradicts itself.
    """

    def __init__(self, phonemes: dict[str, Iterable[str]], units: Iterable[str], neutral: str):
        self.units = list(units)
        self.neutral = neutral
        self.phonemes = {unit: list(symbols) for unit, symbols in phonemes.items()}
        self._validate()
        self._unit_of = {
            unicodedata.normalize("NFC", symbol): unit for unit, listed in self.phonemes.items() for symbol in listed
        }
        self._longest = max(len(symbol) for symbol in self._unit_of)
        self._ids = {unit: index for index, unit in enumerate(self.units)}

    def unit(self, symbol: str) -> str:
        """Name of the visual unit of a phoneme symbol (IPA or ARPAbet)."""
        found = self._find(symbol)
        return self.neutral if found is None else found

    def unit_id(self, symbol: str) -> int:
        """Id of the visual unit of a phoneme symbol, 0 for silence."""
        return self._ids[self.unit(symbol)]

    def is_vowel(self, symbol: str) -> bool:
        """Whether a phoneme symbol has a vowel's unit, as the package's table names them."""
        return self.unit(symbol) in VOWEL_UNITS

    def last_unit_id(self, symbol: str) -> int:
        """Id of the unit that a phoneme symbol ends in: of /oʊ/, however it is written, that of /u/; else its own.
        Units are named as in the package's table."""
        own, base = self.unit(symbol), _base(symbol)
        closes = own == "OW" and len(base) > 1 and base[-1] in _CLOSE_ROUNDED
        return self._ids.get("UW", self._ids[own]) if closes else self._ids[own]

    def unit_ids(self, track: Iterable[Phoneme]) -> list[int]:
        """Ids of the visual units of a track's phonemes, one each."""
        return [self.unit_id(phoneme.symbol) for phoneme in track]

    def knows(self, symbol: str) -> bool:
        """Whether the table reaches the symbol; if not, its unit is the neutral one."""
        return self._find(symbol) is not None

    def to_dict(self) -> dict:
        """A JSON-ready dictionary."""
        phonemes = {unit: list(symbols) for unit, symbols in self.phonemes.items()}
        return {"units": list(self.units), "neutral": self.neutral, "phonemes": phonemes}

    @classmethod
    def from_dict(cls, content: dict) -> "VisualMapping":
        """The inverse of `to_dict`.

        Raises:
            InvalidMappingError: keys are missing, or the table is not valid.
        """
        try:
            return cls(content["phonemes"], content["units"], content["neutral"])
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidMappingError(
                f'not a Phoneme-to-Visual Mapping ({error!r}): expected "units", "neutral" and "phonemes",'
                " as VisualMapping.default().to_dict() has them"
            ) from error

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> "VisualMapping":
        """Read a table from a JSON file of `to_dict`'s form.

        Raises:
            InvalidMappingError: the file cannot be read, or the table is not valid.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidMappingError(f"{path} cannot be read as a Phoneme-to-Visual Mapping: {error}") from error
        try:
            return cls.from_dict(content)
        except InvalidMappingError as error:
            raise InvalidMappingError(f"{path}: {error}") from error

    @classmethod
    def default(cls) -> "VisualMapping":
        """The package's own table."""
        return _default()

    def _find(self, symbol: str) -> str | None:
        symbol = unicodedata.normalize("NFC", symbol.strip())
        if symbol in self._unit_of:
            return self._unit_of[symbol]
        base = _base(symbol)
        if base.upper() in ("SIL", "SP", "SPN") or symbol.lower() in _TIMIT_SILENCES:
            return SILENT_UNIT
        for length in range(min(len(base), self._longest), 0, -1):
            if base[:length] in self._unit_of:
                return self._unit_of[base[:length]]
        return SILENT_UNIT if not symbol else None

    def _validate(self) -> None:
        if len(self.units) != NUM_UNITS or len(set(self.units)) != NUM_UNITS:
            raise InvalidMappingError(f"{len(set(self.units))} different units: a mapping has exactly {NUM_UNITS}")
        if self.units[0] != SILENT_UNIT:
            raise InvalidMappingError(f'unit 0 is {self.units[0]!r}: it must be silence, "{SILENT_UNIT}"')
        if set(self.phonemes) != set(self.units):
            odd = ", ".join(sorted(set(self.phonemes) ^ set(self.units)))
            raise InvalidMappingError(f'"phonemes" and "units" name different units ({odd}): list each in both')
        if self.neutral not in self.units:
            raise InvalidMappingError(f'"neutral" is {self.neutral!r}, which is no unit: name one of "units"')
        seen: dict[str, str] = {}
        for unit, symbols in self.phonemes.items():
            if not symbols:
                raise InvalidMappingError(f"unit {unit!r} shows no phoneme: give it at least one symbol")
            for symbol in symbols:
                if not isinstance(symbol, str) or not symbol.strip():
                    raise InvalidMappingError(
                        f"unit {unit!r} lists {symbol!r}: a symbol is a string of IPA or ARPAbet"
                    )
                if symbol in seen:
                    raise InvalidMappingError(f"{symbol!r} is listed in {seen[symbol]!r} and in {unit!r}: keep one")
                seen[symbol] = unit
        if seen.get("sil") != SILENT_UNIT:
            raise InvalidMappingError('"sil" must be a symbol of the unit "SIL": tracks name silence so')


def _base(symbol: str) -> str:
    """The symbol's letters alone. A letter that is all mark ("ʲ", "ᵐ") stands for itself, full size."""
    for form in ("NFC", "NFKC"):
        letters = []
        for character in unicodedata.normalize(form, symbol):
            # "ç" is a letter of the IPA; other precomposed letters ("ã") are a base and its diacritic.
            pieces = character if character == "ç" else unicodedata.normalize("NFD", character)
            letters += [piece for piece in pieces if unicodedata.category(piece) not in _MARKS]
        if letters:
            return "".join(letters)
    return ""


@functools.cache
def _default() -> VisualMapping:
    return VisualMapping.from_json(_TABLE)
