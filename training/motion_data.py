"""Clips as sequences: visual units on one side, visual codes of every frame on the other."""

import hashlib
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from avatarsync.data.dataset import Rows
from avatarsync.data.expressions import Expressions
from avatarsync.errors import DatasetError
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel
from avatarsync.phonemes import SILENCE, VisualMapping
from avatarsync.processing_avatarsync import BILABIAL
from avatarsync.schedule import locate, shown_keyframe_times, surround_with_rest, timed_units

SILENT_ID = 0
CLOSED_ID = VisualMapping.default().unit_id(BILABIAL)
CLOSURE_REACH = 1  # frames about a closure's own among which the lips are looked for at their most closed
CLOSED_SHARE = 0.12  # of the clip's 90th percentile of lip opening
ENCODE_BATCH = 64


@dataclass
class Clip:
    """One clip: T_s units, T frames.

    Attributes:
        row: its index in the `Rows` it comes from.
        unit_ids, durations, keyframes: `(T_s,)` ids, seconds, and seconds when the keyframes are shown, all as the
            pipeline would have them: with the silence that it puts before and after.
        codes: continuous codes `(T, K, D)` of every frame, seen beside the clip's frame that is nearest to rest.
        expressions: `(T, 468, 2)`, the landmarks as expressions of the neutral face.
        openness: `(T,)` of the eyes, 1 at the clip's usual opening.
        portrait: codes `(K, D)` of the first frame, seen alone as portraits are; None: `codes[0]`.
    """

    row: int
    speaker: str
    fps: float
    unit_ids: torch.Tensor
    durations: torch.Tensor
    keyframes: np.ndarray
    codes: torch.Tensor
    expressions: torch.Tensor
    openness: torch.Tensor
    portrait: torch.Tensor | None = None

    @property
    def told(self) -> torch.Tensor:
        """What the keyframe generator is told where the first frame is the portrait, `(K, D)`."""
        return self.codes[0] if self.portrait is None else self.portrait

    @property
    def gaps(self) -> torch.Tensor:
        """Inner-lip gap `(T,)`."""
        return self.expressions[:, 14, 1] - self.expressions[:, 13, 1]

    @property
    def closed(self) -> torch.Tensor:
        """Whether the lips are closed `(T,)`; never nowhere."""
        return self.gaps <= torch.maximum(CLOSED_SHARE * self.gaps.quantile(0.9), self.gaps.min())

    @property
    def keyframe_indices(self) -> np.ndarray:
        """The frame nearest to each keyframe; in silence the nearest one with closed lips, on /m b p/ the most closed.

        People breathe and get ready to speak with open lips; a generated face is wanted shut when nobody speaks. Their
        closures last a frame or two, about as long as phonemes' times are off: three of five GRID closures are at
        their tightest a frame before the phoneme's centre.
        """
        last = len(self.codes) - 1
        indices = np.clip(np.round(self.keyframes * self.fps).astype(int), 0, last)
        gaps = self.gaps.numpy()
        for position in np.flatnonzero(self.unit_ids.numpy() == CLOSED_ID):
            first = max(indices[position] - CLOSURE_REACH, 0)
            indices[position] = first + gaps[first : indices[position] + CLOSURE_REACH + 1].argmin()
        closed = np.flatnonzero(self.closed.numpy())
        for position in np.flatnonzero(self.silent):
            indices[position] = closed[np.abs(closed - indices[position]).argmin()]
        return indices

    @property
    def silent(self) -> np.ndarray:
        """Which units `(T_s,)` are silence."""
        return self.unit_ids.numpy() == SILENT_ID

    @property
    def shut(self) -> np.ndarray:
        """Which units `(T_s,)` want closed lips: silence and /m b p/."""
        return self.silent | (self.unit_ids.numpy() == CLOSED_ID)

    @property
    def located_frames(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Left and right keyframe, relative time and interval of every frame; see `avatarsync.schedule.locate`."""
        return locate(np.arange(len(self.codes)) / self.fps, self.keyframes)

    @property
    def learnable_frames(self) -> np.ndarray:
        """Indices of the frames in which somebody speaks or the lips are closed."""
        left, right, _, _ = self.located_frames
        return np.flatnonzero(~(self.silent[left] & self.silent[right]) | self.closed.numpy())

    @property
    def keyframe_expressions(self) -> torch.Tensor:
        """Expressions `(T_s, 468, 2)` at the very moments of the keyframes; with closed lips as `keyframe_indices`."""
        moments = np.clip(self.keyframes * self.fps, 0, len(self.codes) - 1)
        before = np.floor(moments).astype(int)
        after = np.minimum(before + 1, len(self.codes) - 1)
        share = torch.from_numpy(moments - before).float()[:, None, None]
        between = torch.lerp(self.expressions[before], self.expressions[after], share)
        shut = torch.from_numpy(self.shut)[:, None, None]
        return torch.where(shut, self.expressions[self.keyframe_indices], between)


def fingerprint(model: torch.nn.Module) -> str:
    """Twelve digits that change with the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.inference_mode()
def stillest(landmarks: torch.Tensor, resting: torch.Tensor) -> int:
    """Index of the face, of landmarks `(N, 468, 2)`, that is nearest to a resting one `(468, 2)`."""
    return int((landmarks - resting).abs().mean((1, 2)).argmin())


def pixels_of(rows: Rows, places: list[tuple[int, int]], device: torch.device) -> torch.Tensor:
    """Crops `(B, 3, S, S)` in [-1, 1] of frames, each a row and its number there."""
    crops = np.stack([rows.crop(row, frame) for row, frame in places])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).to(device) / 127.5 - 1


