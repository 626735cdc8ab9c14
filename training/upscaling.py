"""Super-resolution of faces before they are cropped (the paper's Appendix A.1 does it with GFPGAN, four-fold).

Which network is the user's choice. It gets RGB `(1, 3, H, W)` float32 in [0, 1] and returns the same, k times as large
with a whole k. Networks of a fixed input size see the picture in overlapping tiles of that size.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from avatarsync.errors import DatasetError, MissingDependencyError
from avatarsync.image_processing_face import invert_matrix, transform_points, warp_image

LANCZOS_FACTOR = 4  # as the paper's super-resolution
TILE_OVERLAP = 16  # pixels of neighbourhood that a tile's border lacks, and its neighbour has
PROBE_SIDE = 64

Upscale = Callable[[np.ndarray], np.ndarray]


def lanczos(image: np.ndarray) -> np.ndarray:
    """`(H, W, 3) uint8` four times as large, by plain Lanczos resampling: no detail is added."""
    size = (image.shape[1] * LANCZOS_FACTOR, image.shape[0] * LANCZOS_FACTOR)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


class NetworkUpscaler:
    """An ONNX or `torch.export` network.

    Args:
        path: a file that ends in .onnx or .pt2.

    Raises:
        DatasetError: it cannot be loaded, or is no upscaler as described above.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(self, path: Path):
        self.path = path
        loaders = {".onnx": self._load_onnx, ".pt2": self._load_export}
        if path.suffix not in loaders:
            raise DatasetError(f"--upscale {path}: give none, lanczos, or a network that ends in .onnx or .pt2")
        if not path.is_file():
            raise DatasetError(f"--upscale {path}: there is no such file")
        shape = loaders[path.suffix]()
        if len(shape) != 4 or shape[1] not in (3, None) or shape[0] not in (1, None):
            raise self._refuse(f"its input is {shape}, not (1, 3, H, W)")
        self.height, self.width = shape[2:]  # None where any will do
        if any(side is not None and side <= 2 * TILE_OVERLAP for side in (self.height, self.width)):
            raise self._refuse(f"its fixed input of {self.height}x{self.width} pixels is too small for tiles")
        self.factor = self._probe()

    def _load_onnx(self) -> list[int | None]:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError("an ONNX upscaler needs onnxruntime: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise self._refuse(str(error)) from error
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise self._refuse(f"its inputs are {[(i.name, i.type) for i in inputs]}, not one of float32")
        self._network = lambda pixels: session.run(None, {inputs[0].name: pixels})[0]
        return [side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape]

    def _load_export(self) -> list[int | None]:
        try:
            program = torch.export.load(self.path)
            module = program.module()
        except Exception as error:  # a wrong file fails in whichever reader gets hold of it
            raise self._refuse(str(error)) from error
        names = program.graph_signature.user_inputs
        if len(names) != 1:
            raise self._refuse(f"its inputs are {list(names)}, not one picture")
        (value,) = (node.meta["val"] for node in program.graph.nodes if node.name == names[0])

        def network(pixels: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                output = module(torch.from_numpy(pixels))
            return (output[0] if isinstance(output, tuple | list) else output).numpy()

        self._network = network
        return [side if isinstance(side, int) else None for side in value.shape]

    def _refuse(self, reason: str) -> DatasetError:
        reason = " ".join(reason.split())[:300]
        return DatasetError(
            f"--upscale {self.path.name} cannot be used: {reason}. "
            "Export a network (1, 3, H, W) → (1, 3, kH, kW), float32 in [0, 1], RGB"
        )

    def _probe(self) -> int:
        """Run the network once and learn by which whole number it enlarges."""
        height, width = self.height or PROBE_SIDE, self.width or PROBE_SIDE
        grey = np.full((1, 3, height, width), 0.5, np.float32)
        try:
            output = self._network(grey)
        except Exception as error:
            raise self._refuse(f"it fails on a picture of {height}x{width} pixels ({error})") from error
        shape = tuple(output.shape)
        factor = shape[2] // height if len(shape) == 4 else 0
        if factor < 1 or shape != (1, 3, height * factor, width * factor):
            raise self._refuse(f"it turns (1, 3, {height}, {width}) into {shape}")
        if not np.isfinite(output).all() or not -0.5 <= float(output.mean()) <= 1.5:
            raise self._refuse(f"it turns mid-grey 0.5 into {float(output.mean()):.3g}")
        return factor

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """`(H, W, 3) uint8` → `(k·H, k·W, 3) uint8`."""
        height, width = image.shape[:2]
        tile_height, tile_width = self.height or height, self.width or width
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        missing = (max(0, tile_width - width), max(0, tile_height - height))
        pixels = F.pad(pixels, (0, missing[0], 0, missing[1]), mode="replicate").numpy()
        result = np.empty((1, 3, pixels.shape[2] * self.factor, pixels.shape[3] * self.factor), np.float32)
        k = self.factor
        for top, first_row, last_row in _tiles(pixels.shape[2], tile_height):
            for left, first_column, last_column in _tiles(pixels.shape[3], tile_width):
                tile = np.ascontiguousarray(pixels[:, :, top : top + tile_height, left : left + tile_width])
                output = self._network(tile)
                rows = slice(k * (first_row - top), k * (last_row - top))
                columns = slice(k * (first_column - left), k * (last_column - left))
                place = result[:, :, k * first_row : k * last_row, k * first_column : k * last_column]
                place[:] = output[:, :, rows, columns]
        result = result[0, :, : k * height, : k * width].transpose(1, 2, 0)
        return np.ascontiguousarray((result * 255).round().clip(0, 255).astype(np.uint8))


def _tiles(length: int, tile: int) -> list[tuple[int, int, int]]:
    """Tiles of a line: where each begins, and the first and last (exclusive) place that is taken from it."""
    starts = [0]
    while starts[-1] + tile < length:
        starts.append(min(starts[-1] + tile - 2 * TILE_OVERLAP, length - tile))
    seams = [0, *((before + tile + after) // 2 for before, after in zip(starts, starts[1:], strict=False)), length]
    return list(zip(starts, seams[:-1], seams[1:], strict=True))


def load_upscaler(name: str) -> Upscale | None:
    """The upscaler of `--upscale`: None for "none".

    Raises:
        DatasetError, MissingDependencyError: see `NetworkUpscaler`.
    """
    if name == "none":
        return None
    return lanczos if name == "lanczos" else NetworkUpscaler(Path(name))


def crop_upscaled(image: np.ndarray, matrix: np.ndarray, size: int, upscale: Upscale | None) -> np.ndarray:
    """The crop `(size, size, 3) uint8` of `image` `(H, W, 3) uint8` under `matrix` `(2, 3)`, upscaled first."""
    if upscale is None:
        return warp_image(image, matrix, size)
    # Only what the crop shows: the rest of the frame would be upscaled in vain.
    corners = transform_points(
        np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float32), invert_matrix(matrix)
    )
    limit = np.array(image.shape[1::-1])
    low = np.clip(np.floor(corners.min(0)).astype(int) - 4, 0, limit - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 5, low + 1, limit)
    part = upscale(image[low[1] : high[1], low[0] : high[0]])
    factor = part.shape[0] / (high[1] - low[1])
    # Pixel u of the part lies at (u + 0.5) / factor - 0.5 + low in the picture.
    enlarged = matrix.astype(np.float64) / factor
    enlarged[:, 2] = matrix[:, 2] + matrix[:, :2] @ (0.5 / factor - 0.5 + low)
    return warp_image(part, enlarged.astype(np.float32), size)
