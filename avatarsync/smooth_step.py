"""The S-curve by which everything in a face or a picture fades in and out."""

from typing import TypeVar

import numpy as np
import torch

Values = TypeVar("Values", np.ndarray, torch.Tensor)


def smooth_step(values: Values) -> Values:
    """0 below 0, 1 above 1, between them 3v² - 2v³, level at both ends; of an array or a tensor of any shape."""
    values = values.clip(0, 1)
    return values * values * (3 - 2 * values)
