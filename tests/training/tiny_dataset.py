"""A dataset of a few synthetic rows: noise for pixels, the neutral face opening its mouth for landmarks."""

from pathlib import Path

import numpy as np

from avatarsync import face_mesh
from avatarsync.data.dataset import encode_image, encode_points, save_splits, write_settings

SIZE, FRAMES, FPS = 32, 16, 25.0
WORDS = [("s", 0.0, 0.16), ("b", 0.16, 0.24), ("ɑ", 0.24, 0.4), ("m", 0.4, 0.5), ("iː", 0.5, 0.64)]


def row(name: str, speaker: str, seed: int, frames: int = FRAMES) -> dict:
    random = np.random.default_rng(seed)
    neutral = face_mesh.neutral_landmarks().numpy()
    landmarks = np.repeat(neutral[None], frames, 0) + random.normal(0, 0.001, (frames, 468, 2))
    opening = np.abs(np.sin(np.arange(frames) / 2 + seed)) * 0.04
    lower = [ring[i] for ring in face_mesh.LIP_RINGS for i in face_mesh.LOWER_LIP_POSITIONS]
    landmarks[:, lower, 1] += opening[:, None]
    clip = frames > 1
    phonemes = [{"symbol": s, "start": a, "end": b, "word": "word"} for s, a, b in WORDS] if clip else []
    pixels = random.integers(0, 255, (frames, SIZE, SIZE, 3), dtype=np.uint8)
    return {
        "id": name,
        "speaker": speaker,
        "source": f"{name}.mp4",
        "language": "en-us" if clip else "",
        "text": "word" if clip else "",
        "fps": FPS if clip else 0.0,
        "frame_size": [SIZE, SIZE],
        "crops": [encode_image(picture) for picture in pixels],
        "landmarks": encode_points(landmarks),
        "matrices": encode_points(np.repeat(np.eye(2, 3)[None], frames, 0)),
        "openness": np.ones(frames, np.float32).tolist(),
        "phonemes": phonemes,
        "units": [],
        "sync_lag": 0.0,
        "sync_correlation": 1.0,
        "pictures": [encode_image(pixels[0])],
        "picture_landmarks": encode_points(landmarks[:1] * SIZE),
    }


def write_tiny_dataset(folder: Path) -> Path:
    """Two speakers, six clips, no portraits; crops of 32 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = [row(f"{speaker}/{i}", speaker, 10 * i + ord(speaker)) for i in range(3) for speaker in "ab"]
    save_splits(folder / "clips", {"train": clips[:4], "test": clips[4:]})
    write_settings(folder, {"crop": "pose_driven", "crop_size": SIZE, "fps": FPS, "upscale": "none", "seed": 0})
    return folder
