"""The held-out fifth of a person's footage: base against adapted, in figures and in a picture.

All in crops that follow the head, so that it stands still and only the face is compared.

- *Reconstructed*: each frame's own codes, discrete, decoded on the clip's first frame. The encoder sees the frame
  beside what there is of the person: the base beside that first frame, the adapted model beside the adapter's resting
  face.
- *Spoken*: the whole system, from the clip's phonemes and first frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from evaluation.motion import mouth_region
from motion_data import SILENT_ID, Clip
from PIL import Image, ImageDraw

from avatarsync import AvatarSyncModel
from avatarsync.adapters import PersonReferences
from avatarsync.identity import FaceEmbedding
from avatarsync.metrics import pearson, psnr
from avatarsync.modeling_visual_tokenizer import Reference

from .faces import Faces, encode_beside

EVERY_NTH_FRAME = 3
SHEET_ROWS, TILE = 6, 128
COLUMNS = ("reference", "real", "base", "adapted")

# (real, drawn), both (h, w, 3) uint8 → distance
PictureDistance = Callable[[np.ndarray, np.ndarray], float]


@dataclass
class Case:
    """A held-out clip: its reference, and frames `(T, …)` of it. `clip` is None where nobody speaks."""

    pixels: torch.Tensor  # (1, 3, S, S) uint8
    landmarks: torch.Tensor  # (1, 468, 2)
    frames: torch.Tensor  # (T,) indices into the faces
    clip: Clip | None


@dataclass
class Result:
    """Figures by name, and the reconstructed frames `(T, S, S, 3)` uint8 of each case."""

    figures: dict[str, float]
    drawn: list[np.ndarray]


def cases_of(faces: Faces, clips: list[Clip], references: PersonReferences) -> list[Case]:
    """Clips on their first frames; pictures on the resting reference."""
    by_row, cases = {clip.row: clip for clip in clips}, []
    for row in range(int(faces.clips.max()) + 1):
        frames = torch.nonzero(faces.clips == row).flatten()
        if len(frames) > 1:
            first = frames[:1]
            cases.append(Case(faces.pixels[first], faces.landmarks[first], frames[1:], by_row.get(row)))
        else:
            cases.append(Case(references.pixels[:1], references.landmarks[:1], frames, None))
    return cases


@torch.no_grad()
def measure(
    model: AvatarSyncModel,
    faces: Faces,
    cases: list[Case],
    references: PersonReferences | None,
    distance: PictureDistance | None,
    embedding: FaceEmbedding,
) -> Result:
    """Figures of the model as it is; `references` are the adapter's, None measures the base."""
    tokenizer, drawn, figures = model.visual_tokenizer.eval(), [], {}
    for case in cases:
        pixels = case.pixels.to(model.device) / 127.5 - 1
        reference = tokenizer.prepare_reference(pixels, case.landmarks.to(model.device))
        resting = model.at_rest(reference, SILENT_ID)
        if references is not None:
            reference, resting = (references.personalise(tokenizer, known) for known in (reference, resting))
        chosen = case.frames[::EVERY_NTH_FRAME]
        own = faces.codes[chosen]
        if references is None:
            own = torch.cat([encode_beside(tokenizer, faces.pixels[part], case.pixels) for part in chosen.split(32)])
        codes = tokenizer.quantize(own.to(model.device)).codes
        pictures, _ = decode(model, codes, reference)
        drawn.append(pictures)
        parts = {"reconstructed": (pictures, chosen)}
        if case.clip is not None:
            spoken, landmarks = speak(model, case.clip, resting)
            parts["spoken"] = (spoken[1::EVERY_NTH_FRAME], chosen)
            real = faces.landmarks[case.frames]
            gaps = [points[:, 14, 1] - points[:, 13, 1] for points in (landmarks[1:], real)]
            figures.setdefault("lip opening r, spoken", []).append(pearson(*(gap.numpy() for gap in gaps)))
            said = torch.from_numpy(spoken[1 :: 4 * EVERY_NTH_FRAME]).permute(0, 3, 1, 2)
            told = (said, case.pixels, faces.pixels[case.frames[:: 4 * EVERY_NTH_FRAME]])
            drawn_faces, first, real_faces = (embedding(part.float() / 127.5 - 1) for part in told)  # (·, 128)
            likeness = (drawn_faces @ first.T).mean(), (drawn_faces * real_faces).sum(1).mean()
            figures.setdefault("identity, spoken, to the reference", []).append(float(likeness[0]))
            figures.setdefault("identity, spoken, to the real frames", []).append(float(likeness[1]))
        for name, (pictures, indices) in parts.items():
            errors, distances = [], []
            for picture, index in zip(pictures, indices.tolist(), strict=True):
                real = faces.pixels[index].permute(1, 2, 0).numpy()
                size = len(real)
                top, bottom, left, right = mouth_region(faces.landmarks[index].numpy() * size, size, size)
                real, picture = real[top:bottom, left:right], picture[top:bottom, left:right]
                errors.append(np.square(real.astype(np.float32) - picture).mean())
                if distance is not None:
                    distances.append(distance(real, picture))
            figures.setdefault(f"mouth PSNR, {name}", []).append(float(psnr(np.mean(errors))))
            if distances:
                figures.setdefault(f"mouth LPIPS, {name}", []).append(float(np.mean(distances)))
    return Result({name: float(np.mean(values)) for name, values in figures.items()}, drawn)


