"""What all parts of the benchmark share: the portrait, the speech, and how time is taken."""

import re
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut

from avatarsync import AvatarSyncPipeline, FrameStream
from avatarsync.phonemes import PhonemeTrack, Speech
from avatarsync.video import VideoWriter

TEXT = (
    "The quick brown fox jumps over the lazy dog, while many people watch from the big bridge. "
    "Both of them move away before five in the evening. "
)
SHORT_TEXT = "Hello, it is good to see you. A moment ago I was only a picture."


def portrait(size: int, path: Path | None = None) -> Image.Image:
    """A square portrait, by default the astronaut that scikit-image ships, head and shoulders."""
    if path is None:
        # The face of a head-and-shoulders portrait, not the small one of the full picture.
        picture = Image.fromarray(astronaut()).crop((110, 0, 350, 240))
    else:
        picture = Image.open(path).convert("RGB")
    return picture.resize((size, size), Image.Resampling.LANCZOS)


@dataclass
class Setting:
    """The loaded pipeline and what every part is measured with unless it varies it."""

    talk: AvatarSyncPipeline
    picture: Image.Image
    size: int
    fps: str
    runs: int
    threads: int


@dataclass
class Stopwatch:
    """Seconds of the wall's clock and of the process's own, all threads together."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> "Stopwatch":
        return cls(time.perf_counter(), time.process_time())

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


def median(values: list[float]) -> float:
    return float(statistics.median(values))


def write_video(stream: FrameStream) -> None:
    """Draw all frames and encode them into a file that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        sound = (stream.audio, stream.sampling_rate)
        with VideoWriter(Path(folder) / "benchmark.mp4", stream.fps, stream.height, stream.width, *sound) as writer:
            for frame in stream:
                writer.write(frame)


def say(talk: AvatarSyncPipeline, seconds: float) -> Speech:
    """The sentences above, as often as it takes to speak for so many seconds, cut off there."""
    once = talk.speak(TEXT)
    times = int(np.ceil(seconds / once.duration))
    return first_seconds(talk.speak(TEXT * times) if times > 1 else once, seconds)


def first_seconds(speech: Speech, seconds: float) -> Speech:
    """The beginning of a speech; phonemes that end later are left out."""
    seconds = min(seconds, speech.duration)
    track = PhonemeTrack([p for p in speech.track if p.end <= seconds], speech.language, seconds)
    samples = round(seconds * speech.sampling_rate)
    return Speech(track, speech.audio[:samples], speech.sampling_rate, speech.language)


def first_phonemes(speech: Speech, count: int) -> Speech:
    """The beginning of a speech with so many phonemes; pauses are not counted."""
    spoken = [p for p in speech.track if p.symbol != "sil"]
    return first_seconds(speech, spoken[count - 1].end)


def peak_megabytes() -> float:
    """The most memory that this process ever held."""
    try:
        # getrusage would count what its parent held when it was started.
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def use_threads(count: int) -> None:
    torch.set_num_threads(count)
