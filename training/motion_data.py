"""Clips as sequences: visual units on one side, visual codes of every frame on the other."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from face_data import split_names
from tqdm import tqdm

from avatarsync.face_mesh import LEFT_LOWER_LID, LEFT_UPPER_LID, RIGHT_LOWER_LID, RIGHT_UPPER_LID
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel
from avatarsync.phonemes import PhonemeTrack, VisualMapping
from avatarsync.schedule import keyframe_times, timed_units

SILENT_ID = 0
CLOSED_SHARE = 0.12  # of the clip's 90th percentile of lip opening
UPPER_LIDS, LOWER_LIDS = list(RIGHT_UPPER_LID + LEFT_UPPER_LID), list(RIGHT_LOWER_LID + LEFT_LOWER_LID)


@dataclass
class Clip:
    """One clip: T_s units, T frames.

    Attributes:
        unit_ids, durations, keyframes: `(T_s,)` ids, seconds, and seconds of the keyframes.
        codes: continuous codes `(T, K, D)` of every frame.
        landmarks: `(T, 468, 2)` in fractions of the crop's side.
        openness: `(T,)` of the eyes, 1 at the clip's usual opening.
    """

    name: str
    fps: float
    unit_ids: torch.Tensor
    durations: torch.Tensor
    keyframes: np.ndarray
    codes: torch.Tensor
    landmarks: torch.Tensor
    openness: torch.Tensor

    @property
    def keyframe_indices(self) -> np.ndarray:
        """The frame nearest to each keyframe; in silence the nearest one with closed lips.

        People breathe and get ready to speak with open lips; a generated face is wanted shut when nobody speaks.
        """
        indices = np.clip(np.round(self.keyframes * self.fps).astype(int), 0, len(self.codes) - 1)
        gap = (self.landmarks[:, 14, 1] - self.landmarks[:, 13, 1]).numpy()
        limit = max(CLOSED_SHARE * np.quantile(gap, 0.9), gap.min())
        closed = np.flatnonzero(gap <= limit)
        for position in np.flatnonzero(self.unit_ids.numpy() == SILENT_ID):
            indices[position] = closed[np.abs(closed - indices[position]).argmin()]
        return indices


@torch.inference_mode()
def encode(model: VisualTokenizerModel, crops: np.ndarray) -> torch.Tensor:
    """Continuous codes `(N, K, D)` of crops `(N, S, S, 3)` uint8."""
    codes = []
    for start in range(0, len(crops), 32):
        pixels = torch.from_numpy(crops[start : start + 32]).permute(0, 3, 1, 2).float() / 127.5 - 1
        codes.append(model.encode(pixels))
    return torch.cat(codes)


def load_clips(labels: Path, tracks: Path, model: VisualTokenizerModel, cache: Path) -> tuple[list[Clip], list[Clip]]:
    """Training and held-out clips; codes are kept in `cache`."""
    train, held = split_names(labels, "clips")
    stored = torch.load(cache, weights_only=True) if cache.exists() else {}
    mapping = VisualMapping.default()
    clips = {}
    for path in tqdm([*train, *held], desc="encoding clips", disable=None):
        track_path = tracks / f"{path.stem}.json"
        if not track_path.exists():
            continue
        with np.load(path) as data:
            landmarks = torch.from_numpy(data["landmarks"] / data["crops"].shape[1]).float()
            if path.stem not in stored:
                stored[path.stem] = encode(model, data["crops"])
            fps = float(data["fps"])
        duration = len(landmarks) / fps
        units = timed_units(PhonemeTrack.load(track_path), mapping, duration)
        opening = (landmarks[:, LOWER_LIDS, 1] - landmarks[:, UPPER_LIDS, 1]).mean(1)
        clips[path.stem] = Clip(
            path.stem,
            fps,
            torch.tensor([unit.unit_id for unit in units]),
            torch.tensor([unit.duration for unit in units], dtype=torch.float32),
            keyframe_times(units),
            stored[path.stem],
            landmarks,
            (opening / opening.quantile(0.8)).clamp(0, 1.2),
        )
    torch.save(stored, cache)
    return [clips[p.stem] for p in train if p.stem in clips], [clips[p.stem] for p in held if p.stem in clips]


def portrait_codes(labels: Path, model: VisualTokenizerModel) -> torch.Tensor:
    """Continuous codes `(N, K, D)` of the training portraits: what references look like in use."""
    crops = []
    for path in split_names(labels, "portraits")[0]:
        with np.load(path) as data:
            crops.append(data["crops"][0])
    return encode(model, np.stack(crops))


def correlations(expressions: list[torch.Tensor], clips: list[Clip]) -> dict[str, float]:
    """Mean over clips of Pearson's r between generated and real lip opening and mouth width; gain of the opening."""
    opening, width, gain = [], [], []
    for expression, clip in zip(expressions, clips, strict=True):
        pairs = []
        for landmarks in (expression, clip.landmarks):
            gap = (landmarks[:, 14] - landmarks[:, 13]).norm(dim=-1)
            corners = (landmarks[:, 291] - landmarks[:, 61]).norm(dim=-1)
            pairs.append((gap, corners))
        (gap, corners), (real_gap, real_corners) = pairs
        opening.append(torch.corrcoef(torch.stack([gap, real_gap]))[0, 1].item())
        width.append(torch.corrcoef(torch.stack([corners, real_corners]))[0, 1].item())
        gain.append((gap.std() / real_gap.std()).item())
    return {
        "opening_r": float(np.mean(opening)),
        "width_r": float(np.mean(width)),
        "opening_gain": float(np.mean(gain)),
    }