@torch.inference_mode()
def encode_rows(
    model: VisualTokenizerModel, rows: Rows, name: str, folder: Path, beside: list[int] | None = None
) -> list[torch.Tensor]:
    """Continuous codes `(T, K, D)` of every row, kept in `folder` under the encoder's fingerprint and `name`.

    Args:
        beside: the frame of each row beside which its frames are seen; None: each alone.
    """
    kind = name if beside is None else f"{name}-beside"
    cache = folder / f"codes-{fingerprint(model.encoder)}-{kind}.safetensors"
    if cache.exists():
        codes = load_file(cache)["codes"]
        if len(codes) == rows.num_frames.sum():
            return list(codes.split(rows.num_frames.tolist()))
    places = [[(row, frame) for frame in range(count)] for row, count in enumerate(rows.num_frames)]
    if beside is None:
        places = [[place for row in places for place in row]]
    batches = [part[start : start + ENCODE_BATCH] for part in places for start in range(0, len(part), ENCODE_BATCH)]
    parts = []
    for batch in tqdm(batches, desc=f"encoding {name}", disable=None):
        row = batch[0][0]
        other = None if beside is None else pixels_of(rows, [(row, beside[row])], model.device)
        parts.append(model.encode(pixels_of(rows, batch, model.device), other).float().cpu())
    codes = torch.cat(parts)
    folder.mkdir(exist_ok=True)
    partial = cache.with_suffix(f".{os.getpid()}.partial")
    save_file({"codes": codes}, partial)
    os.replace(partial, cache)
    return list(codes.split(rows.num_frames.tolist()))


@torch.no_grad()
def load_clips(model: VisualTokenizerModel, rows: Rows, name: str, folder: Path) -> list[Clip]:
    """The rows that have phonemes, encoded; `folder` keeps the codes.

    Raises:
        DatasetError: no clip has phonemes.
    """
    mapping, expressions = VisualMapping.default(), Expressions.of_rows(rows)
    beside = [
        stillest(torch.from_numpy(np.array(rows.landmarks(row))), expressions.resting[speaker])
        for row, speaker in enumerate(rows.speakers)
    ]
    clips = []
    for row, codes in enumerate(encode_rows(model, rows, name, folder, beside)):
        track = rows.track(row)
        if not len(track):
            continue
        units = timed_units(track, mapping, len(codes) / rows.fps(row))
        units = surround_with_rest(units, mapping.unit_id(SILENCE))
        landmarks = torch.from_numpy(np.array(rows.landmarks(row)))
        speaker = rows.speakers[row]
        clips.append(
            Clip(
                row,
                speaker,
                rows.fps(row),
                torch.tensor([unit.unit_id for unit in units]),
                torch.tensor([unit.duration for unit in units], dtype=torch.float32),
                shown_keyframe_times(units, mapping.unit_id(BILABIAL), Fraction(rows.fps(row))),
                codes,
                expressions(landmarks, [speaker] * len(landmarks)),
                torch.from_numpy(np.array(rows.openness(row), np.float32)).clamp(0, 1.2),
                model.encode(pixels_of(rows, [(row, 0)], model.device))[0].float().cpu(),
            )
        )
    if not clips:
        raise DatasetError(f"no clip of the {name} split has phonemes: prepare the videos with their transcripts")
    return clips


def portrait_codes(model: VisualTokenizerModel, portraits: Rows | None, clips: list[Clip], folder: Path):
    """Continuous codes `(N, K, D)` of the portraits, what references look like in use; without, of first frames."""
    if portraits is None:
        return torch.stack([clip.told for clip in clips])
    return torch.cat(encode_rows(model, portraits, "portraits", folder))


def correlations(expressions: list[torch.Tensor], clips: list[Clip]) -> dict[str, float]:
    """Mean over clips of Pearson's r between generated and real lip opening and mouth width; gain of the opening."""
    opening, width, gain = [], [], []
    for expression, clip in zip(expressions, clips, strict=True):
        pairs = []
        for landmarks in (expression, clip.expressions):
            gap = (landmarks[:, 14] - landmarks[:, 13]).norm(dim=-1)
            corners = (landmarks[:, 291] - landmarks[:, 61]).norm(dim=-1)
            pairs.append((gap, corners))
        (gap, corners), (real_gap, real_corners) = pairs
        for values, pair in ((opening, (gap, real_gap)), (width, (corners, real_corners))):
            # A face that does not move at all goes with nothing: r = 0.
            values.append(torch.corrcoef(torch.stack(pair))[0, 1].nan_to_num(0.0).item())
        gain.append((gap.std() / real_gap.std()).item())
    return {
        "opening_r": float(np.mean(opening)),
        "width_r": float(np.mean(width)),
        "opening_gain": float(np.mean(gain)),
    }
