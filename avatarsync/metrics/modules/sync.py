"""Sync-D and Sync-C (Chung & Zisserman 2016; Table 1): whether generated lips are in step with the sound."""

import numpy as np
import torch
from datasets import Image, Value

from avatarsync.errors import InvalidArgumentError
from avatarsync.metrics.modules.streaming import ClipMetric, check_frames, zeros
from avatarsync.speech_cepstra import HOP, NUM_CEPSTRA, speech_cepstra
from avatarsync.sync import (
    CEPSTRA,
    CEPSTRA_PER_FRAME,
    FRAMES,
    MAX_OFFSET,
    SAMPLES_PER_FRAME,
    SyncNetwork,
    distance_and_confidence,
    load_sync_network,
)

NUM_OFFSETS = 2 * MAX_OFFSET + 1
SHORTEST = MAX_OFFSET + FRAMES + 1  # frames: every offset then has windows to compare


class Sync(ClipMetric):
    """Distance and confidence of each clip, mean over clips, in SyncNet's protocol (see `avatarsync.sync`).

    Batches are consecutive frames of a clip with their sound; `end_clip` lies between clips, each of at least 21
    frames. The figures are {"Sync-D/SyncNet v2": …, "Sync-C/SyncNet v2": …}, or "sync distance/…" and "sync
    confidence/…" of the small expert; and "sync_offset_within_1", the share of clips whose best offset is -1, 0 or 1.

    Args:
        network: what `load_sync_network` takes, or what it returns.
        batch_size: windows that the network sees at a time.
        device: where it runs.

    Raises:
        AvatarSyncError: see `load_sync_network`.
    """

    description = __doc__.split("\n")[0]
    inputs = (
        "predictions: crops (B, side, side, 3) uint8 of network.crop(frames, landmarks), 25 a second; references: "
        "their sound (640 B,) at 16 kHz in [-1, 1]."
    )
    features_of_batch = {"predictions": Image(), "references": Value("float32")}

    def __init__(
        self,
        *args,
        network: str | SyncNetwork = "expert",
        batch_size: int = 8,
        device: str | torch.device = "cpu",
        **kwargs,
    ):
        network = network if isinstance(network, SyncNetwork) else load_sync_network(network)
        self.network, self.batch_size, self.device = network.eval().to(device), batch_size, device
        super().__init__(*args, **kwargs)

    def empty_state(self):
        side, size = self.network.side, self.network.size
        return {
            **{name: zeros() for name in ("clips", "distance", "confidence", "within_1")},
            "clip_frames": zeros(),
            "clip_windows": zeros(),
            "clip_distances": zeros(NUM_OFFSETS),
            # What later windows need: frames, sound with the sample before it, cepstra, embeddings.
            "clip_crops": torch.zeros(0, side, side, 3, dtype=torch.uint8),
            "clip_sound": torch.zeros(1),
            "clip_cepstra": torch.zeros(0, NUM_CEPSTRA),
            "clip_seen": torch.zeros(MAX_OFFSET, size),
            "clip_heard": torch.zeros(MAX_OFFSET, size),
        }

    def update(self, predictions, references):
        crops = check_frames(predictions, "predictions")
        side = self.network.side
        if crops.shape[1:3] != (side, side):
            raise InvalidArgumentError(
                f"predictions must be crops (B, {side}, {side}, 3), made by network.crop, not {crops.shape}"
            )
        sound = np.asarray(references)
        if sound.dtype.kind != "f" or sound.shape != (SAMPLES_PER_FRAME * len(crops),):
            raise InvalidArgumentError(
                f"references must be the crops' sound at 16 kHz, float ({SAMPLES_PER_FRAME * len(crops)},), not "
                f"{sound.dtype} {sound.shape}"
            )
        if not np.isfinite(sound).all():
            raise InvalidArgumentError("references hold samples that are not numbers: read the sound again")
        for frame in range(len(crops)):
            part = slice(SAMPLES_PER_FRAME * frame, SAMPLES_PER_FRAME * (frame + 1))
            self._add_frame(torch.tensor(crops[frame]), sound[part])

    def _add_frame(self, crop: torch.Tensor, sound: np.ndarray) -> None:
        """The network looks once enough windows have come together. The last window of a clip is not looked at, as in
        the published code: its cepstra would need sound beyond the end."""
        state = self.state
        state["clip_crops"] = torch.cat([state["clip_crops"], crop[None]])
        heard = torch.cat([state["clip_sound"], torch.from_numpy(sound).float()]).numpy()
        cepstra = speech_cepstra(heard[1:], float(heard[0]))
        state["clip_cepstra"] = torch.cat([state["clip_cepstra"], torch.from_numpy(cepstra)])
        state["clip_sound"] = torch.from_numpy(heard[HOP * len(cepstra) :].copy())
        state["clip_frames"] += 1
        if len(state["clip_crops"]) == FRAMES + self.batch_size:
            self._look(self.batch_size)

    @torch.inference_mode()
    def _look(self, count: int) -> None:
        """Compare the first `count` windows that wait, and forget their frames."""
        state = self.state
        crops = state["clip_crops"].unfold(0, FRAMES, 1)[:count].permute(0, 4, 1, 2, 3)
        cepstra = state["clip_cepstra"].unfold(0, CEPSTRA, CEPSTRA_PER_FRAME)[:count].mT
        seen = self.network.embed_mouth(crops.to(self.device)).float().cpu()
        heard = self.network.embed_sound(cepstra.to(self.device)).float().cpu()
        for pair in zip(seen, heard, strict=True):
            self._compare(*pair)
        state["clip_crops"] = state["clip_crops"][count:].clone()
        state["clip_cepstra"] = state["clip_cepstra"][CEPSTRA_PER_FRAME * count :].clone()

    def _compare(self, seen: torch.Tensor, heard: torch.Tensor) -> None:
        """Window n of lips and sound, `(D,)` each, against those before: offset o pairs lips i with sound i + o."""
        state, distance = self.state, torch.nn.functional.pairwise_distance
        number = int(state["clip_windows"])
        # These lips with the sounds before (zeros before the first) and now: offsets -15 … 0.
        sounds = torch.cat([state["clip_heard"], heard[None]])
        state["clip_distances"][: MAX_OFFSET + 1] += distance(seen[None], sounds).double()
        # Lips before with this sound: offsets 15 … 1.
        known = torch.arange(MAX_OFFSET) >= MAX_OFFSET - number
        later = distance(state["clip_seen"], heard[None]).double() * known
        state["clip_distances"][MAX_OFFSET + 1 :] += later.flip(0)
        state["clip_seen"] = torch.cat([state["clip_seen"][1:], seen[None]])
        state["clip_heard"] = torch.cat([state["clip_heard"][1:], heard[None]])
        state["clip_windows"] += 1

    def finish_clip(self):
        frames = int(self.state["clip_frames"])
        if frames < SHORTEST:
            raise InvalidArgumentError(
                f"lips and sound are compared over clips of {SHORTEST} frames and more, not {frames}"
            )
        if len(self.state["clip_crops"]) > FRAMES:
            self._look(len(self.state["clip_crops"]) - FRAMES)
        windows = int(self.state["clip_windows"])
        self._compare_end(windows)
        distance, confidence, offset = distance_and_confidence(self.state["clip_distances"] / windows)
        self.state["distance"] += distance
        self.state["confidence"] += confidence
        self.state["within_1"] += abs(offset) <= 1
        self.state["clips"] += 1

    def _compare_end(self, windows: int) -> None:
        """The last lips with the silence of zeros after the end."""
        nothing = torch.zeros(self.network.size)
        norms = torch.nn.functional.pairwise_distance(self.state["clip_seen"], nothing[None]).double()
        for offset in range(1, MAX_OFFSET + 1):
            self.state["clip_distances"][MAX_OFFSET + offset] += norms[MAX_OFFSET - min(offset, windows) :].sum()

    def result(self):
        clips = self.state["clips"]
        figures = {
            name: float(self.state[key] / clips)
            for name, key in zip(self.network.figures, ("distance", "confidence"), strict=True)
        }
        return {**figures, "sync_offset_within_1": float(self.state["within_1"] / clips)}
