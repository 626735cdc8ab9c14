"""Fréchet distances of streams: what FID and FVD have in common."""

import numpy as np
import torch

from ...distribution_features import DistributionFeatures
from ...errors import InvalidArgumentError
from .gaussian_statistics import covariance, empty_statistics, frechet_distance, join_statistics, vector_statistics
from .streaming import StreamingMetric

SIDES = ("generated", "real")


class FrechetMetric(StreamingMetric):
    """Keeps mean and covariance of both sides' vectors.

    Args:
        network: the loaded network.
        batch_size: examples that the network sees at a time.
        device: where it runs.
    """

    def __init__(self, *args, network: DistributionFeatures, batch_size: int, device: str | torch.device, **kwargs):
        self.network, self.batch_size, self.device = network.eval().to(device), batch_size, device
        super().__init__(*args, **kwargs)

    def empty_state(self):
        statistics = empty_statistics(self.network.size)
        return {f"{side}_{name}": value.clone() for side in SIDES for name, value in statistics.items()}

    def _statistics(self, side: str, state: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        state = self.state if state is None else state
        return {name: state[f"{side}_{name}"] for name in ("count", "mean", "scatter")}

    def _join(self, side: str, statistics: dict[str, torch.Tensor]) -> None:
        joined = join_statistics(self._statistics(side), statistics)
        self.state |= {f"{side}_{name}": value for name, value in joined.items()}

    @torch.inference_mode()
    def add_vectors(self, side: str, examples: torch.Tensor) -> None:
        """Look at resized examples, as the network takes them, at most `batch_size`, and keep their statistics."""
        vectors = self.network(examples.to(self.device)).cpu()
        self._join(side, vector_statistics(vectors))

    def merge(self, other: "FrechetMetric") -> None:
        if isinstance(other, FrechetMetric) and other.network.figure != self.network.figure:
            raise InvalidArgumentError(
                f"{other.network.figure} cannot be merged into {self.network.figure}: use one network"
            )
        super().merge(other)

    def merge_state(self, other: dict[str, torch.Tensor]) -> None:
        for side in SIDES:
            self._join(side, self._statistics(side, other))

    def result(self) -> dict[str, float]:
        sides = [self._statistics(side) for side in SIDES]
        counts = [int(statistics["count"]) for statistics in sides]
        if min(counts) < 2:
            raise InvalidArgumentError(
                f"{self.network.figure} needs two examples a side: add more to the {counts[0]} generated and "
                f"{counts[1]} real ones"
            )
        gaussians = [part for statistics in sides for part in (statistics["mean"], covariance(statistics))]
        return {
            self.network.figure: frechet_distance(*gaussians),
            "examples_generated": counts[0],
            "examples_real": counts[1],
        }


def given_sides(predictions, references, check) -> dict[str, np.ndarray]:
    """The frames of each side that is there, checked; one may come without the other, and in other numbers.

    Raises:
        InvalidArgumentError: none is there, or they are no frames.
    """
    sides = {}
    for side, name, frames in zip(SIDES, ("predictions", "references"), (predictions, references), strict=True):
        if frames is not None:
            sides[side] = check(frames, name)
    if not sides:
        raise InvalidArgumentError("give predictions, references or both")
    return sides
