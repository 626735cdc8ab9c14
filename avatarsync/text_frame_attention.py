"""Attention under the Text–Frame Causal Attention Mask, computed piece by piece.

Rows come in groups that read only themselves and *memories*: keys and values computed before. The rows of one frame
are a group, so are the three rows of a unit and those of the reference. Positions are unit indices under rotary
embedding (RoPE).

Shapes: B items, G groups, M new rows and N readable rows of a group, H heads of D channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_avatarsync import KeyframeGeneratorConfig

ROTARY_BASE = 1000.0


class Rotation(NamedTuple):
    """Rotary embedding: cosines and sines, `(..., D)`."""

    cos: torch.Tensor
    sin: torch.Tensor

    @classmethod
    def of(cls, positions: torch.Tensor, head_size: int, dtype: torch.dtype) -> "Rotation":
        """Of unit indices, or offsets between them, `(...)`."""
        # In float64: hours of speech have indices at which float32 angles are off by more than an offset means.
        frequencies = ROTARY_BASE ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
        angles = (positions.cpu().unsqueeze(-1) * frequencies).repeat(*[1] * positions.dim(), 2)
        return cls(angles.cos().to(positions.device, dtype), angles.sin().to(positions.device, dtype))

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Rotate rows `(..., D)`."""
        first, second = rows.chunk(2, dim=-1)
        return rows * self.cos + torch.cat([-second, first], dim=-1) * self.sin


class Memory(NamedTuple):
    """What a query may read: keys and values `(B, G, H, N, D)`, or `(B, H, N, D)` where all groups share them.

    mask: True where it may, broadcastable to the scores `(B, G, H, M, N)`; None where it may read all.
    query_rotation: of the groups' positions `(G, 1, 1, D)`, for keys rotated by positions of their own; None for keys
        rotated by their offset from the group, or at its own position.
    """

    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None = None
    query_rotation: Rotation | None = None

    def of_groups(self, groups: slice | torch.Tensor) -> "Memory":
        """What some of the groups may read, of a memory whose mask has all of them."""
        rotation, mask = self.query_rotation, self.mask[:, groups]
        if self.key.dim() == 4:  # all groups share the keys
            rotation = rotation and Rotation(*(values[groups] for values in rotation))
            return self._replace(mask=mask, query_rotation=rotation)
        return self._replace(key=self.key[:, groups], value=self.value[:, groups], mask=mask)


@dataclass
class EncodedUnits:
    """What the frames of some units read of units and reference: to be decoded, and more than once.

    Attributes:
        memories: [units, reference] of each layer.
        unit_mask: `(B, T)`, False at padding.
        span: the units' place in the whole sequence.
    """

    memories: list[list[Memory]]
    unit_mask: torch.Tensor
    span: slice

    def of_frames(self, frames: torch.Tensor) -> "EncodedUnits":
        """The same for some frames alone, `(N,)` indices; for frame_context "none", where none reads another."""
        memories = [[units.of_groups(frames), reference] for units, reference in self.memories]
        return EncodedUnits(memories, self.unit_mask[:, frames], self.span)


def attend(query: torch.Tensor, memories: list[Memory]) -> torch.Tensor:
    """Attention of query `(B, G, H, M, D)` to all memories under one softmax → `(B, G, H, M, D)`."""
    query = query * query.shape[-1] ** -0.5
    scores = []
    for key, _, mask, rotation in memories:
        rotated = query if rotation is None else rotation(query)
        shared = key.dim() == 4
        score = torch.einsum("bghmd,bhnd->bghmn" if shared else "bghmd,bghnd->bghmn", rotated, key)
        # Not -inf: a row of padding may have nothing to read, and must not become NaN.
        scores.append(score if mask is None else score.masked_fill(~mask, torch.finfo(score.dtype).min))
    weights = torch.cat(scores, dim=-1).softmax(-1).split([score.shape[-1] for score in scores], dim=-1)
    mixed = 0
    for memory, weight in zip(memories, weights, strict=True):
        shared = memory.value.dim() == 4
        formula = "bghmn,bhnd->bghmd" if shared else "bghmn,bghnd->bghmd"
        mixed = mixed + torch.einsum(formula, weight.to(memory.value.dtype), memory.value)
    return mixed


