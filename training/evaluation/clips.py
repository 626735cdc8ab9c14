"""A held-out clip: its first frame and its sound go in, and what comes out is compared with its frames."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from transcripts import find_transcript, read_transcript

from avatarsync import AvatarSyncPipeline
from avatarsync.errors import DatasetError, InvalidFrameRateError
from avatarsync.image_processing_face import invert_matrix, transform_points, warp_image
from avatarsync.metrics import best_lag, gain, inner_lip_gap, mouth_width, pearson, psnr, sharpness_ratio
from avatarsync.video_frames import read_clock, read_frames

from .identity import Identity
from .landmarks import Landmarker, track_faces
from .lpips import Lpips
from .motion import (
    Closures,
    StillFlicker,
    changed_outside,
    closures,
    cut,
    flicker_outside_mouth,
    flicker_with_still_lips,
    head_matrices,
    mouth_region,
)

FPS = 25
MAX_LAG = 5  # frames
MIN_FRAMES = 20
EVERY_NTH_IDENTITY = 5


@dataclass
class ClipResult:
    """Figures of one clip by name, the openings on closures, and the curves for the plots."""

    name: str
    figures: dict[str, float]
    generated: Closures
    generated_smooth: Closures  # by the landmarks that are smoothed in time
    real: Closures
    flicker_still: StillFlicker
    curves: dict[str, np.ndarray]  # generated and real gap and width, (T,) each


def read_clip(path: Path) -> np.ndarray:
    """Frames `(T, H, W, 3) uint8` of a video: frame k is the one filmed nearest to k/25 s after its sound starts.

    Raises:
        DatasetError: it cannot be read, or is shorter than 20 frames.
    """
    try:
        frames = list(read_frames(path, read_clock(path, Fraction(FPS), own_sound=True)))
    except (av.FFmpegError, InvalidFrameRateError) as error:
        raise DatasetError(f"{path.name} cannot be read as a video ({error}): convert it to mp4") from error
    if len(frames) < MIN_FRAMES:
        raise DatasetError(f"{path.name} has only {len(frames)} frames at {FPS} fps: {MIN_FRAMES} are needed")
    return np.stack(frames)


def read_text(path: Path) -> str:
    """What is said in a clip.

    Raises:
        DatasetError: no transcript lies beside it, or no word is in it. InvalidTrackError: it cannot be read.
    """
    file = find_transcript([path.with_suffix("")])
    transcript = None if file is None else read_transcript(file)
    if transcript is None:
        raise DatasetError(f"{path.name} has no transcript: put NAME.align, NAME.TextGrid or NAME.txt beside it")
    return transcript.text


def measure_clip(
    path: Path,
    talk: AvatarSyncPipeline,
    landmarker: Landmarker,
    lpips: Lpips | None,
    identity: Identity | None,
    voice_alone: bool = False,
) -> ClipResult:
    """Generate the clip's speech on its first frame and measure it; what has no network is left out of the figures.

    Args:
        voice_alone: nobody tells the pipeline what is said. Closures are still those of the transcript.

    Raises:
        AvatarSyncError: the clip cannot be read, aligned or animated, or no face is seen in it.
    """
    real = read_clip(path)
    reference = real[0]
    said = talk.listen(str(path), read_text(path))
    say = {"speech": talk.listen(str(path)) if voice_alone else said, "fps": FPS, "seed": 0}
    video, still_video = (talk(reference, motion=motion, **say) for motion in ("subtle", "still"))
    count = min(len(real), len(video.frames))
    real, generated = real[:count], video.frames[:count]
    track, real_track = (track_faces(landmarker, frames, FPS) for frames in (generated, real))
    landmarks, real_landmarks = track.exact, real_track.exact

    curves = {}
    figures: dict[str, float] = {"frames": count}
    for measure, function in (("opening", inner_lip_gap), ("width", mouth_width)):
        pair = function(landmarks), function(real_landmarks)
        curves |= {f"generated_{measure}": pair[0], f"real_{measure}": pair[1]}
        figures[f"{measure}_r"] = pearson(*pair)
        figures[f"{measure}_lag"] = best_lag(*pair, max_lag=MAX_LAG)
        smooth = function(track.smooth), function(real_track.smooth)
        figures[f"{measure}_r_smooth"] = pearson(*smooth)
        figures[f"{measure}_lag_smooth"] = best_lag(*smooth, max_lag=MAX_LAG)
        figures[f"{measure}_gain"] = gain(*pair)
    figures |= _mouth_fidelity(generated, real, real_landmarks, lpips)
    still = _mouth_fidelity(still_video.frames[:count], *hold_head_still(real, real_landmarks), lpips)
    figures |= {f"still_{name}": value for name, value in still.items()}
    figures["sharpness"] = sharpness_ratio(
        _mouths(generated, landmarks),
        _mouths(real, real_landmarks),
        inner_lip_gap(landmarks),
        inner_lip_gap(real_landmarks),
    )
    figures["flicker"] = flicker_outside_mouth(generated, landmarks)
    figures["flicker_real"] = flicker_outside_mouth(real, real_landmarks)
    figures["changed_outside"] = changed_outside(generated, reference, real_landmarks[0])
    if identity is not None:
        figures |= _identity(identity, generated, landmarks, real, real_landmarks)
    return ClipResult(
        path.stem,
        figures,
        closures(landmarks, said.track, FPS),
        closures(track.smooth, said.track, FPS),
        closures(real_landmarks, said.track, FPS),
        flicker_with_still_lips(generated, landmarks),
        curves,
    )


def _mouths(frames: np.ndarray, landmarks: np.ndarray) -> list[np.ndarray]:
    return [
        cut(frame, mouth_region(points, *frame.shape[:2])) for frame, points in zip(frames, landmarks, strict=True)
    ]


def hold_head_still(frames: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames turned, shifted and scaled so that eyes and nose stay where the first frame has them.

    Args:
        frames: `(T, H, W, 3) uint8`.
        landmarks: `(T, 468, 2)`, of each frame for itself: what a landmarker smooths over a video lags behind a head.

    Returns:
        Frames and landmarks in them.
    """
    height, width = frames.shape[1:3]
    matrices = head_matrices(landmarks, height)
    back = invert_matrix(matrices[0]).astype(np.float64)
    motions = np.concatenate(
        [back[:, :2] @ matrices[:, :, :2], back[:, :2] @ matrices[:, :, 2:] + back[:, 2:]], axis=2
    ).astype(np.float32)  # frame t → frame 0
    held = np.stack(
        [warp_image(frame, motion, (height, width)) for frame, motion in zip(frames, motions, strict=True)]
    )
    return held, transform_points(landmarks, motions)


