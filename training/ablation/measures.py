"""What the variants of a study are measured by, on the dataset's held-out clips.

Motion: Pearson's r of lip opening and mouth width between generated and real frames, mean over clips. Pictures: a
clip's first frame is the reference, and the codes of its frames are decoded to crops; they are compared with the real
crops by `avatarsync.metrics.modules`, under the names of the networks there.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import train_interpolation
import train_keyframes
from motion_data import Clip, correlations, load_clips, portrait_codes
from tokenizer_data import load_rows
from trained_stages import load_trained

from avatarsync.data.dataset import Rows, load
from avatarsync.metrics.modules import FID, FVD, ISS, LPIPS, PSNR, SSIM
from avatarsync.modeling_interpolation import InterpolationModel
from avatarsync.modeling_keyframes import KeyframeGeneratorModel
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel

PICTURE_FRAMES, BATCH = 64, 8
Codes = Callable[[int], torch.Tensor]


class HeldOutClips:
    """The held-out clips under one tokenizer.

    Args:
        data: dataset that prepare_data.py wrote.
        tokenizer: folder of a trained visual tokenizer.
        perceptual: network of the picture measures.
        picture_clips: clips whose pictures are measured.
    """

    def __init__(self, data: Path, tokenizer: Path, perceptual: str, picture_clips: int):
        self.tokenizer = load_trained(VisualTokenizerModel, tokenizer).eval().requires_grad_(False)
        loaded = load(data)
        self.rows = load_rows(loaded, "test", data)[0]
        cache = data / "cache"
        self.clips = load_clips(self.tokenizer, self.rows, "test", cache)
        portraits = None if loaded.portraits is None else Rows(loaded.portraits["train"])
        self.references = portrait_codes(self.tokenizer, portraits, self.clips, cache)
        self.perceptual, self.picture_clips = perceptual, picture_clips

    def of_keyframes(self, model: KeyframeGeneratorModel) -> Codes:
        """Codes `(T, K, D)` of a clip's frames: a generator's keyframes, joined by straight lines."""
        quantizer = copy.deepcopy(self.tokenizer.quantizer)
        held = train_keyframes.HeldOut(self.tokenizer, quantizer, self.clips, self.rows, self.references)

        def codes(index: int) -> torch.Tensor:
            greedy = model.decode(held.encode(model, held.inputs(index))).codes[0]
            keyframes = quantizer.ids_to_codes(greedy)
            return between(keyframes, self.clips[index], "linear")

        return codes

    @torch.no_grad()
    def motion(self, codes: Codes) -> dict[str, float]:
        """Motion figures of the codes of every frame; the change from frame to frame as a share of the real one's."""
        expressions = [self.tokenizer.expression(codes(index)) for index in range(len(self.clips))]
        figures = correlations(expressions, self.clips)
        change = np.mean([lip_change(made) / lip_change(clip.expressions)
                          for made, clip in zip(expressions, self.clips, strict=True)])  # fmt: skip
        return {
            "lip opening r": figures["opening_r"],
            "mouth width r": figures["width_r"],
            "gain of the opening": figures["opening_gain"],
            "change from frame to frame": float(change),
        }

    @torch.inference_mode()
    def pictures(self, codes: Codes, identity: str | None = None) -> dict[str, float]:
        """PSNR, SSIM, perceptual and Fréchet distances of decoded crops against the real ones."""
        metrics = [PSNR(), SSIM(), LPIPS(network=self.perceptual), FID(network=self.perceptual)]
        clips = FVD(network=self.perceptual)
        faces = [] if identity is None else [ISS(network=identity)]
        for index, clip in list(enumerate(self.clips))[: self.picture_clips]:
            made, frames = codes(index)[:PICTURE_FRAMES], range(min(PICTURE_FRAMES, len(clip.codes)))
            reals = np.stack([self.rows.crop(clip.row, frame) for frame in frames])
            generated, generated_points = self.decode(clip, made)
            for metric in (*metrics, clips):
                metric.add_batch(predictions=generated, references=reals)
            clips.end_clip()
            for face in faces:
                # Every eighth frame: whose face it is does not change from one to the next.
                # Each face is aligned by its own landmarks: a head that moves within its crops is still the same.
                points = np.array(self.rows.landmarks(clip.row))[frames]
                face.add_batch(predictions=generated[::BATCH], references=reals[::BATCH],
                               prediction_landmarks=generated_points[::BATCH] * reals.shape[1],
                               reference_landmarks=points[::BATCH] * reals.shape[1])  # fmt: skip
        psnr, ssim, lpips, fid, fvd = (metric.compute() for metric in (*metrics, clips))
        out = {
            "PSNR": psnr["psnr"],
            "SSIM": ssim["ssim"],
            "LPIPS": lpips[metrics[2].network.name],
            "Fréchet distance": fid[metrics[3].network.figure],
            "Fréchet video distance": fvd[clips.network.figure],
        }
        for face in faces:
            out["ISS"] = face.compute()[f"ISS/{face.network.name}"]
        return out

    def decode(self, clip: Clip, codes: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Crops `(n, S, S, 3) uint8` and landmarks `(n, 468, 2)` of codes `(n, K, D)` on the clip's first frame."""
        pixels = torch.from_numpy(self.rows.crop(clip.row, 0)).permute(2, 0, 1)[None] / 127.5 - 1
        landmarks = torch.from_numpy(np.array(self.rows.landmarks(clip.row)[:1])).float()
        reference = self.tokenizer.prepare_reference(pixels, landmarks)
        crops, points = [], []
        for part in codes.split(BATCH):
            decoded = self.tokenizer.decode(part, reference.expand(len(part)))
            pictures = ((decoded.pixels + 1) * 127.5).round().clamp(0, 255).byte()
            crops.append(pictures.permute(0, 2, 3, 1).numpy())
            points.append(decoded.landmarks.float().numpy())
        return np.concatenate(crops), np.concatenate(points)


def between(keyframes: torch.Tensor, clip: Clip, how: str) -> torch.Tensor:
    """Codes `(T, K, D)` of a clip's frames from those of its keyframes, "linear" or "nearest"."""
    left, right, t, _ = clip.located_frames
    t = torch.from_numpy(t).float()[:, None, None]
    if how == "nearest":
        t = t.round()
    return keyframes[left] * (1 - t) + keyframes[right] * t


def lip_change(expression: torch.Tensor) -> float:
    """Mean change of the lip opening from frame to frame, of expressions `(T, 468, 2)`."""
    return (expression[:, 14, 1] - expression[:, 13, 1]).diff().abs().mean().clamp_min(1e-6).item()


def keyframe_figures(figures: dict[str, float]) -> dict[str, float]:
    """Held-out figures of train_keyframes.py under the table's names."""
    return {
        "lip opening r": figures["greedy_opening_r"],
        "mouth width r": figures["greedy_width_r"],
        "gain of the opening": figures["greedy_opening_gain"],
        "held-out loss": figures["loss"],
        "gap of /m b p/, % of the crop": figures["unseen_closed_gap"],
        "gap of open vowels, %": figures["unseen_open_gap"],
    }


def measure_keyframes(held: HeldOutClips, run: Path, identity: str | None = None) -> dict[str, float]:
    """Pictures of a run whose last stage is a keyframe generator."""
    return held.pictures(held.of_keyframes(load_trained(KeyframeGeneratorModel, run / "keyframes").eval()), identity)


def measure_interpolation(
    held: HeldOutClips, keyframes: Path, interpolation: Path, how: str, pictures: bool
) -> dict[str, float]:
    """Of "learned", "linear" or "nearest" frames between the same predicted keyframes."""
    generator = load_trained(KeyframeGeneratorModel, keyframes).eval()
    model = load_trained(InterpolationModel, interpolation).eval() if how == "learned" else None
    predicted = train_interpolation.predict_keyframes(generator, held.tokenizer, held.clips, held.references)
    frames = train_interpolation.HeldOut(held.tokenizer, held.clips, predicted, held.rows)

    @torch.no_grad()
    def codes(index: int) -> torch.Tensor:
        if how == "learned":
            return frames.codes(model, index)[0]
        return between(predicted[index], held.clips[index], how)

    return held.motion(codes) | (held.pictures(codes) if pictures else {})


def tokenizer_figures(figures: dict[str, float]) -> dict[str, float]:
    """Held-out figures of train_tokenizer.py under the table's names: of the speakers of the corpus."""
    return {
        "lip error, % of the crop": figures["speakers_lip_error"],
        "lip opening r": figures["speakers_opening_r"],
        "mouth width r": figures["speakers_width_r"],
        "mouth PSNR over copying": figures["speakers_psnr_gain"],
        "codes in use": figures["speakers_codes_used"],
    }
