"""Peak signal-to-noise ratio."""

import numpy as np


def psnr(squared_error: float | np.ndarray, peak: float = 255.0) -> np.ndarray:
    """PSNR in dB of mean squared errors, `10 log10(peak² / error)`; infinite where there is no error.

    Errors of frames are averaged before, not their PSNRs after: a frame that equals the other would else decide.
    """
    with np.errstate(divide="ignore"):
        return 10 * np.log10(peak**2 / np.asarray(squared_error, np.float64))
