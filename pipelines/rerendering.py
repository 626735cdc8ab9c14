"""Rendering again after the phonemes were edited: only the frames that can change.

A frame is a function of its two neighbouring keyframes and of tongue and lips at them, of its place between them, of
the eyes and of the head's pose at its time. A keyframe is a function of the units that its attention reaches (Appendix
A.4) and of its noise. So a frame whose share of all these is the same in two schedules is the same picture, and need
not be drawn again. Where the attention is unbounded, every frame may depend on every unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from avatarsync.blinking import eye_openness
from avatarsync.errors import InvalidArgumentError
from avatarsync.head_motion import HEAD_LAG, HEAD_MOTION_REACH, head_poses
from avatarsync.modeling_avatarsync import AvatarSyncModel
from avatarsync.outputs import Making
from avatarsync.processing_avatarsync import ScheduledSpeech
from avatarsync.schedule import FrameSchedule, locate


@dataclass(frozen=True)
class SelectedFrames(FrameSchedule):
    """Some frames of a clip; `times` are those that the whole clip has at the same places."""

    indices: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        return len(self.indices)

    def times(self) -> np.ndarray:
        return FrameSchedule(self.duration, self.fps).times()[list(self.indices)]


def bounded_reach(model: AvatarSyncModel) -> tuple[int, int] | None:
    """Units before and after its own that a keyframe depends on; None where nothing bounds them."""
    generator = model.keyframe_generator
    return generator.reach if generator.config.frame_context == "none" else None


def changed_frames(model: AvatarSyncModel, before: Making, schedule: ScheduledSpeech) -> np.ndarray:
    """Indices, int64 in order, of the frames that differ between an earlier video and another schedule.

    Args:
        model: as the earlier video was made with it, its attention window included.
        before: how the earlier video was made.
        schedule: of the same audio at the same frame rate, with other phonemes.

    Raises:
        InvalidArgumentError: another number of frames, or another frame rate.
    """
    earlier = before.schedule
    if schedule.frames != earlier.frames:
        raise InvalidArgumentError(
            f"the earlier video has {earlier.frames.num_frames} frames, this speech needs "
            f"{schedule.frames.num_frames}: keep its audio and frame rate, or render everything"
        )
    old, new = _ingredients(model, before, earlier), _ingredients(model, before, schedule)
    if old is None or new is None:
        same = all(
            np.array_equal(getattr(earlier, name), getattr(schedule, name))
            for name in ("unit_ids", "durations", "keyframe_times", "articulators")
        )
        return np.arange(0 if same else schedule.frames.num_frames)
    return np.flatnonzero((old != new).any(1))


def _ingredients(model: AvatarSyncModel, making: Making, schedule: ScheduledSpeech) -> np.ndarray | None:
    """All that decides what a frame looks like, `(T, N)`; None where a keyframe depends on all units."""
    reach = bounded_reach(model)
    if reach is None:
        return None
    past_units, future_units = reach
    units = np.stack([schedule.unit_ids.numpy(), schedule.durations.numpy()], 1).astype(np.float64)  # (T_s, 2)
    padded = np.pad(units, ((past_units, future_units), (0, 0)), constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, past_units + 1 + future_units, 0)  # (T_s, 2, W)
    keyframes = np.concatenate([windows.reshape(len(units), -1), schedule.articulators], 1)
    if making.options["temperature"] > 0:
        # Noise is drawn by the keyframe's number.
        keyframes = np.concatenate([keyframes, np.arange(len(units), dtype=np.float64)[:, None]], 1)
    times = schedule.frames.times()
    left, right, relative, interval = locate(times, schedule.keyframe_times)
    parts = [keyframes[left], keyframes[right], relative[:, None], interval[:, None]]
    seed = making.options["seed"]
    if making.options["blink"]:
        parts.append(eye_openness(times, seed, schedule.frames.duration)[:, None])
    if making.options["motion"] != "still":
        parts.append(head_poses(times, schedule.spoken(), seed))
    return np.concatenate(parts, 1)


def select_frames(
    model: AvatarSyncModel, schedule: ScheduledSpeech, frames: Sequence[int], temperature: float
) -> ScheduledSpeech:
    """The schedule of some frames of a clip, with only the units that these depend on where that is known.

    Raises:
        InvalidArgumentError: not increasing, empty, or beyond the clip.
    """
    total = schedule.frames.num_frames
    try:
        indices = np.asarray(frames)
    except ValueError:  # lists of several lengths
        indices = np.empty(0)
    if (
        indices.ndim != 1
        or len(indices) == 0
        or not np.issubdtype(indices.dtype, np.integer)
        or indices[0] < 0
        or indices[-1] >= total
        or (np.diff(indices) <= 0).any()
    ):
        raise InvalidArgumentError(f"frames= must be increasing whole numbers from 0 to {total - 1}, at least one")
    chosen = SelectedFrames(schedule.frames.duration, schedule.frames.fps, tuple(indices.tolist()))
    schedule = replace(schedule, frames=chosen)
    reach = bounded_reach(model)
    if reach is None or temperature > 0:  # noise is drawn by the keyframe's number, counted from the first
        return schedule
    times = chosen.times()
    left, right, _, _ = locate(times, schedule.keyframe_times)
    half = schedule.durations.double().numpy() / 2
    # The head also rises with speech beyond the keyframes' reach.
    heard = np.searchsorted(schedule.keyframe_times + half, times[0] - HEAD_LAG - HEAD_MOTION_REACH)
    silent = np.searchsorted(schedule.keyframe_times - half, times[-1] - HEAD_LAG + HEAD_MOTION_REACH)
    first, last = max(0, min(left[0] - reach[0], heard - 1)), min(max(right[-1] + reach[1], silent), len(half) - 1)
    # How long a silence at either end is, and so whether it is a pause, is told by what is spoken beyond.
    mute = (schedule.unit_ids == schedule.silent_unit).numpy()
    while first > 0 and mute[first]:
        first -= 1
    while last < len(half) - 1 and mute[last]:
        last += 1
    needed = slice(first, last + 1)
    return replace(
        schedule,
        unit_ids=schedule.unit_ids[needed],
        durations=schedule.durations[needed],
        keyframe_times=schedule.keyframe_times[needed],
        articulators=schedule.articulators[needed],
    )
