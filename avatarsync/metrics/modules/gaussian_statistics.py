"""Mean and covariance of a stream of vectors, and the Fréchet distance of two Gaussians."""

import torch


def empty_statistics(size: int) -> dict[str, torch.Tensor]:
    """Count, mean `(D,)` and scatter `(D, D)`, the sum of (x - mean)(x - mean)ᵀ, of no vectors, in float64."""
    zeros = {"count": (), "mean": (size,), "scatter": (size, size)}
    return {name: torch.zeros(shape, dtype=torch.float64) for name, shape in zeros.items()}


def vector_statistics(vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """The statistics of vectors `(N, D)`, N at least 1."""
    vectors = vectors.double()
    mean = vectors.mean(0)
    centred = vectors - mean
    count = torch.tensor(float(len(vectors)), dtype=torch.float64)
    return {"count": count, "mean": mean, "scatter": centred.T @ centred}


def join_statistics(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The statistics of both streams together (Chan et al. 1979): sums of squares are never subtracted."""
    count = first["count"] + second["count"]
    if not count:
        return first
    difference = second["mean"] - first["mean"]
    share = second["count"] / count
    return {
        "count": count,
        "mean": first["mean"] + difference * share,
        "scatter": first["scatter"] + second["scatter"] + torch.outer(difference, difference) * first["count"] * share,
    }


def covariance(statistics: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sample covariance `(D, D)`, of at least two vectors."""
    return statistics["scatter"] / (statistics["count"] - 1)


def frechet_distance(
    mean: torch.Tensor, spread: torch.Tensor, other_mean: torch.Tensor, other_spread: torch.Tensor
) -> float:
    """|μ - μ'|² + tr Σ + tr Σ' - 2 tr (Σ Σ')^½ of Gaussians with means `(D,)` and covariances `(D, D)`, float64.

    The last trace is the sum of the singular values of Σ^½ Σ'^½, with roots by eigenvalues: exact for singular
    covariances too, which those of fewer vectors than numbers are.
    """

    def root(matrix: torch.Tensor) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        # What rounding leaves of eigenvalues that are nought would grow under the root.
        rounding = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
        return vectors * torch.where(values > rounding, values, 0).sqrt()

    both = torch.linalg.svdvals(root(spread).T @ root(other_spread)).sum()
    distance = (mean - other_mean).square().sum() + spread.trace() + other_spread.trace() - 2 * both
    return max(float(distance), 0.0)  # rounding may take it below
