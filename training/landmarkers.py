"""What finds the 468 landmarks of a face: the package's own `FaceAlignerModel`, or MediaPipe, its teacher."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from avatarsync.pipelines.talking_head import bundled_weights

from avatarsync import AvatarSyncModel
from avatarsync.errors import (
    DatasetError,
    FaceNotFoundError,
    FaceTooSmallError,
    InvalidImageError,
    MissingDependencyError,
)
from avatarsync.image_processing_face import NUM_LANDMARKS

BUNDLED = "bundled"

# (picture (H, W, 3) uint8, milliseconds since the video's start) → landmarks (468, 2) in pixels, None without a face
FindLandmarks = Callable[[np.ndarray, int], np.ndarray | None]


class BundledLandmarker:
    """`FaceAlignerModel` with the package's weights: works offline; the largest face counts."""

    def __init__(self):
        self.model = AvatarSyncModel.from_pretrained(bundled_weights()).face_aligner.eval()

    @contextmanager
    def watch(self, video: bool) -> Iterator[FindLandmarks]:
        """What to call for each frame of a video, in order, or for a picture."""
        yield self._find

    def _find(self, pixels: np.ndarray, milliseconds: int) -> np.ndarray | None:
        try:
            return self.model.align(pixels, face_index=0).landmarks
        except (FaceNotFoundError, FaceTooSmallError, InvalidImageError):
            return None


class MediaPipeLandmarker:
    """MediaPipe Face Landmarker (Apache-2.0), from its file `face_landmarker.task`; it follows a face over a video.

    Raises:
        DatasetError: not such a file. MissingDependencyError: MediaPipe is not installed.
    """

    def __init__(self, path: Path):
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError as error:
            raise MissingDependencyError(
                'a face_landmarker.task needs MediaPipe: pip install "avatarsync[train]", or --landmarker bundled'
            ) from error
        self._mediapipe, self._vision = mediapipe, vision
        self._base_options = BaseOptions(model_asset_path=str(path))
        try:
            with self.watch(video=False):
                pass
        except (RuntimeError, ValueError) as error:
            raise DatasetError(
                f"--landmarker {path} is no MediaPipe face landmarker ({error}): give face_landmarker.task, or bundled"
            ) from error

    @contextmanager
    def watch(self, video: bool) -> Iterator[FindLandmarks]:
        """What to call for each frame of a video, in order, or for a picture."""
        mode = self._vision.RunningMode.VIDEO if video else self._vision.RunningMode.IMAGE
        options = self._vision.FaceLandmarkerOptions(base_options=self._base_options, num_faces=1, running_mode=mode)
        # Closed each time: when Python exits, MediaPipe can no longer do so.
        with self._vision.FaceLandmarker.create_from_options(options) as model:

            def find(pixels: np.ndarray, milliseconds: int) -> np.ndarray | None:
                pixels = np.ascontiguousarray(pixels)  # it silently misreads arrays with strides
                image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=pixels)
                result = model.detect_for_video(image, milliseconds) if video else model.detect(image)
                if not result.face_landmarks:
                    return None
                height, width = pixels.shape[:2]
                points = [(point.x * width, point.y * height) for point in result.face_landmarks[0][:NUM_LANDMARKS]]
                return np.array(points, np.float32) - 0.5  # it counts from the pixel's corner, we from its centre

            yield find


def open_landmarker(name: str) -> BundledLandmarker | MediaPipeLandmarker:
    """The landmarker of `--landmarker`: "bundled", or the path of a face_landmarker.task.

    Raises:
        DatasetError: no such file, or not a landmarker. MissingDependencyError: MediaPipe is not installed.
    """
    if name == BUNDLED:
        return BundledLandmarker()
    if not Path(name).is_file():
        raise DatasetError(f"--landmarker {name}: no such file; give MediaPipe's face_landmarker.task, or bundled")
    return MediaPipeLandmarker(Path(name))
