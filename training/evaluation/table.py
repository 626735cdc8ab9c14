"""The rows of the table: a measure, its value, and the goal that it is held against."""

from dataclasses import asdict, dataclass

import numpy as np

from .clips import ClipResult
from .motion import Closures
from .portraits import PortraitResult

# Openings that pass, as shares of the clip's 90th percentile.
SHUT_BILABIAL, SHUT_SILENCE = 0.25, 0.15


@dataclass
class Goals:
    """What differs between the speaker of the training data and others."""

    opening_r: float
    width_r: float
    tokenizer_gain: float


SAME_SPEAKER, UNSEEN_SPEAKERS = Goals(0.75, 0.60, 7.0), Goals(0.65, 0.50, 4.0)


@dataclass
class Row:
    """`form` formats value and goal; `at_most` turns the goal round; `beside` is what the value is seen against."""

    measure: str
    value: float
    form: str = ".2f"
    goal: float | None = None
    at_most: bool = False
    beside: str = ""
    cases: int = 0

    @property
    def passed(self) -> bool | None:
        if self.goal is None:
            return None
        return bool(self.value <= self.goal if self.at_most else self.value >= self.goal)

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Measure, value, goal, verdict, beside, cases, as text."""
        goal = "" if self.goal is None else f"{'≤' if self.at_most else '≥'} {self.goal:{self.form}}"
        verdict = {None: "", True: "pass", False: "FAIL"}[self.passed]
        return self.measure, f"{self.value:{self.form}}", goal, verdict, self.beside, str(self.cases or "")

    def to_dict(self) -> dict:
        return asdict(self) | {"passed": self.passed}


def clip_rows(clips: list[ClipResult], goals: Goals) -> list[Row]:
    """Rows of held-out clips. A correlation that is not defined, as of a mouth that never moves, counts as 0."""

    def figures(name: str) -> np.ndarray:
        return np.nan_to_num([clip.figures[name] for clip in clips])

    def mean(name: str) -> float:
        return float(figures(name).mean())

    count = len(clips)
    rows = []
    for measure, name, goal in (("opening", "lip opening", goals.opening_r), ("width", "mouth width", goals.width_r)):
        r = figures(f"{measure}_r")
        beside = f"clips {r.min():.2f} … {r.max():.2f}; gain {mean(f'{measure}_gain'):.2f}; "
        beside += f"smoothed {mean(f'{measure}_r_smooth'):.3f}"
        rows.append(Row(f"{name}, Pearson r", float(r.mean()), ".3f", goal, beside=beside, cases=count))
        for lag, landmarks in (("lag", ""), ("lag_smooth", ", smoothed")):
            lags = figures(f"{measure}_{lag}")
            within = float(np.mean(np.abs(lags) <= 1))
            beside = f"mean {lags.mean():+.1f} frames, median {np.median(lags):+.0f}"
            row = Row(f"{name}, best lag within ±1 frame{landmarks}", within, ".0%", 0.90, beside=beside, cases=count)
            rows.append(row)
    rows += closure_rows(
        "clips",
        [clip.generated for clip in clips],
        [clip.generated_smooth for clip in clips],
        [clip.real for clip in clips],
    )
    for prefix, name in (("", "mouth"), ("still_", "mouth, head held still,")):
        gains = figures(f"{prefix}psnr") - figures(f"{prefix}psnr_copy")
        beside = f"{mean(f'{prefix}psnr'):.1f} dB, copy {mean(f'{prefix}psnr_copy'):.1f} dB"
        rows.append(Row(f"{name} PSNR over copying, dB", float(gains.mean()), "+.2f", 1.0, beside=beside, cases=count))
        if "lpips" in clips[0].figures:
            more = mean(f"{prefix}lpips") - mean(f"{prefix}lpips_copy")
            beside = f"{mean(f'{prefix}lpips'):.3f}, copy {mean(f'{prefix}lpips_copy'):.3f}"
            rows.append(Row(f"{name} LPIPS less copying's", more, "+.3f", 0.0, True, beside, count))
    if "identity" in clips[0].figures:
        more = mean("identity") - mean("identity_real")
        beside = f"{mean('identity'):.3f}, real {mean('identity_real'):.3f}"
        rows.append(Row("identity cosine less real frames'", more, "+.3f", -0.02, beside=beside, cases=count))
    sharpness = figures("sharpness")
    beside = f"clips {sharpness.min():.2f} … {sharpness.max():.2f}"
    rows.append(Row("sharpness against real", float(sharpness.mean()), ".2f", 0.7, beside=beside, cases=count))
    share = mean("flicker") / max(mean("flicker_real"), 1e-9)
    beside = f"{mean('flicker'):.2f}, real {mean('flicker_real'):.2f} grey levels²"
    rows.append(
        Row("flicker outside the mouth against real", share, ".2f", 1.0, at_most=True, beside=beside, cases=count)
    )
    rows += common_rows("clips", clips, int(figures("changed_outside").sum()))
    return rows


def closure_rows(
    kind: str, generated: list[Closures], smooth: list[Closures], real: list[Closures] | None = None
) -> list[Row]:
    """Shares of closures that are shut; beside them, the same by smoothed landmarks and on the real clips."""
    rows = []
    for name, field, limit, goal in (
        ("/m b p/", "bilabials", SHUT_BILABIAL, 0.85),
        ("silence", "silences", SHUT_SILENCE, 0.95),
    ):
        openings = np.concatenate([getattr(one, field) for one in generated])
        if not len(openings):
            continue
        beside = f"mean {openings.mean():.0%}, 90th percentile {np.percentile(openings, 90):.0%}"
        for word, others in (("smoothed", smooth), ("real", real)):
            if others:
                beside += f"; {word} {np.mean(np.concatenate([getattr(one, field) for one in others]) <= limit):.0%}"
        share = float(np.mean(openings <= limit))
        rows.append(Row(f"{name} open ≤ {limit:.0%}, {kind}", share, ".0%", goal, beside=beside, cases=len(openings)))
    return rows


def common_rows(kind: str, results: list[ClipResult] | list[PortraitResult], changed: int) -> list[Row]:
    rows = []
    flicker = np.concatenate([result.flicker_still.still_mouth for result in results])
    loose = np.concatenate([result.flicker_still.still_gap for result in results])
    if len(flicker):
        beside = f"99th percentile {np.percentile(flicker, 99):.1f}, most {flicker.max():.1f}"
        beside += f"; still gap alone {loose.mean():.2f}"
        rows.append(
            Row(
                f"flicker with still lips, grey levels², {kind}",
                float(flicker.mean()),
                ".2f",
                1.0,
                at_most=True,
                beside=beside,
                cases=len(flicker),
            )
        )
    rows.append(Row(f"pixels changed outside the face, {kind}", changed, ".0f", 0, at_most=True, cases=len(results)))
    return rows


def portrait_rows(portraits: list[PortraitResult]) -> list[Row]:
    rows = []
    toothy = [one for one in portraits if one.toothy]
    for name, group in (("portraits", portraits), (f"{len(toothy)} toothy smiles", toothy)):
        if group:
            rows += closure_rows(name, [one.closures for one in group], [one.closures_smooth for one in group])
    opening = float(np.mean([one.opening for one in portraits]))
    rows.append(Row("opening's 90th percentile, portraits, eye distances", opening, cases=len(portraits)))
    rows += common_rows("portraits", portraits, sum(one.changed_outside for one in portraits))
    return rows


def tokenizer_rows(name: str, gains: np.ndarray, goal: float) -> list[Row]:
    """Of gains `(N, 2)` in dB, see `reconstruction_gains`."""
    decoded, painted = gains.mean(0)
    beside = f"at the true landmarks {painted:+.2f}"
    return [
        Row(f"tokenizer, mouth PSNR over copying, {name}, dB", decoded, "+.2f", goal, beside=beside, cases=len(gains))
    ]
