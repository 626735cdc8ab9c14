"""Random batches of clips for the keyframe generator."""

import numpy as np
import torch
from motion_data import Clip
from numbered_batches import NumberedBatches
from torch.nn.utils.rnn import pad_sequence

from avatarsync.data.dataset import Rows
from avatarsync.quantizers import LookupFreeQuantizer, VectorQuantizer

Quantizer = LookupFreeQuantizer | VectorQuantizer
OWN_REFERENCE_SHARE = 0.3  # of the references that are another frame of the corpus, and not a portrait


def collate(clips: list[Clip], quantizer: Quantizer, references: torch.Tensor) -> dict[str, torch.Tensor]:
    """Keyword arguments of `KeyframeGeneratorModel.forward`; references are continuous codes `(B, K, D)`."""
    indices = [clip.keyframe_indices for clip in clips]
    ids = [quantizer.codes_to_ids(clip.codes[i]) for clip, i in zip(clips, indices, strict=True)]
    return {
        "unit_ids": pad_sequence([clip.unit_ids for clip in clips], True),
        "durations": pad_sequence([clip.durations for clip in clips], True, 0.1),
        "condition": pad_sequence([clip.openness[i, None] for clip, i in zip(clips, indices, strict=True)], True),
        "reference_codes": quantizer.codes_to_ids(references),
        "unit_mask": pad_sequence([torch.ones(len(clip.unit_ids), dtype=torch.bool) for clip in clips], True),
        "labels": pad_sequence(ids, True),
    }


class KeyframeBatches(NumberedBatches):
    """Clips with their units and keyframes, under the reference codes of somebody.

    Args:
        portraits: continuous codes `(N, K, D)`: what references look like in use.
        context_noise: share of the units replaced by others at random. Few sentences have few contexts; frames that
            must come out right among strange neighbours rely on their own unit first, and so on unseen words.
        rows: the clips' pictures; given them, a batch also has what phase 2 decodes and compares.
        pictures_per_clip: keyframes of each clip whose pictures phase 2 compares.
        noisy_share: share of the clips whose units are replaced at all. In the others it can be learned what words
            that are known look like.
        means_share: share of the clips whose tokens are given the model's own mean embeddings (phase 3); above 0, a
            batch also has `from_means` `(B,)`, the keyframes' `expressions` `(B, T, 468, 2)`, and `shut` `(B, T)`:
            which of them want closed lips.
        frames_per_clip: M; above 0, a batch also has so many random frames of each clip: `frame_left`, `frame_right`,
            `frame_time`, `frame_interval` `(B, M)` as `avatarsync.schedule.locate` returns them, and
            `frame_expressions` `(B, M, 468, 2)`. None in which nobody speaks and yet the lips are open.
    """

    def __init__(
        self,
        clips: list[Clip],
        quantizer: Quantizer,
        portraits: torch.Tensor,
        num_units: int,
        batch_size: int,
        context_noise: float,
        seed: int,
        rows: Rows | None = None,
        pictures_per_clip: int = 2,
        noisy_share: float = 1.0,
        means_share: float = 0.0,
        frames_per_clip: int = 0,
    ):
        super().__init__(seed)
        self.clips, self.quantizer, self.portraits, self.rows = clips, quantizer, portraits, rows
        self.noisy_share, self.means_share = noisy_share, means_share
        self.expressions = [clip.keyframe_expressions for clip in clips] if means_share else None
        self.num_units, self.batch_size, self.context_noise = num_units, batch_size, context_noise
        self.pictures_per_clip = pictures_per_clip
        self.frames_per_clip = frames_per_clip
        self.located = [clip.located_frames for clip in clips] if frames_per_clip else None

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        numbers = random.integers(len(self.clips), size=self.batch_size)
        chosen = [self.clips[i] for i in numbers]
        if self.rows is not None:
            own_frames = [int(random.integers(len(clip.codes))) for clip in chosen]
            references = torch.stack([clip.codes[frame] for clip, frame in zip(chosen, own_frames, strict=True)])
        else:
            references = self.portraits[random.integers(len(self.portraits), size=self.batch_size)]
            for i in np.flatnonzero(random.random(self.batch_size) < OWN_REFERENCE_SHARE):
                other = self.clips[random.integers(len(self.clips))]
                references[i] = other.codes[random.integers(len(other.codes))]
        batch = collate(chosen, self.quantizer, references)
        units, mask = batch["unit_ids"], batch["unit_mask"]
        replaced = torch.rand(units.shape, generator=generator) < self.context_noise
        replaced &= (torch.rand(len(units), generator=generator) < self.noisy_share)[:, None]
        strange = torch.randint(self.num_units, units.shape, generator=generator)
        batch["unit_ids"] = torch.where(replaced, strange, units)
        batch["label_mask"] = mask & ~replaced
        if self.rows is not None:
            batch |= self.pictures(random, chosen, own_frames, batch["label_mask"])
        if self.expressions is not None:
            batch["from_means"] = torch.rand(len(units), generator=generator) < self.means_share
            batch["expressions"] = pad_sequence([self.expressions[i] for i in numbers], True)
            batch["shut"] = pad_sequence([torch.from_numpy(clip.shut) for clip in chosen], True)
        if self.located is not None:
            batch |= self.frames(random, numbers)
        return batch

    def frames(self, random: np.random.Generator, numbers: np.ndarray) -> dict[str, torch.Tensor]:
        """Random frames of clips; see the class."""
        names = ("frame_left", "frame_right", "frame_time", "frame_interval")
        out = {name: [] for name in (*names, "frame_expressions")}
        for number in numbers:
            clip = self.clips[number]
            frames = random.choice(clip.learnable_frames, self.frames_per_clip)
            for name, values in zip(names, self.located[number], strict=True):
                kind = torch.long if values.dtype == np.int64 else torch.float32
                out[name].append(torch.from_numpy(values[frames]).to(kind))
            out["frame_expressions"].append(clip.expressions[frames])
        return {name: torch.stack(values) for name, values in out.items()}

    def pictures(self, random, chosen: list[Clip], own_frames: list[int], counted: torch.Tensor) -> dict:
        """References and some true keyframes as pictures; P = B · pictures_per_clip of each.

        `picture_places` `(P, 2)`: item and frame within the batch; `reference_*` and `real_*`: crops `(P, 3, S, S)`
        in [-1, 1] and landmarks `(P, 468, 2)` in fractions of S.
        """
        places, references, reals = [], [], []
        for item, (clip, own_frame) in enumerate(zip(chosen, own_frames, strict=True)):
            candidates = counted[item].nonzero().flatten().numpy()
            if not len(candidates):
                candidates = np.arange(len(clip.unit_ids))
            indices = clip.keyframe_indices
            for place in random.choice(candidates, self.pictures_per_clip):
                places.append((item, int(place)))
                references.append((clip.row, own_frame))
                reals.append((clip.row, int(indices[place])))
        out = {"picture_places": torch.tensor(places)}
        for name, frames in (("reference", references), ("real", reals)):
            crops = np.stack([self.rows.crop(row, frame) for row, frame in frames])
            landmarks = np.stack([self.rows.landmarks(row)[frame] for row, frame in frames])
            out[f"{name}_pixel_values"] = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
            out[f"{name}_landmarks"] = torch.from_numpy(landmarks).float()
        return out
