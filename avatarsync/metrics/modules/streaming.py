"""What the metric modules share: they take batches as `evaluate` hands them over, and keep sums instead of examples.

A metric's whole memory is `state`, a dictionary of float64 tensors whose sizes do not grow with what was added.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch

from ...errors import InvalidArgumentError
from ...image_processing_face import eye_distance
from .hugging_face_evaluate import evaluate

OPEN_CLIP = "clip_"  # begins the names of what is carried from batch to batch of a clip
CITATION = "AvatarSync: Rethinking Talking-Head Animation through Autoregressive Perspective"


class StreamingMetric(evaluate.Metric, ABC):
    """A metric whose examples are added batch by batch, in any sizes, in flat memory.

    Subclasses say what they are (`description`, `inputs`, `features`), name their sums (`empty_state`), add a batch to
    them (`update`) and read the figures off (`result`). Nothing is written to disk.

    Attributes:
        state: all that is kept of what was added.
    """

    description: str
    inputs: str
    features_of_batch: dict

    def __init__(self, *args, **kwargs):
        if kwargs.get("num_process", 1) != 1:
            raise InvalidArgumentError("a metric runs in one process: join those of several with merge()")
        super().__init__(*args, **kwargs)
        self.reset()

    def _info(self) -> evaluate.MetricInfo:
        from datasets import Features

        return evaluate.MetricInfo(
            description=self.description,
            citation=CITATION,
            inputs_description="\n" + self.inputs,
            features=Features(self.features_of_batch),
        )

    def _build_data_dir(self) -> str:
        return ""  # evaluate's place for stored examples, of which there are none

    def _compute(self, **inputs):
        raise NotImplementedError  # evaluate's hook for stored examples

    @abstractmethod
    def empty_state(self) -> dict[str, torch.Tensor]:
        """The sums before anything was added."""

    @abstractmethod
    def update(self, predictions, references, **inputs) -> None:
        """Check a batch and add it to `state`; a batch that is refused changes nothing."""

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Figures of all that was added, at least one example."""

    def reset(self) -> None:
        """Forget everything."""
        self.state = self.empty_state()
        self.added = 0

    @property
    def state_bytes(self) -> int:
        """Size of all that is kept."""
        return sum(value.numel() * value.element_size() for value in self.state.values())

    def __len__(self) -> int:
        return self.added

    def add_batch(self, *, predictions=None, references=None, **kwargs) -> None:
        """Add a batch.

        Raises:
            InvalidArgumentError: wrong types, shapes or lengths.
        """
        self.update(predictions, references, **kwargs)
        self.added += len(references if predictions is None else predictions)

    def add(self, *, prediction=None, reference=None, **kwargs) -> None:
        """Add one example: a batch of one.

        Raises:
            InvalidArgumentError: wrong types or shapes.
        """
        batch = {name: None if value is None else np.asarray(value)[None] for name, value in kwargs.items()}
        references = None if reference is None else np.asarray(reference)[None]
        self.add_batch(predictions=np.asarray(prediction)[None], references=references, **batch)

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict[str, float]:
        """Figures of everything added, and of the batch given here, if any; then begin anew.

        Raises:
            InvalidArgumentError: nothing was added, or the batch is wrong.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references, **kwargs)
        if not self.added:
            raise InvalidArgumentError(f"nothing to compute {self.name} of: add a batch first")
        self.close()
        figures = self.result()
        self.reset()
        return figures

    def close(self) -> None:
        """Called before the figures are read off."""

    def merge(self, other: "StreamingMetric") -> None:
        """Take in what another metric of the same kind was given, as in another process.

        Raises:
            InvalidArgumentError: it is another metric.
        """
        if type(other) is not type(self) or other.state.keys() != self.state.keys():
            raise InvalidArgumentError(f"{other.name} cannot be merged into {self.name}: give one of the same kind")
        self.merge_state(other.state)
        self.added += other.added

    def merge_state(self, other: dict[str, torch.Tensor]) -> None:
        """Add the sums of another `state`; what an open clip carries stays."""
        for name, value in other.items():
            if not name.startswith(OPEN_CLIP):
                self.state[name] = self.state[name] + value


class ClipMetric(StreamingMetric):
    """A metric of what happens in time: batches are consecutive frames of a clip until `end_clip` is called.

    What is carried from batch to batch of the open clip is in `state` as well, under names that begin with "clip_",
    among them "clip_frames"; its size is bounded. `compute` ends the clip that is open.
    """

    @abstractmethod
    def finish_clip(self) -> None:
        """Move what is known of the open clip into the sums."""

    def end_clip(self) -> None:
        """The next batch begins another clip.

        Raises:
            InvalidArgumentError: the open clip is too short to be measured; it does not count.
        """
        try:
            self.finish_clip()
        finally:
            self.state |= {name: value for name, value in self.empty_state().items() if name.startswith(OPEN_CLIP)}

    def close(self) -> None:
        if self.clip_is_open:
            self.end_clip()

    @property
    def clip_is_open(self) -> bool:
        return bool(self.state["clip_frames"] > 0)

    def merge(self, other: "ClipMetric") -> None:
        """Take in what another metric of the same kind was given, as in another process.

        Raises:
            InvalidArgumentError: it is another metric, or a clip is open.
        """
        if self.clip_is_open or (isinstance(other, ClipMetric) and other.clip_is_open):
            raise InvalidArgumentError(f"{self.name} is merged between clips: call end_clip() on both first")
        super().merge(other)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def check_frames(frames, name: str, least: int = 1) -> np.ndarray:
    """`frames` as `(B, H, W, 3) uint8` of at least `least` pixels a side.

    Raises:
        InvalidArgumentError: anything else.
    """
    if isinstance(frames, (list, tuple)) and len({np.shape(frame) for frame in frames}) == 1:
        frames = np.stack([np.asarray(frame) for frame in frames])
    given = f"{frames.dtype} {tuple(frames.shape)}" if hasattr(frames, "dtype") else type(frames).__name__
    if isinstance(frames, torch.Tensor):
        frames = frames.numpy(force=True)
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise InvalidArgumentError(f"{name} must be frames (B, H, W, 3) of uint8, not {given}")
    if not len(frames) or min(frames.shape[1:3]) < least:
        raise InvalidArgumentError(f"{name} must be at least one frame of {least} pixels a side, not {given}")
    return frames


def check_frame_pairs(predictions, references, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Both as `check_frames` has them, of one shape.

    Raises:
        InvalidArgumentError: anything else.
    """
    predictions = check_frames(predictions, "predictions", least)
    references = check_frames(references, "references", least)
    if predictions.shape != references.shape:
        raise InvalidArgumentError(
            f"predictions {predictions.shape} and references {references.shape} must have the same shape"
        )
    return predictions, references


