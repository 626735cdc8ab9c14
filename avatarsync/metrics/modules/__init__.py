"""The metrics as `evaluate.Metric` modules: batches go in, sums are kept, figures come out.

    from avatarsync.metrics.modules import PSNR, SSIM
    metric = SSIM()
    metric.add_batch(predictions=generated, references=real)   # (B, H, W, 3) uint8, as often as you like
    metric.compute()                                           # {"ssim": …}; and begins anew

`evaluate.load(script("ssim"))` gives the same object; arguments of the classes are passed on, as in
`evaluate.load(script("fid"), network="inception:PATH")`. Figures that depend on a network carry its name, and a
network that stands in for FID's, FVD's or SyncNet's never makes a figure of that name.
"""

from pathlib import Path

from ...errors import InvalidArgumentError
from . import hugging_face_evaluate  # noqa: F401  before the others: it says which extra is missing
from .closure import Closure, closure_moments
from .fid import FID
from .flicker import Flicker
from .fvd import FVD
from .iss import ISS
from .lip_correlation import LipCorrelation
from .lpips import LPIPS
from .psnr import PSNR
from .ssim import SSIM
from .sync import Sync

SCRIPTS = ("closure", "fid", "flicker", "fvd", "iss", "lip_correlation", "lpips", "psnr", "ssim", "sync")


def script(name: str) -> str:
    """The path that `evaluate.load` takes for the metric `name`, one of `SCRIPTS`.

    Raises:
        InvalidArgumentError: there is no such metric.
    """
    if name not in SCRIPTS:
        raise InvalidArgumentError(f"there is no metric {name!r}: choose from {', '.join(SCRIPTS)}")
    return str(Path(__file__).with_name(f"{name}.py"))


__all__ = [
    "FID",
    "FVD",
    "ISS",
    "LPIPS",
    "PSNR",
    "SCRIPTS",
    "SSIM",
    "Closure",
    "Flicker",
    "LipCorrelation",
    "Sync",
    "closure_moments",
    "script",
]
