"""One clip of one system: its frames pass through every metric, sixteen at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from ..distribution_features import DistributionFeatures, load_clip_features, load_picture_features
from ..errors import DatasetError
from ..identity import FaceEmbedding, load_face_embedding
from ..image_processing_face import warp_image
from ..metrics.modules import FID, FVD, ISS, LPIPS, PSNR, SSIM, Closure, Flicker, LipCorrelation, Sync, closure_moments
from ..metrics.modules.streaming import ClipMetric, StreamingMetric
from ..metrics.modules.sync import SHORTEST
from ..perceptual import PerceptualDistance, load_perceptual
from ..phonemes import PhonemeTrack
from ..sync import FPS, SAMPLES_PER_FRAME, SyncNetwork, load_sync_network
from ..video_frames import read_clock, read_frames

BATCH = 16
NONE = "none"
SAME_SHAPE = 0.02  # by which ratios of width to height may differ where a video is resized


@dataclass
class Networks:
    """What looks at frames; None where a figure is not wanted."""

    lpips: PerceptualDistance | None
    fid: DistributionFeatures | None
    fvd: DistributionFeatures | None
    sync: SyncNetwork | None
    identity: FaceEmbedding | None

    @classmethod
    def load(
        cls,
        lpips: str = "st-lpips-alexnet",
        fid: str = "st-lpips-alexnet",
        fvd: str = "st-lpips-alexnet",
        sync: str = "expert",
        identity: str = "dlib",
    ) -> "Networks":
        """Networks by name or path, "none" for none: see `load_perceptual`, `load_picture_features`,
        `load_clip_features`, `load_sync_network` and `load_face_embedding`.

        Raises:
            AvatarSyncError: see there.
        """
        loaders = {
            "lpips": (load_perceptual, lpips),
            "fid": (load_picture_features, fid),
            "fvd": (load_clip_features, fvd),
            "sync": (load_sync_network, sync),
            "identity": (load_face_embedding, identity),
        }
        return cls(**{name: None if source == NONE else load(source) for name, (load, source) in loaders.items()})


def make_metrics(networks: Networks, device: str) -> dict[str, StreamingMetric]:
    """Empty metrics of a generated video, by the names of the fields of `Networks` where they belong to one."""
    metrics = {
        "psnr": PSNR(),
        "ssim": SSIM(),
        "lips": LipCorrelation(),
        "flicker": Flicker(),
        "closure": Closure(),
    }
    for name, make in {"lpips": LPIPS, "fid": FID, "fvd": FVD, "sync": Sync, "identity": ISS}.items():
        if getattr(networks, name) is not None:
            metrics[name] = make(network=getattr(networks, name), device=device)
    return metrics


def make_real_metrics(networks: Networks, device: str) -> dict[str, StreamingMetric]:
    """Empty metrics of the real video, which nothing is compared with."""
    return {name: metric for name, metric in make_metrics(networks, device).items() if name in ("sync", "closure")}


def frames_of(path: Path, own_sound: bool, shape: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
    """Frames `(H, W, 3) uint8` of a video at 25 a second, from where its sound starts, or its picture.

    Args:
        shape: height and width that frames are brought to.

    Raises:
        DatasetError: the file is damaged, or of another shape than that.
    """
    # PyAV's errors are OSErrors and ValueErrors.
    try:
        for frame in read_frames(path, read_clock(path, Fraction(FPS), own_sound)):
            yield frame if shape is None else fit(frame, shape, path.name)
    except DatasetError:
        raise
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path.name} cannot be read as a video ({error}): convert it to mp4") from error


def fit(frame: np.ndarray, shape: tuple[int, int], name: str) -> np.ndarray:
    """`frame` `(H, W, 3)` at `shape`: the odd row or column that an encoder added is cut off, other sizes are resized.

    Raises:
        DatasetError: it shows another section of the picture.
    """
    height, width = shape
    if frame.shape[:2] == shape:
        return frame
    if 0 <= frame.shape[0] - height <= 1 and 0 <= frame.shape[1] - width <= 1:
        return np.ascontiguousarray(frame[:height, :width])
    if abs(frame.shape[1] / frame.shape[0] / (width / height) - 1) > SAME_SHAPE:
        raise DatasetError(
            f"{name} is {frame.shape[1]}x{frame.shape[0]} and the real video {width}x{height}: cut both to one section"
        )
    return np.array(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))


def batches(*videos: Iterator[np.ndarray], count: int) -> Iterator[list[np.ndarray]]:
    """The first `count` frames of several videos side by side, each `(B, H, W, 3)`, B at most 16."""
    pairs = islice(zip(*videos, strict=False), count)
    while batch := list(islice(pairs, BATCH)):
        yield [np.stack(frames) for frames in zip(*batch, strict=True)]


def check_length(count: int, name: str) -> None:
    """Raises DatasetError where a clip is too short for offsets of 15 frames."""
    if count < SHORTEST:
        raise DatasetError(f"{name} has {count} frames at {FPS} a second: give at least {SHORTEST}")


class FaceMetrics:
    """What lips, sound and phonemes are measured by, in generated and real videos alike."""

    def __init__(
        self,
        metrics: dict[str, StreamingMetric],
        landmarks: np.ndarray,
        sound: np.ndarray | None,
        track: PhonemeTrack | None,
    ):
        """`landmarks` `(T, 468, 2)` of the frames to come; `sound` at 16 kHz, `(640 T,)` or longer."""
        self.metrics, self.landmarks, self.sound = metrics, landmarks, sound
        self.moments = None if track is None else closure_moments(track, len(landmarks), FPS)
        self.sync = metrics.get("sync")
        self.matrices = None if self.sync is None else self.sync.network.matrices(landmarks)

    def add(self, first: int, frames: np.ndarray) -> None:
        """Frames `(B, H, W, 3)`, the first of them number `first`."""
        part = slice(first, first + len(frames))
        if self.sync is not None:
            pairs = zip(frames, self.matrices[part], strict=True)
            crops = np.stack([warp_image(frame, matrix, self.sync.network.side) for frame, matrix in pairs])
            places = slice(SAMPLES_PER_FRAME * part.start, SAMPLES_PER_FRAME * part.stop)
            self.sync.add_batch(predictions=crops, references=self.sound[places])
        if self.moments is not None:
            self.metrics["closure"].add_batch(predictions=self.landmarks[part], references=self.moments[part])


def measure_real(
    metrics: dict[str, StreamingMetric],
    frames: Iterator[np.ndarray],
    landmarks: np.ndarray,
    sound: np.ndarray | None,
    track: PhonemeTrack | None,
) -> None:
    """Add a real clip to `make_real_metrics`; the arguments are those of `measure_pair`."""
    face, first = FaceMetrics(metrics, landmarks, sound, track), 0
    for (batch,) in batches(frames, count=len(landmarks)):
        face.add(first, batch)
        first += len(batch)
    end_clips(metrics)


def measure_pair(
    metrics: dict[str, StreamingMetric],
    generated: Iterator[np.ndarray],
    real: Iterator[np.ndarray],
    landmarks: np.ndarray,
    real_landmarks: np.ndarray,
    sound: np.ndarray | None,
    track: PhonemeTrack | None,
) -> None:
    """Add a clip to `make_metrics`.

    Args:
        generated, real: their frames `(H, W, 3) uint8`, of one size; as many count as both have landmarks.
        landmarks, real_landmarks: `(T, 468, 2)` in pixels; of the generated ones, all.
        sound: float at 16 kHz, long enough for both; needed where sync is measured.
        track: what is said, for closures.
    """
    count = min(len(landmarks), len(real_landmarks))
    landmarks, real_landmarks = landmarks[:count], real_landmarks[:count]
    face, first = FaceMetrics(metrics, landmarks, sound, track), 0
    for predictions, references in batches(generated, real, count=count):
        part = slice(first, first + len(predictions))
        for name in ("psnr", "ssim", "lpips", "fid", "fvd", "flicker"):
            if name in metrics:
                metrics[name].add_batch(predictions=predictions, references=references)
        metrics["lips"].add_batch(predictions=landmarks[part], references=real_landmarks[part])
        if "identity" in metrics:
            metrics["identity"].add_batch(
                predictions=predictions,
                references=references,
                prediction_landmarks=landmarks[part],
                reference_landmarks=real_landmarks[part],
            )
        face.add(first, predictions)
        first = part.stop
    end_clips(metrics)


def end_clips(metrics: dict[str, StreamingMetric]) -> None:
    for metric in metrics.values():
        if isinstance(metric, ClipMetric) and metric.clip_is_open:
            metric.end_clip()


def read_off(metrics: dict[str, StreamingMetric]) -> dict[str, float]:
    """All figures, each under a name of its own; what cannot be told, as of metrics with too few examples, is left
    out."""
    figures: dict[str, float] = {}
    for name, metric in metrics.items():
        if not len(metric):
            continue
        if name == "fvd" and min(metric.state[f"{side}_count"] for side in ("generated", "real")) < 2:
            continue
        values = metric.compute()
        if name in ("fid", "fvd"):
            values = {key if key.startswith("F") else f"{name}_{key}": value for key, value in values.items()}
        figures |= {key: value for key, value in values.items() if value == value}  # not nan
    return figures
