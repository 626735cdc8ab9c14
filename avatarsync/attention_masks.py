"""The Text–Frame Causal Attention Mask: who reads whom in the sequence of keyframe generation (Appendix A.4).

The sequence has, in this order,

    {duration 1}{unit 1}{condition 1} … {duration T}{unit T}{condition T}     3·T unit rows
    {reference token 1} … {reference token K}                                K reference rows
    [B]{token 1} … {token K-1} of frame 1, … of frame T                      T·K frame rows; row j predicts token j

(the last token of a frame is read by nobody, so it has no row). Frame rows read the units that the mode allows, the
reference, and the rows of their own frame up to themselves. Reference rows read the reference alone. Unit rows must
be masked as well, or what a frame must not see reaches it in two layers, through a unit that it may see: in the
bounded modes (limited_history, one_to_one, window) a unit reads its own three rows only.

Eq. 5 lets a frame depend on the frames before it, while one-to-one attention lets it depend on its own unit alone;
both cannot hold, so the user chooses. With `frame_context="previous"` row j of a frame also reads rows 1 … j of the
frame before. Those tokens exist already when all frames emit their token j at once. They were themselves chosen in
sight of the frame before, so that frame i then depends on all units that any of frames 1 … i may read. With "none"
it depends on its own units and the reference alone.

Masks are boolean and True where a row may read a column.
"""

from typing import Literal

import torch

from .configuration_avatarsync import AttentionMode

FrameContext = Literal["none", "previous"]

# {duration}{unit}{condition}
ROWS_PER_UNIT = 3


def unit_reach(mode: AttentionMode, past_units: int, future_units: int) -> tuple[int, int] | None:
    """How many units before and after its own a frame reads; None where nothing bounds it ("full", "causal").

    `past_units` and `future_units` are those of the configuration and count in "window" mode.
    """
    if mode == "limited_history":
        return 1, 0
    if mode == "one_to_one":
        return 0, 0
    return (past_units, future_units) if mode == "window" else None


def unit_visibility(
    mode: AttentionMode, num_units: int, past_units: int, future_units: int, device: torch.device | None = None
) -> torch.Tensor:
    """(T, T): True at (i, u) where frame i may read unit u."""
    index = torch.arange(num_units, device=device)
    offset = index - index.unsqueeze(1)  # of unit u from frame i
    reach = unit_reach(mode, past_units, future_units)
    if reach is not None:
        return (offset >= -reach[0]) & (offset <= reach[1])
    return offset <= 0 if mode == "causal" else torch.ones_like(offset, dtype=torch.bool)


def unit_row_visibility(mode: AttentionMode, num_units: int, device: torch.device | None = None) -> torch.Tensor:
    """(T, T): True at (i, u) where the rows of unit i may read those of unit u."""
    return unit_visibility(mode if mode in ("full", "causal") else "one_to_one", num_units, 0, 0, device)


def frame_row_visibility(num_tokens: int, device: torch.device | None = None) -> torch.Tensor:
    """(K, K): True at (j, k) where row j of a frame may read row k, of itself or of the frame before."""
    return torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=device).tril()


def text_frame_mask(
    mode: AttentionMode,
    num_units: int,
    num_tokens: int,
    past_units: int,
    future_units: int,
    frame_context: FrameContext = "none",
    unit_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The whole mask (L, L) with L = 3·T + K + T·K; with `unit_mask` `(B, T)`, False at padding, (B, L, L).

    This is the definition. `KeyframeGeneratorModel` computes attention under it without forming it, since most of it
    is empty. Rows of padding read what their place allows; nobody else reads them.
    """
    unit_rows, frame_rows = ROWS_PER_UNIT * num_units, num_units * num_tokens
    reference = slice(unit_rows, unit_rows + num_tokens)
    frames = slice(unit_rows + num_tokens, unit_rows + num_tokens + frame_rows)
    mask = torch.zeros(frames.stop, frames.stop, dtype=torch.bool)

    units_to_units = unit_row_visibility(mode, num_units)
    mask[:unit_rows, :unit_rows] = _repeat(units_to_units, ROWS_PER_UNIT, ROWS_PER_UNIT)
    mask[reference, reference] = True
    frames_to_units = unit_visibility(mode, num_units, past_units, future_units)
    mask[frames, :unit_rows] = _repeat(frames_to_units, num_tokens, ROWS_PER_UNIT)
    mask[frames, reference] = True
    frames_to_frames = unit_visibility(
        "one_to_one" if frame_context == "none" else "limited_history", num_units, past_units, future_units
    )
    mask[frames, frames] = _repeat(frames_to_frames, num_tokens, num_tokens) & frame_row_visibility(num_tokens).repeat(
        num_units, num_units
    )
    if unit_mask is None:
        return mask

    real = torch.cat(
        [
            unit_mask.repeat_interleave(ROWS_PER_UNIT, dim=1),
            torch.ones(len(unit_mask), num_tokens, dtype=torch.bool),
            unit_mask.repeat_interleave(num_tokens, dim=1),
        ],
        dim=1,
    )  # (B, L)
    return mask & (real.unsqueeze(1) | ~real.unsqueeze(2))


def _repeat(mask: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Every entry of a mask as a block of rows × columns."""
    return mask.repeat_interleave(rows, dim=0).repeat_interleave(columns, dim=1)


__all__ = [
    "ROWS_PER_UNIT",
    "FrameContext",
    "frame_row_visibility",
    "text_frame_mask",
    "unit_reach",
    "unit_row_visibility",
    "unit_visibility",
]