def _mouth_fidelity(
    generated: np.ndarray, real: np.ndarray, real_landmarks: np.ndarray, lpips: Lpips | None
) -> dict[str, float]:
    """PSNR and LPIPS of the mouth, generated and copied from the reference, over all frames but the reference."""
    errors, distances = [], []
    for frame, truth, points in zip(generated[1:], real[1:], real_landmarks[1:], strict=True):
        region = mouth_region(points, *truth.shape[:2])
        truth = cut(truth, region)
        candidates = [cut(frame, region), cut(real[0], region)]
        errors.append([np.mean(np.square(truth.astype(np.float32) - candidate)) for candidate in candidates])
        if lpips is not None:
            distances.append([lpips(truth, candidate) for candidate in candidates])
    mine, copied = psnr(np.mean(errors, 0))
    figures = {"psnr": float(mine), "psnr_copy": float(copied)}
    if lpips is not None:
        figures["lpips"], figures["lpips_copy"] = (float(value) for value in np.mean(distances, 0))
    return figures


def _identity(
    identity: Identity,
    generated: np.ndarray,
    landmarks: np.ndarray,
    real: np.ndarray,
    real_landmarks: np.ndarray,
) -> dict[str, float]:
    """Mean cosines to the reference, every fifth frame but the reference itself."""
    chosen = slice(EVERY_NTH_IDENTITY, None, EVERY_NTH_IDENTITY)
    reference = identity.embed(real[:1], real_landmarks[:1])  # (1, D), unit length
    return {
        "identity": float((identity.embed(generated[chosen], landmarks[chosen]) @ reference.T).mean()),
        "identity_real": float((identity.embed(real[chosen], real_landmarks[chosen]) @ reference.T).mean()),
    }
