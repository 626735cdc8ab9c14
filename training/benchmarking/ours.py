"""The parts of the benchmark that measure AvatarSync."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from avatarsync import TalkingHeadVideo
from avatarsync.precision import has_fast_bfloat16
from avatarsync.rendering import FaceRenderer
from avatarsync.schedule import parse_frame_rate
from avatarsync.video import load_image

from .setting import (
    SHORT_TEXT,
    TEXT,
    Setting,
    Stopwatch,
    first_phonemes,
    first_seconds,
    median,
    portrait,
    say,
    use_threads,
    write_video,
)

BATCH = 8
PHONEMES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)
SIZES = (256, 512, 1024, 2048)
PAINTED_SIZE = 200
MEMORY_SECONDS, MEMORY_FPS = (10, 600), "10"


def total(setting: Setting) -> dict:
    """From a text to a finished mp4, as a ratio to the video's length; 1.0 is real time."""
    walls, cpus = [], []
    for run in range(setting.runs + 1):
        watch = Stopwatch.start()
        speech = setting.talk.speak(TEXT)
        stream = setting.talk.stream(setting.picture, speech=speech, fps=setting.fps)
        write_video(stream)
        wall, cpu = watch.read()
        seconds = stream.num_frames / float(stream.fps)
        if run:  # the first warms up
            walls.append(wall / seconds)
            cpus.append(cpu / seconds)
    return {"ratio": median(walls), "cpu_ratio": median(cpus), "runs": walls, "seconds_of_video": seconds}


def phonemes(setting: Setting, counts: tuple[int, ...]) -> dict:
    """Seconds from a speech's phonemes to a finished mp4 (Figure 5), with a line and a parabola through them."""
    speech = say(setting.talk, 10.0)
    while sum(p.symbol != "sil" for p in speech.track) < max(counts):
        speech = say(setting.talk, 2 * speech.duration)
    write_video(setting.talk.stream(setting.picture, speech=first_seconds(speech, 2.0), fps=setting.fps))
    rows = []
    for count in counts:
        part = first_phonemes(speech, count)
        watch = Stopwatch.start()
        write_video(setting.talk.stream(setting.picture, speech=part, fps=setting.fps))
        wall, cpu = watch.read()
        rows.append({"phonemes": count, "wall": wall, "cpu": cpu, "seconds_of_video": part.duration})
    out = {"rows": rows}
    for clock in ("wall", "cpu"):
        out[clock] = fit_line([row["phonemes"] for row in rows], [row[clock] for row in rows])
    return out


def fit_line(counts: list[int], seconds: list[float]) -> dict:
    """Slope and R² of a straight line, and what a quadratic term would add to the most phonemes, as a share."""
    x, y = np.array(counts, float), np.array(seconds)
    slope, intercept = np.polyfit(x, y, 1)
    r_squared = 1 - np.square(y - slope * x - intercept).sum() / np.square(y - y.mean()).sum()
    out = {"slope": float(slope), "intercept": float(intercept), "r_squared": float(r_squared)}
    if len(x) > 3:
        parabola, covariance = np.polyfit(x, y, 2, cov=True)
        share = x.max() ** 2 / y.max()
        out |= {
            "quadratic_share": float(parabola[0] * share),
            "quadratic_error": float(covariance[0, 0] ** 0.5 * share),
        }
    return out


def stages(setting: Setting) -> dict:
    """Seconds of each stage for one sentence, one after the other and each alone."""
    talk, out = setting.talk, {}

    def timed(name: str, work):
        work()  # warm-up
        walls, cpus = [], []
        for _ in range(setting.runs):
            watch = Stopwatch.start()
            result = work()
            wall, cpu = watch.read()
            walls.append(wall)
            cpus.append(cpu)
        out[name] = {"wall": median(walls), "cpu": median(cpus)}
        return result

    speech = timed("text to phonemes and sound", lambda: talk.speak(TEXT))
    pixels = load_image(setting.picture)
    alignment = timed("face alignment", lambda: talk.model.face_aligner.align(pixels))
    tokenizer, strategy = talk.model.visual_tokenizer, talk.model.config.crop_strategy
    renderer = timed("renderer's tables", lambda: FaceRenderer(tokenizer, pixels, alignment, strategy, True))
    schedule = talk.processor(speech, setting.fps)
    renderer.reference = talk.model.at_rest(renderer.reference, schedule.silent_unit)
    units = (schedule.unit_ids, schedule.durations)
    timed("keyframes", lambda: list(talk.model.generate_keyframes(*units, renderer.reference)))
    times = schedule.frames.times()

    def all_codes() -> torch.Tensor:
        return torch.cat(list(talk.model.generate_codes(*units, schedule.keyframe_times, times, renderer.reference)))

    codes = timed("keyframes and interpolation", all_codes).split(BATCH)
    poses = torch.full((BATCH, 4), 0.003)

    @torch.inference_mode()
    def paint() -> None:
        for part in codes:
            reference = renderer.reference.expand(len(part))
            tokenizer.decode(part, reference, renderer.detail, foretold=True, painted=renderer.mouth.drawn < 1)

    def render() -> list[np.ndarray]:
        return [renderer.render(part, head_poses=poses[: len(part)]) for part in codes]

    timed("motion and painting", paint)
    frames = np.concatenate(timed("motion, painting and rendering", render))
    timed("encoding", lambda: encode(frames, speech, setting.fps))
    for clock in ("wall", "cpu"):
        for name, whole, part in (
            ("interpolation", "keyframes and interpolation", "keyframes"),
            ("rendering", "motion, painting and rendering", "motion and painting"),
        ):
            out.setdefault(name, {})[clock] = out[whole][clock] - out[part][clock]
    for whole in ("keyframes and interpolation", "motion, painting and rendering"):
        del out[whole]
    return {"seconds_of_video": len(frames) / float(schedule.frames.fps), "stages": out}


