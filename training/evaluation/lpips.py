"""LPIPS v0.1 with the SqueezeNet trunk, from an ONNX file."""

import os

import numpy as np

from avatarsync.errors import InvalidArgumentError, MissingDependencyError

IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
MIN_SIDE = 32  # the trunk halves the picture four times


def check_lpips(path: str) -> None:
    """Raises InvalidArgumentError unless `path` is a file."""
    if not os.path.isfile(path):
        raise InvalidArgumentError(f"there is no file {path}: give LPIPS as ONNX with inputs ref and dist")


class Lpips:
    """Perceptual distance of two pictures, 0 for equal ones.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        InvalidArgumentError: the file is not LPIPS with the inputs `ref` and `dist`.
    """

    name = "LPIPS v0.1, SqueezeNet"

    def __init__(self, path: str):
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError('onnxruntime is needed for LPIPS: pip install -e ".[eval]"') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(path, options)
        except Exception as error:  # onnxruntime's own kinds share no base class
            raise InvalidArgumentError(f"{path} is no ONNX model that can be read ({error})") from error
        inputs = {node.name for node in self._session.get_inputs()}
        if inputs != {"ref", "dist"}:
            raise InvalidArgumentError(f"{path} has the inputs {sorted(inputs)}: LPIPS has ref and dist")

    def __call__(self, reference: np.ndarray, distorted: np.ndarray) -> float:
        """Both `(H, W, 3) uint8`; small ones continue with their edge pixels to 32 pixels a side."""
        inputs = {"ref": self._normalise(reference), "dist": self._normalise(distorted)}
        return float(self._session.run(None, inputs)[0].item())

    @staticmethod
    def _normalise(image: np.ndarray) -> np.ndarray:
        missing = [max(0, MIN_SIDE - side) for side in image.shape[:2]]
        image = np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
        normalised = (image / 255 - IMAGENET_MEAN) / IMAGENET_STD
        return normalised.transpose(2, 0, 1)[None].astype(np.float32)