def decode(
    model: AvatarSyncModel, codes: torch.Tensor, reference: Reference, foretold: bool = False
) -> tuple[np.ndarray, torch.Tensor]:
    """Pictures `(T, S, S, 3)` uint8 and landmarks `(T, 468, 2)` of codes `(T, K, D)` on one reference.

    Args:
        foretold: the codes are foretold from speech, see `ExpressionTransfer.forward`.
    """
    pictures, landmarks = [], []
    for part in codes.split(32):
        decoded = model.visual_tokenizer.decode(part, reference.expand(len(part)), foretold=foretold)
        pixels = ((decoded.pixels + 1) * 127.5).round().clamp(0, 255).byte()
        pictures.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
        landmarks.append(decoded.landmarks.cpu())
    return np.concatenate(pictures), torch.cat(landmarks)


def speak(model: AvatarSyncModel, clip: Clip, reference: Reference) -> tuple[np.ndarray, torch.Tensor]:
    """All frames of a clip from its phonemes; as `decode`."""
    units = clip.unit_ids.to(model.device), clip.durations.to(model.device)
    times = np.arange(len(clip.codes)) / clip.fps
    codes = list(model.generate_codes(*units, clip.keyframes, times, reference))
    return decode(model, torch.cat(codes), reference, foretold=True)


def table(base: dict[str, float], adapted: dict[str, float]) -> Iterator[str]:
    """Lines `name: base → adapted (change)`."""
    for name in base:
        change = adapted[name] - base[name]
        if "LPIPS" in name:
            told = f"{100 * change / base[name]:+.1f} %"
        else:
            told = f"{change:+.2f} dB" if "PSNR" in name else f"{change:+.3f}"
        yield f"{name}: {base[name]:.3f} → {adapted[name]:.3f} ({told})"


def sheet(faces: Faces, cases: list[Case], base: Result, adapted: Result) -> Image.Image:
    """Held-out frames, the most open ones of different clips: reference, real, base, adapted."""
    chosen = []
    for number, case in enumerate(cases):
        shown = case.frames[::EVERY_NTH_FRAME]
        order = faces.gaps[shown].argsort(descending=True)
        chosen += [(number, int(place), rank) for rank, place in enumerate(order[:: max(1, len(order) // 3)])]
    chosen = sorted(chosen, key=lambda entry: entry[2])[:SHEET_ROWS]
    picture = Image.new("RGB", (TILE * len(COLUMNS), 16 + TILE * len(chosen)), "white")
    draw = ImageDraw.Draw(picture)
    for column, name in enumerate(COLUMNS):
        draw.text((column * TILE + 4, 2), name, fill="black")
    for row, (number, place, _) in enumerate(chosen):
        case = cases[number]
        index = int(case.frames[::EVERY_NTH_FRAME][place])
        tiles = (
            case.pixels[0].permute(1, 2, 0).numpy(),
            faces.pixels[index].permute(1, 2, 0).numpy(),
            base.drawn[number][place],
            adapted.drawn[number][place],
        )
        for column, tile in enumerate(tiles):
            shown = Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.LANCZOS)
            picture.paste(shown, (column * TILE, 16 + row * TILE))
    return picture
