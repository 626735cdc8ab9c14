"""Label talking-head videos and portraits: landmarks, pose-driven crops, timed words.

    python training/prepare_data.py --videos DIR --portraits DIR [DIR ...] --landmarker face_landmarker.task --out OUT

Landmarks come from MediaPipe Face Landmarker (Apache-2.0, `pip install mediapipe`), the teacher of `FaceAlignerModel`.
Writes OUT/clips/NAME.npz and OUT/portraits/NAME.npz with

    crops      (T, S, S, 3) uint8    pose-driven crops; T = 1 for a portrait
    landmarks  (T, 468, 2) float32   in pixels of the crop
    matrices   (T, 2, 3) float32     picture → crop
    frame_size (2,) int              height and width of the picture
    fps        () float64            0 for a portrait

Existing files are kept, so an interrupted run goes on where it stopped.
"""

import argparse
import multiprocessing
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from avatarsync.image_processing_face import (
    NUM_LANDMARKS,
    pose_driven_matrix,
    smooth_matrices,
    transform_points,
    warp_image,
)

MIN_FRAMES = 20
MIN_TRACKED = 0.95


def open_landmarker(path: str, video: bool):
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    mode = vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=path), num_faces=1, running_mode=mode
    )
    return mp, vision.FaceLandmarker.create_from_options(options)


def to_pixels(result, height: int, width: int) -> np.ndarray | None:
    """MediaPipe's normalised landmarks as `(468, 2)` pixels, or None without a face."""
    if not result.face_landmarks:
        return None
    points = np.array([(p.x * width, p.y * height) for p in result.face_landmarks[0][:NUM_LANDMARKS]], np.float32)
    return points - 0.5  # MediaPipe counts from the pixel's corner, we from its centre


def save(path: Path, frames: list, landmarks: np.ndarray, matrices: np.ndarray, size: int, fps: float) -> None:
    crops = np.stack([warp_image(frame, matrix, size) for frame, matrix in zip(frames, matrices, strict=True)])
    partial = path.with_suffix(".part.npz")
    np.savez(
        partial,
        crops=crops,
        landmarks=transform_points(landmarks, matrices).astype(np.float32),
        matrices=matrices,
        frame_size=np.array(frames[0].shape[:2]),
        fps=np.float64(fps),
    )
    os.replace(partial, path)


def label_video(source: Path, target: Path, landmarker: str, size: int) -> str | None:
    """Label one video; returns why it was left out, or None."""
    mp, model = open_landmarker(landmarker, video=True)
    frames, landmarks = [], []
    with model, av.open(str(source)) as container:
        fps = container.streams.video[0].average_rate or Fraction(25)
        for index, frame in enumerate(container.decode(video=0)):
            # PyAV's arrays may have strides, which MediaPipe silently misreads.
            pixels = np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels)
            points = to_pixels(model.detect_for_video(image, int(index * 1000 / fps)), *pixels.shape[:2])
            frames.append(pixels)
            landmarks.append(points)
    tracked = sum(points is not None for points in landmarks)
    if len(frames) < MIN_FRAMES:
        return f"only {len(frames)} frames"
    if tracked < MIN_TRACKED * len(frames):
        return f"a face in only {tracked} of {len(frames)} frames"
    # A lost frame takes its neighbour's landmarks: the clip's frame numbers stay those of its sound.
    last = next(points for points in landmarks if points is not None)
    for index, points in enumerate(landmarks):
        last = landmarks[index] = last if points is None else points
    landmarks = np.stack(landmarks)
    matrices = smooth_matrices(np.stack([pose_driven_matrix(points, size) for points in landmarks]))
    save(target, frames, landmarks, matrices, size, float(fps))
    return None


def label_portrait(source: Path, target: Path, landmarker: str, size: int) -> str | None:
    """Label one picture; returns why it was left out, or None."""
    mp, model = open_landmarker(landmarker, video=False)
    with model:
        pixels = np.array(Image.open(source).convert("RGB"))
        points = to_pixels(model.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels)), *pixels.shape[:2])
    if points is None:
        return "no face"
    save(target, [pixels], points[None], pose_driven_matrix(points, size)[None], size, 0.0)
    return None


def label(job: tuple) -> tuple[str, str | None]:
    function, source, target, landmarker, size = job
    try:
        return source.name, function(source, target, landmarker, size)
    except (av.FFmpegError, OSError) as error:
        return source.name, f"cannot be read: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--videos", type=Path, nargs="*", default=[], help="folders of videos")
    parser.add_argument("--portraits", type=Path, nargs="*", default=[], help="folders of pictures")
    parser.add_argument("--landmarker", required=True, help="MediaPipe's face_landmarker.task")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128, help="side of the crops in pixels")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()

    jobs = []
    for folders, kind, function, endings in (
        (args.portraits, "portraits", label_portrait, {".jpg", ".jpeg", ".png"}),
        (args.videos, "clips", label_video, {".mp4", ".mov", ".mkv", ".mpg", ".avi"}),
    ):
        (args.out / kind).mkdir(parents=True, exist_ok=True)
        for folder in folders:
            for source in sorted(folder.iterdir()):
                target = args.out / kind / f"{source.stem}.npz"
                if source.suffix.lower() in endings and not target.exists():
                    jobs.append((function, source, target, args.landmarker, args.size))
    left_out = {}
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for name, reason in tqdm(pool.imap_unordered(label, jobs, chunksize=4), total=len(jobs), disable=None):
            if reason is not None:
                left_out[name] = reason
    print(f"{len(jobs) - len(left_out)} labelled, {len(left_out)} left out")
    for name, reason in sorted(left_out.items()):
        print(f"  {name}: {reason}")


if __name__ == "__main__":
    main()