def encode(frames: np.ndarray, speech, fps: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        video = TalkingHeadVideo(frames, speech.audio, speech.sampling_rate, parse_frame_rate(fps), speech.track)
        video.save(Path(folder) / "encoded.mp4")


def latency(setting: Setting) -> dict:
    """Seconds from the call of `stream(text=…)` to the first frame, in a process that has drawn before."""
    out = {}
    for name, text in (("one sentence", SHORT_TEXT), ("a minute of text", TEXT * 8)):
        walls = []
        for run in range(setting.runs + 1):
            watch = Stopwatch.start()
            stream = setting.talk.stream(setting.picture, text=text, fps=setting.fps)
            next(stream)
            if run:
                walls.append(watch.read()[0])
            del stream  # which ends its threads
        out[name] = {"seconds": median(walls), "runs": walls}
    return out


def sizes(setting: Setting, sides: tuple[int, ...], image: Path | None) -> dict:
    """Ratio to the video's length by the portrait's side in pixels."""
    speech = first_seconds(setting.talk.speak(TEXT), 3.0)
    return {str(side): ratio_of(setting, portrait(side, image), speech) for side in sides}


def threads(setting: Setting) -> dict:
    """Ratio to the video's length by PyTorch's threads."""
    speech = first_seconds(setting.talk.speak(TEXT), 3.0)
    out = {}
    for count in sorted({1, 2, setting.threads}):
        use_threads(count)
        out[str(count)] = ratio_of(setting, setting.picture, speech)
    use_threads(setting.threads)
    return out


def ratio_of(setting: Setting, picture, speech) -> dict:
    walls, cpus = [], []
    for run in range(min(setting.runs, 2) + 1):
        watch = Stopwatch.start()
        write_video(setting.talk.stream(picture, speech=speech, fps=setting.fps))
        wall, cpu = watch.read()
        if run:
            walls.append(wall / speech.duration)
            cpus.append(cpu / speech.duration)
    return {"ratio": median(walls), "cpu_ratio": median(cpus)}


def precision(setting: Setting) -> dict:
    """Ratio with the painter in bfloat16, where this CPU multiplies it, and in float32.

    In a picture of 200 px: in large faces mouths are drawn, and the painter does nothing."""
    speech = first_seconds(setting.talk.speak(TEXT), 3.0)
    picture, out = setting.picture.resize((PAINTED_SIZE, PAINTED_SIZE), Image.Resampling.LANCZOS), {}
    if has_fast_bfloat16():
        out["bfloat16"] = ratio_of(setting, picture, speech)
    with mock.patch("avatarsync.modeling_visual_tokenizer.has_fast_bfloat16", return_value=False):
        out["float32"] = ratio_of(setting, picture, speech)
    return out


def pictures(setting: Setting) -> dict:
    """Seconds a portrait, of a list of portraits that say one sentence."""
    speech, out = first_seconds(setting.talk.speak(TEXT), 2.0), {}
    for count in (1, 2, 4):
        watch = Stopwatch.start()
        setting.talk([setting.picture] * count, speech=speech, fps=setting.fps)
        wall, cpu = watch.read()
        out[str(count)] = {"wall": wall / count, "cpu": cpu / count}
    return out


def memory(setting: Setting, model: str | None, image: Path | None) -> dict:
    """Peak memory of a process over its imports, by the length of what is said, each in a process of its own."""
    out = {}
    for seconds in MEMORY_SECONDS:
        script = Path(__file__).resolve().parents[1] / "benchmark.py"
        words = [sys.executable, str(script), "--memory_of", str(seconds), "--size", str(setting.size)]
        words += ["--fps", MEMORY_FPS, "--threads", str(setting.threads)]
        for name, value in (("--model", model), ("--image", image)):
            words += [] if value is None else [name, str(value)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        out[str(seconds)] = json.loads(done.stdout.splitlines()[-1])
    first, last = (out[str(seconds)]["over_imports"] for seconds in MEMORY_SECONDS)
    return {"megabytes": out, "growth": last / first, "fps": MEMORY_FPS}
