"""What tests of several folders share."""

import os
import sys
from pathlib import Path

import pytest

# Processes that test beside each other share the cores, and so do those that they start: PyTorch's threads spin while
# they wait, and twice as many of them as cores take twice the time. Before anything imports torch.
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
if workers > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

sys.path.insert(0, str(Path(__file__).resolve().parent))  # helpers that are no tests

# Files that take a minute and more. Begun last, the first of them would leave the other process idle for five minutes.
LONGEST = ("test_run_all.py", "test_prepare_data.py", "test_cli.py", "test_training_utils.py", "test_pipeline.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def face_dataset(tmp_path_factory):
    """A small dataset of one photographed face and what warping and dyeing make of it; copy it before changing it.

    Crops of 128 pixels. Portraits: three for training, one that is too small, one for testing. Clips of 8 frames with
    moving lips: two for training, one for testing.
    """
    import numpy as np
    import torch
    from skimage.data import astronaut

    from avatarsync import AvatarSyncPipeline, face_mesh
    from avatarsync.data.dataset import encode_image, encode_points, save_splits, write_settings
    from avatarsync.image_processing_face import pose_driven_matrix, transform_points, warp_image
    from avatarsync.warping import mesh_flow, warp

    size, frames = 128, 8
    picture = np.ascontiguousarray(astronaut()[0:256, 96:352])
    points = AvatarSyncPipeline.from_pretrained().model.face_aligner.align(picture).landmarks.astype(np.float32)

    lower, upper = list(face_mesh.LOWER_LIP_POSITIONS), list(face_mesh.UPPER_LIP_POSITIONS)
    inner = np.array(face_mesh.INNER_LIPS)
    smile = points[inner[lower], 1] - points[inner[upper], 1]  # (9,) pixels between her lips

    def frame(opening):
        """The face with its lips `opening` pixels apart."""
        moved = points.copy()
        for ring in np.array(face_mesh.LIP_RINGS):
            moved[ring[lower], 1] += opening - smile
        flow, _ = mesh_flow(torch.from_numpy(points)[None], torch.from_numpy(moved)[None], picture.shape[:2])
        warped = warp(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), flow, mode="bicubic")
        return warped[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy(), moved

    def row(name, pictures, fps):
        landmarks = np.stack([moved for _, moved in pictures])
        matrices = np.stack([pose_driven_matrix(moved, size) for moved in landmarks])
        crops = [warp_image(image, matrix, size) for (image, _), matrix in zip(pictures, matrices, strict=True)]
        whole = pictures[:: max(1, len(pictures) // 2)]
        return {
            "id": name,
            "speaker": name.split("/")[0],
            "source": f"{name}.png",
            "language": "",
            "text": "",
            "fps": fps,
            "frame_size": list(picture.shape[:2]),
            "crops": [encode_image(crop) for crop in crops],
            "landmarks": encode_points(transform_points(landmarks, matrices) / size),
            "matrices": encode_points(matrices),
            "openness": [1.0] * len(pictures),
            "phonemes": [],
            "units": [],
            "sync_lag": 0.0,
            "sync_correlation": 1.0,
            "pictures": [encode_image(image) for image, _ in whole],
            "picture_landmarks": encode_points(np.stack([moved for _, moved in whole])),
        }

    def dyed(opening, channels, light=1.0):
        image, moved = frame(opening)
        return [(np.ascontiguousarray(image[..., channels] * light).astype(np.uint8), moved)]

    clips = [row(f"anna/{i}", [frame(8 * abs(np.sin(i + t))) for t in range(frames)], 25.0) for i in range(3)]
    portraits = [
        row("open", dyed(7, [0, 1, 2]), 0.0),
        row("blue", dyed(0, [2, 1, 0]), 0.0),
        row("green", dyed(0, [1, 0, 2]), 0.0),
        row("tiny", dyed(0, [0, 2, 1]), 0.0),
        row("unseen", dyed(4, [0, 1, 2], light=0.7), 0.0),
    ]
    portraits[3]["matrices"] = encode_points(2.5 * np.eye(2, 3)[None])
    folder = tmp_path_factory.mktemp("face_dataset")
    save_splits(folder / "clips", {"train": clips[:2], "test": clips[2:]})
    save_splits(folder / "portraits", {"train": portraits[:4], "test": portraits[4:]})
    write_settings(folder, {"crop": "pose_driven", "crop_size": size, "fps": None, "upscale": "none", "seed": 0})
    return folder
