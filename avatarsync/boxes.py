"""Boxes of rows and columns, as slices, and what two of them share."""

import torch

Box = tuple[slice, slice]


def overlap(one: Box | None, other: Box | None) -> Box | None:
    """The rows and columns that two boxes share; None where they share none."""
    if one is None or other is None:
        return None
    shared = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return shared if all(side.start < side.stop for side in shared) else None


def counted_from(box: Box, inner: Box) -> Box:
    """Rows and columns of a box within another, counted from where that one begins."""
    return tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(box, inner, strict=True))


def cut(fields: torch.Tensor, box: Box, inner: Box) -> torch.Tensor:
    """Of fields `(…, h, w)` that are known in a box what lies in one within it: a view."""
    return fields[(..., *counted_from(box, inner))]
