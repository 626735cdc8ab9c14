"""Clips as grey mouths and cepstra, for the sync expert: the dataset's crops with the sound of the videos."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numbered_batches import NumberedBatches
from tqdm import tqdm

from avatarsync.data.dataset import Rows
from avatarsync.errors import DatasetError, InvalidAudioError
from avatarsync.image_processing_face import warp_image
from avatarsync.modeling_sync_expert import CEPSTRA_PER_FRAME
from avatarsync.speech_cepstra import HOP, WINDOW, speech_cepstra
from avatarsync.sync import FPS, LUMA, mouth_matrices, read_sound

MARGIN = 4  # pixels about the mouth crop, for shifts
PIECE = re.compile(r"/\d{3}$")  # of a long video: where it begins in the sound is not in the dataset
BRIGHTNESS, CONTRAST, NOISE, LOUDNESS = 0.15, 0.25, 0.06, 2.0  # deviations, of crops in [-1, 1] and of log energy


@dataclass
class SyncClip:
    """A clip at 25 frames a second.

    Attributes:
        mouths: `(T, side + 8, side + 8) uint8`, grey.
        cepstra: `(4 T + 3 or fewer, 13)` float32.
    """

    mouths: np.ndarray
    cepstra: np.ndarray

    def __len__(self) -> int:
        return len(self.mouths)


def load_sync_clips(rows: Rows, sources: list[str], videos: Path, side: int, shortest: int) -> list[SyncClip]:
    """The clips of a split with at least `shortest` frames whose video is in `videos`.

    Args:
        sources: of each row, the video's path relative to `videos`.

    Raises:
        DatasetError: there is none.
    """
    clips = []
    for row in tqdm(range(len(rows)), desc="mouths and sound", disable=None):
        path = videos / sources[row]
        if PIECE.search(rows.ids[row]) or not rows.fps(row):
            continue
        # Frames of another rate: the one nearest to each moment of ours.
        frames = int(rows.num_frames[row] / rows.fps(row) * FPS)
        if frames < shortest or not path.is_file():
            continue
        chosen = np.minimum(np.rint(np.arange(frames) * rows.fps(row) / FPS).astype(int), rows.num_frames[row] - 1)
        try:
            sound = read_sound(path, frames)
        except InvalidAudioError:
            continue
        crops = [rows.crop(row, frame) for frame in chosen]
        landmarks = np.array(rows.landmarks(row))[chosen] * crops[0].shape[0]
        matrices = mouth_matrices(landmarks, side)
        matrices[:, :, 2] += MARGIN
        mouths = [
            warp_image(crop, matrix, side + 2 * MARGIN) @ LUMA for crop, matrix in zip(crops, matrices, strict=True)
        ]
        # The last frames' cepstra reach beyond the end.
        cepstra = speech_cepstra(np.pad(sound, (0, WINDOW - HOP)))
        clips.append(SyncClip(np.rint(mouths).astype(np.uint8), cepstra[: CEPSTRA_PER_FRAME * frames]))
    if not clips:
        raise DatasetError(
            f"{videos} holds no sound for a clip of {shortest} frames: give --videos as prepare_data.py had them"
        )
    return clips


def cepstral_statistics(clips: list[SyncClip]) -> tuple[list[float], list[float]]:
    """Mean and deviation of each cepstrum."""
    cepstra = np.concatenate([clip.cepstra for clip in clips])
    return cepstra.mean(0).tolist(), (cepstra.std(0) + 1e-3).tolist()


def plain_mouths(clip: SyncClip) -> torch.Tensor:
    """The middle of the crops, `(T, side, side)` in [-1, 1]."""
    return torch.from_numpy(clip.mouths[:, MARGIN:-MARGIN, MARGIN:-MARGIN]).float() / 127.5 - 1


class SyncBatches(NumberedBatches):
    """Stretches of `frames` frames with their sound, as other cameras and microphones would have them."""

    def __init__(self, clips: list[SyncClip], frames: int, batch_size: int, seed: int):
        super().__init__(seed)
        self.clips, self.frames, self.batch_size = clips, frames, batch_size

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Keyword arguments of `SyncExpertModel.forward`."""
        rows = [
            self._stretch(self.clips[index], random)
            for index in random.integers(len(self.clips), size=self.batch_size)
        ]
        mouths, cepstra = (np.stack(values).astype(np.float32) for values in zip(*rows, strict=True))
        return {"mouths": torch.from_numpy(mouths), "cepstra": torch.from_numpy(cepstra)}

    def _stretch(self, clip: SyncClip, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        first = int(random.integers(len(clip) - self.frames + 1))
        side = clip.mouths.shape[1] - 2 * MARGIN
        top, left = random.integers(2 * MARGIN + 1, size=2)
        mouths = clip.mouths[first : first + self.frames, top : top + side, left : left + side]
        mouths = mouths[:, :, ::-1] if random.random() < 0.5 else mouths
        contrast, brightness = np.exp(random.normal(0, CONTRAST)), random.normal(0, BRIGHTNESS)
        mouths = (mouths / 127.5 - 1) * contrast + brightness
        mouths = mouths + random.normal(0, NOISE * random.random(), mouths.shape)
        places = slice(CEPSTRA_PER_FRAME * first, CEPSTRA_PER_FRAME * (first + self.frames))
        cepstra = clip.cepstra[places].copy()
        cepstra[:, 0] += random.normal(0, LOUDNESS)
        return mouths, cepstra
