"""Selective state-space scan in its SSD form (Mamba-2, Dao and Gu 2024), and the four orders in which a pair of
token grids is scanned (VFIMamba, Zhang et al. 2024a, the model that the paper's second stage draws on).

For every head, with a state h of shape (N, P) that starts at zero:

    h_l = exp(dt_l · A) · h_{l-1} + dt_l · B_l ⊗ x_l        y_l = C_l · h_l

Shapes: x (B, L, H, P), dt (B, L, H), A (H,), B and C (B, L, G, N) → y (B, L, H, P); L tokens, H heads of P channels,
N state size, G groups of H / G heads that share B and C. A is negative, dt positive.
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional


def selective_scan(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, chunk_size: int
) -> torch.Tensor:
    """The scan by the fastest means at hand: on CUDA the Triton kernel of `mamba_ssm` if it is installed, else
    `selective_scan_chunked`. Chosen at every call from the tensors' device, for the kernel cannot read CPU tensors.
    """
    if x.is_cuda:
        kernel = _triton_chunk_scan()
        if kernel is not None:
            return kernel(x, dt, A, B, C, chunk_size)
    return selective_scan_chunked(x, dt, A, B, C, chunk_size)


def selective_scan_sequential(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor
) -> torch.Tensor:
    """The recurrence token by token, as the module's head writes it: the reference for the other ways."""
    heads_per_group = x.shape[2] // B.shape[2]
    B = B.repeat_interleave(heads_per_group, dim=2)  # (B, L, H, N)
    C = C.repeat_interleave(heads_per_group, dim=2)
    decay = (dt * A).exp()  # (B, L, H)
    state = x.new_zeros(x.shape[0], x.shape[2], B.shape[-1], x.shape[-1])  # (B, H, N, P)
    outputs = []
    for step in range(x.shape[1]):
        update = dt[:, step, :, None, None] * B[:, step, :, :, None] * x[:, step, :, None, :]
        state = decay[:, step, :, None, None] * state + update
        outputs.append((C[:, step, :, :, None] * state).sum(-2))
    return torch.stack(outputs, dim=1).to(x.dtype)


def selective_scan_chunked(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, chunk_size: int
) -> torch.Tensor:
    """The same by blocks of `chunk_size` tokens: matrix products inside a block, a recurrence from block to block.

    Linear in L; equal to `selective_scan_sequential` up to rounding for any chunk size, divisor of L or not.
    """
    batch, length, heads, channels = x.shape
    groups, state_size = B.shape[2:]
    per_group = heads // groups
    chunk = min(chunk_size, length)
    chunks = -(-length // chunk)
    padding = chunks * chunk - length
    if padding:  # dt = 0 neither decays the state nor adds to it
        x, B, C = (functional.pad(tensor, (0, 0, 0, 0, 0, padding)) for tensor in (x, B, C))
        dt = functional.pad(dt, (0, 0, 0, padding))

    # b batch, c chunk, g group, h head in its group, q token in its chunk, n state, p channel
    log_decay = (dt * A).view(batch, chunks, chunk, groups, per_group).permute(0, 1, 3, 4, 2)  # (b, c, g, h, q)
    weighted = (x * dt.unsqueeze(-1).to(x.dtype)).view(batch, chunks, chunk, groups, per_group, channels)
    weighted = weighted.permute(0, 1, 3, 4, 2, 5)  # (b, c, g, h, q, p)
    B = B.view(batch, chunks, chunk, groups, state_size).transpose(2, 3)  # (b, c, g, q, n)
    C = C.view(batch, chunks, chunk, groups, state_size).transpose(2, 3)

    decay = segment_sums(log_decay).exp().to(x.dtype)  # (b, c, g, h, q, q)
    scores = (C @ B.transpose(-1, -2)).tril()  # (b, c, g, q, q), masked here, where it is smallest
    y = (scores.unsqueeze(3) * decay) @ weighted  # (b, c, g, h, q, p), what the chunk's own tokens contribute

    if chunks > 1:
        to_chunk_end = decay[..., -1, :]  # (b, c, g, h, q)
        added = (B.unsqueeze(3) * to_chunk_end.unsqueeze(-1)).transpose(-1, -2) @ weighted  # (b, c, g, h, n, p)
        from_chunk_start = log_decay.cumsum(-1).exp().to(x.dtype)  # (b, c, g, h, q)
        state = torch.zeros_like(added[:, 0])
        states = []  # the state that each chunk starts from
        for index in range(chunks):
            states.append(state)
            state = from_chunk_start[:, index, ..., -1, None, None] * state + added[:, index]
        y = y + from_chunk_start.unsqueeze(-1) * (C.unsqueeze(3) @ torch.stack(states, dim=1))

    return y.permute(0, 1, 4, 2, 3, 5).reshape(batch, chunks * chunk, heads, channels)[:, :length]


def segment_sums(values: torch.Tensor) -> torch.Tensor:
    """(..., Q) → (..., Q, Q): entry (i, j) is values[j+1] + … + values[i], hence 0 where j >= i.

    Each sum is accumulated on its own. The difference of two prefix sums would be cheaper, but cancels: where the
    prefix is large, a small sum would lose its digits.
    """
    below = torch.ones(values.shape[-1], values.shape[-1], dtype=values.dtype, device=values.device).tril(-1)
    return (values.unsqueeze(-1) * below).cumsum(-2)


@functools.cache
def _triton_chunk_scan() -> Callable | None:
    """`mamba_ssm`'s kernel, or None where it is not installed or was built for another torch."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return None
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError:
        return None
    return mamba_chunk_scan_combined


@dataclass
class FourWayScan:
    """Four orders of the 2K interleaved tokens of two frames, and their inverses.

    Tokens are stored position by position, row-major, the two frames of a position side by side: token 2k is position
    k of the first frame, token 2k + 1 of the second. The orders are row-major forward and backward, column-major
    forward and backward; a position's two tokens stay neighbours in all of them.

    Args:
        permutations `(2K, 4)`: the token that is read at each step of each order.
        inverses `(2K, 4)`: the step at which each order reads each token.
    """

    permutations: torch.Tensor
    inverses: torch.Tensor

    @classmethod
    def of_grid(cls, grid_size: int, device: torch.device | str = "cpu") -> "FourWayScan":
        """The orders for two frames of grid_size² tokens."""
        tokens = torch.arange(2 * grid_size**2, device=device)
        columns_first = tokens.view(grid_size, grid_size, 2).transpose(0, 1).flatten()
        permutations = torch.stack([tokens, tokens.flip(0), columns_first, columns_first.flip(0)], dim=1)
        return cls(permutations, permutations.argsort(dim=0))

    def scan(self, tokens: torch.Tensor) -> torch.Tensor:
        """Stored tokens (B, 2K, C) → (B, 2K, 4, C): the same tokens in each order."""
        return tokens[:, self.permutations]

    def scan_each(self, tokens: torch.Tensor) -> torch.Tensor:
        """Stored tokens (B, 2K, 4, C) with values of their own for each order → (B, 2K, 4, C), each in its order."""
        return _take(tokens, self.permutations)

    def unscan(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, 2K, 4, C) in scan order → (B, 2K, 4, C) in the order of storage: the inverse of `scan_each`."""
        return _take(tokens, self.inverses)


def _take(tokens: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return tokens[:, order, torch.arange(order.shape[1], device=order.device)]


__all__ = [
    "FourWayScan",
    "segment_sums",
    "selective_scan",
    "selective_scan_chunked",
    "selective_scan_sequential",
]