def shift_by_one(rows: torch.Tensor) -> torch.Tensor:
    """Rows `(B, T, H, N, D)` of each frame → those of the frame before; zeros for the first."""
    return functional.pad(rows[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))


class TextFrameAttention(nn.Module):
    """Multi-head attention of rows to memories, to the rows of their own group and to those of the group before."""

    def __init__(self, config: KeyframeGeneratorConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden: torch.Tensor,
        memories: list[Memory],
        mask: torch.Tensor | None,
        rotation: Rotation | None,
        previous_mask: torch.Tensor | None,
        past: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Attend.

        Args:
            hidden `(B, G, M, hidden)`: the new rows of each group.
            memories: what they read outside their group.
            mask: which rows of its group, past and new, a row reads; None for all of them.
            rotation: of the rows' positions, where rows of one group differ in position.
            previous_mask: which rows of the group before a row reads; None for none.
            past: keys and values of the group's earlier rows, `(B, G, H, N, D)` each.

        Returns:
            The rows `(B, G, M, hidden)`, and the group's keys and values, past and new.
        """
        query, key, value = (
            layer(hidden).unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
            for layer in (self.query, self.key, self.value)
        )  # (B, G, H, M, D)
        if rotation is not None:
            query, key = rotation(query), rotation(key)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=3), torch.cat([past[1], value], dim=3)
        memories = [*memories, Memory(key, value, mask)]
        if previous_mask is not None:
            one_back = Rotation.of(torch.tensor(-1, device=key.device), key.shape[-1], key.dtype)
            memories.append(Memory(one_back(shift_by_one(key)), shift_by_one(value), previous_mask))
        mixed = attend(query, memories)
        return self.output(mixed.transpose(2, 3).flatten(-2)), key, value


class KeyframeBlock(GradientCheckpointingLayer):
    """Pre-norm Transformer block."""

    def __init__(self, config: KeyframeGeneratorConfig):
        super().__init__()
        width = int(config.mlp_ratio * config.hidden_size)
        self.attention_norm = nn.RMSNorm(config.hidden_size)
        self.attention = TextFrameAttention(config)
        self.mlp_norm = nn.RMSNorm(config.hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_size, width), nn.GELU(approximate="tanh"), nn.Linear(width, config.hidden_size)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: torch.Tensor,
        memories: list[Memory],
        mask: torch.Tensor | None = None,
        rotation: Rotation | None = None,
        previous_mask: torch.Tensor | None = None,
        past: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, and the keys and values of their group; arguments as `TextFrameAttention.forward`."""
        mixed, key, value = self.attention(self.attention_norm(hidden), memories, mask, rotation, previous_mask, past)
        hidden = hidden + self.dropout(mixed)
        return hidden + self.dropout(self.mlp(self.mlp_norm(hidden))), key, value


class LayerDecoder:
    """One layer for frames whose rows are decoded one by one, when nothing is to be learned: a third of the operations
    of `KeyframeBlock.forward`, which is what the time of few frames goes into.

    For frames that read no other frame (frame_context "none") and no unit at an absolute position.

    Args:
        memories: what the frames read, as `EncodedUnits` has them for this layer.
        num_frames, num_rows: G groups, and the rows that each is going to have.
    """

    def __init__(self, block: KeyframeBlock, memories: list[Memory], num_frames: int, num_rows: int):
        self.block, attention, mlp = block, block.attention, block.mlp
        self.num_heads = attention.num_heads
        self.project = _side_by_side(attention.query, attention.key, attention.value)
        self.output, self.widen, self.activate = _side_by_side(attention.output), _side_by_side(mlp[0]), mlp[1]
        self.narrow = _side_by_side(mlp[2])
        # Keys and values: those of units and reference, and room for the rows to come, (B·G, H, N, D).
        keys = [_of_each_group(memory.key, num_frames) for memory in memories]
        values = [_of_each_group(memory.value, num_frames) for memory in memories]
        batch, groups, heads, _, channels = keys[0].shape
        room = keys[0].new_zeros(batch, groups, heads, num_rows, channels)
        self.key, self.value = (torch.cat([*rows, room], dim=3).flatten(0, 1) for rows in (keys, values))
        self.length = self.key.shape[2] - num_rows
        visible = torch.ones(batch, groups, 1, 1, self.key.shape[2], dtype=torch.bool, device=room.device)
        first = 0
        for memory, rows in zip(memories, keys, strict=True):
            if memory.mask is not None:
                visible[..., first : first + rows.shape[3]] &= memory.mask
            first += rows.shape[3]
        self.hidden = None if visible.all() else ~visible.flatten(0, 1)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """One new row of each group `(B·G, hidden)`, which reads what was there and itself."""
        rows = self.project(self.block.attention_norm(hidden)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = rows.unbind(1)  # (B·G, H, D)
        self.key[:, :, self.length], self.value[:, :, self.length] = key, value
        self.length += 1
        scores = (query * query.shape[-1] ** -0.5)[:, :, None] @ self.key[:, :, : self.length].transpose(2, 3)
        if self.hidden is not None:
            scores.masked_fill_(self.hidden[..., : self.length], torch.finfo(scores.dtype).min)
        mixed = scores.softmax(-1) @ self.value[:, :, : self.length]  # (B·G, H, 1, D)
        hidden = hidden + self.output(mixed.flatten(1))
        return hidden + self.narrow(self.activate(self.widen(self.block.mlp_norm(hidden))))


def _of_each_group(rows: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Rows `(B, G, H, N, D)` of rows that all groups share, `(B, H, N, D)`, or not."""
    return rows if rows.dim() == 5 else rows[:, None].expand(-1, num_groups, -1, -1, -1)


def _side_by_side(*layers: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """What linear layers make of rows `(N, hidden)`, one beside the other."""
    if any(type(layer) is not nn.Linear for layer in layers):  # an adapter's
        return lambda rows: torch.cat([layer(rows) for layer in layers], -1)
    # Few rows are multiplied up to three times as fast by a matrix that lies in memory as it is read.
    weight = torch.cat([layer.weight for layer in layers]).t().contiguous()
    if layers[0].bias is None:
        return lambda rows: rows @ weight
    bias = torch.cat([layer.bias for layer in layers])
    return lambda rows: torch.addmm(bias, rows, weight)


class RowDecoder:
    """Takes the next row of each frame, `(B, T, 1, hidden)`, through all layers, and remembers it.

    Args:
        blocks: the layers.
        encoded: what the frames read.
        previous_mask: as `TextFrameAttention.forward` takes it.
        num_rows: how many rows of each frame there will be.
    """

    def __init__(
        self, blocks: nn.ModuleList, encoded: EncodedUnits, previous_mask: torch.Tensor | None, num_rows: int
    ):
        self.blocks, self.memories, self.previous_mask = blocks, encoded.memories, previous_mask
        self.past: list = [None] * len(blocks)
        self.layers: list[LayerDecoder] | None = None
        rotated = any(memory.query_rotation is not None for memories in encoded.memories for memory in memories)
        if previous_mask is None and not rotated:
            num_frames = encoded.unit_mask.shape[1]
            self.layers = [
                LayerDecoder(block, memories, num_frames, num_rows)
                for block, memories in zip(blocks, encoded.memories, strict=True)
            ]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if self.layers is None:
            for layer, block in enumerate(self.blocks):
                rows, *self.past[layer] = block(
                    rows, self.memories[layer], None, None, self.previous_mask, self.past[layer]
                )
            return rows
        hidden = rows.flatten(0, 2)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden.view(rows.shape)


__all__ = ["EncodedUnits", "KeyframeBlock", "Memory", "Rotation", "RowDecoder", "TextFrameAttention"]
