"""What talking heads are measured by: plain functions on arrays, each formula written once.

T frames of H×W pixels, `uint8` RGB; landmarks are MediaPipe's first 468 in pixels of the frame.
"""

from .closure import bilabial_centres, openings_at, silence_centres
from .flicker import second_differences
from .lip_correlation import best_lag, gain, inner_lip_gap, mouth_width, pearson
from .psnr import psnr
from .regions import Region, contour_region, region_mask
from .sharpness import laplacian_variance, sharpness_ratio

__all__ = [
    "Region",
    "best_lag",
    "bilabial_centres",
    "contour_region",
    "gain",
    "inner_lip_gap",
    "laplacian_variance",
    "mouth_width",
    "openings_at",
    "pearson",
    "psnr",
    "region_mask",
    "second_differences",
    "sharpness_ratio",
    "silence_centres",
]