def check_landmarks(landmarks, name: str, count: int | None = None) -> np.ndarray:
    """`landmarks` as `(B, 468, 2)` of finite float64, B = `count` where that is given.

    Raises:
        InvalidArgumentError: anything else.
    """
    try:
        landmarks = np.asarray(landmarks, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name} must be landmarks (B, 468, 2), one array for all frames") from error
    if landmarks.ndim != 3 or landmarks.shape[1:] != (468, 2) or not len(landmarks):
        raise InvalidArgumentError(f"{name} must be landmarks (B, 468, 2), not {landmarks.shape}")
    if count is not None and len(landmarks) != count:
        raise InvalidArgumentError(f"{name} must be of {count} frames like the others, not of {len(landmarks)}")
    if not np.isfinite(landmarks).all():
        raise InvalidArgumentError(f"{name} holds landmarks that are not numbers: fill in lost faces first")
    if not eye_distance(landmarks).all():
        raise InvalidArgumentError(f"{name} holds a face whose eyes lie in one point: fill in lost faces first")
    return landmarks


def to_pixels(frames: np.ndarray) -> torch.Tensor:
    """Frames `(B, H, W, 3) uint8` → `(B, 3, H, W)` float32 in [-1, 1]."""
    return torch.from_numpy(np.require(frames, requirements="CW")).permute(0, 3, 1, 2).float() / 127.5 - 1


def chunks(count: int, size: int):
    """Slices of at most `size` that cover `count`: a batch of any length is worked on in flat memory."""
    return (slice(first, first + size) for first in range(0, count, size))
