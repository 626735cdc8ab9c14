"""Portraits to try: NASA's photograph of the astronaut Eileen Collins, which is in the public domain and comes with
scikit-image, as it is, as an old photograph and as a painting."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from skimage.data import astronaut


def save_examples(folder: Path) -> list[str]:
    """Write the examples to a folder; returns their paths."""
    whole = Image.fromarray(astronaut())
    photograph = _cut(whole, 16, 0, 432)
    examples = {
        "photograph": photograph,
        "old_photograph": _old_photograph(_cut(whole, 92, 0, 270)),
        "painting": _painting(_cut(whole, 64, 0, 330)),
    }
    paths = []
    for name, picture in examples.items():
        paths.append(str(folder / f"{name}.jpg"))
        picture.save(paths[-1], quality=92)
    return paths


def _old_photograph(picture: Image.Image) -> Image.Image:
    """Sepia, with darker corners."""
    grey = np.asarray(ImageOps.autocontrast(picture.convert("L"), cutoff=1), np.float32) / 255
    y, x = np.mgrid[-1 : 1 : grey.shape[0] * 1j, -1 : 1 : grey.shape[1] * 1j]
    grey = (0.08 + 0.88 * grey) * (1 - 0.35 * np.clip(np.hypot(x, y) - 0.55, 0, 1))
    sepia = np.stack([grey**0.85, grey**0.98, grey**1.2], -1)
    return Image.fromarray((255 * sepia.clip(0, 1)).astype(np.uint8))


def _painting(picture: Image.Image) -> Image.Image:
    """Strokes of few colours, in evening light."""
    strokes = picture.filter(ImageFilter.ModeFilter(9)).quantize(28, dither=Image.Dither.NONE).convert("RGB")
    strokes = Image.blend(strokes.filter(ImageFilter.SMOOTH), picture.filter(ImageFilter.MedianFilter(5)), 0.35)
    evening = np.asarray(strokes, np.float32) * (0.96, 0.93, 0.94) + (10, 6, 12)
    return Image.fromarray(evening.clip(0, 255).astype(np.uint8))


def _cut(picture: Image.Image, left: int, top: int, side: int) -> Image.Image:
    return picture.crop((left, top, left + side, top + side)).resize((512, 512), Image.Resampling.LANCZOS)
