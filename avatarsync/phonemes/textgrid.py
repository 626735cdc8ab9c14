"""Praat's TextGrid text files: the long format written, the long and the short format read."""

import math
import re

from ..errors import InvalidTrackError

Interval = tuple[float, float, str]

# Praat reads free-standing numbers, quoted strings and <flags>, and skips all else ("xmin =", "intervals [1]:").
# So one reader does for the long and the short format.
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(<\w+>|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)|!.*')


def write(tiers: dict[str, list[Interval]], duration: float) -> str:
    """Interval tiers as a TextGrid in the long format; gaps become intervals with an empty label."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {_number(duration)}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for tier_number, (name, intervals) in enumerate(tiers.items(), 1):
        filled = _fill_gaps(intervals, duration)
        lines += [f"    item [{tier_number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += [
            "        xmin = 0",
            f"        xmax = {_number(duration)}",
            f"        intervals: size = {len(filled)}",
        ]
        for number, (start, end, label) in enumerate(filled, 1):
            lines += [f"        intervals [{number}]:", f"            xmin = {_number(start)}"]
            lines += [f"            xmax = {_number(end)}", f"            text = {_quoted(label)}"]
    return "\n".join(lines)


def read(text: str) -> tuple[dict[str, list[Interval]], float]:
    """The interval tiers of a TextGrid by name, and its end in seconds. Point tiers are skipped.

    Raises:
        InvalidTrackError: not a TextGrid, or one that ends too early.
    """
    tokens = [match for match in _TOKEN.finditer(text) if not match.group().startswith("!")]
    reader = iter(tokens)

    def string() -> str:
        value = next(reader).group(1)
        if value is None:
            raise ValueError("a number where a label should be")
        return value.replace('""', '"')

    def number() -> float:
        value = float(next(reader).group(2) or "nan")
        if math.isnan(value):
            raise ValueError("a label where a number should be")
        return value

    try:
        if string() != "ooTextFile" or string() != "TextGrid":
            raise ValueError("no TextGrid header")
        number()
        duration = number()
        next(reader)  # <exists>
        tiers = {}
        for _ in range(int(number())):
            kind, name = string(), string()
            number(), number()
            size = int(number())
            if kind == "IntervalTier":
                tiers[name] = [(number(), number(), string()) for _ in range(size)]
            else:
                for _ in range(size):
                    number(), string()
    except (StopIteration, RuntimeError, ValueError, TypeError) as error:
        raise InvalidTrackError(
            f"not a TextGrid in a text format ({error or 'it ends too early'}): save it in Praat as a text file"
        ) from error
    return tiers, duration


def choose_tier(tiers: dict[str, list[Interval]], names: tuple[str, ...], only: bool) -> list[Interval] | None:
    """The tier whose name contains one of `names`; with `only`, else the sole tier there is."""
    for name, intervals in tiers.items():
        if any(wanted in name.lower() for wanted in names):
            return intervals
    return next(iter(tiers.values())) if only and len(tiers) == 1 else None


def _fill_gaps(intervals: list[Interval], duration: float) -> list[Interval]:
    filled, cursor = [], 0.0
    for start, end, label in intervals:
        if float(_number(start)) > float(_number(cursor)):
            filled.append((cursor, start, ""))
        # Where edges differ by rounding only, the interval starts where the last one ended: Praat wants no hairlines.
        filled.append((cursor if filled and start < cursor else start, end, label))
        cursor = end
    if float(_number(duration)) > float(_number(cursor)):
        filled.append((cursor, duration, ""))
    return filled


def _number(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def _quoted(label: str) -> str:
    return '"' + label.replace('"', '""') + '"'
