"""Batches that their number determines, which is what makes a resumed run exact."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class NumberedBatches(Dataset):
    """Batches that their number determines: `self[i]` is a dict of tensors; subclasses write `make`."""

    def __init__(self, seed: int):
        self.seed = seed

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        random = np.random.default_rng((self.seed, index))
        return self.make(random, torch.Generator().manual_seed(int(random.integers(2**62))))

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        raise NotImplementedError


class EveryNth(Sampler):
    """start, start + stride, start + 2 · stride, … without end."""

    def __init__(self, start: int, stride: int):
        self.start, self.stride = start, stride

    def __iter__(self) -> Iterator[int]:
        index = self.start
        while True:
            yield index
            index += self.stride
