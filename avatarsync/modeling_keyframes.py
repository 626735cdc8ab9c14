"""Facial Keyframe Generation (FKG), the paper's first stage: an autoregressive Transformer that predicts the tokens of
one keyframe per visual unit (section Method, Auto-regressive Model (1), Eq. 4–6), all keyframes in parallel.

The sequence and its mask are described in `attention_masks`. Unit and reference rows read no frame, so they pass
through all layers once, and what frames read of them is kept as keys and values. Frame rows then attend to that and to
themselves through the same layers: in one pass over the true tokens (training), or token by token with a cache
(generation). No L × L mask is formed, and in the bounded modes the cost is linear in T.

Positions are unit indices under rotary embedding (RoPE), so that only the offset of a unit from the frame counts; the
reference is at every frame's own position. Learned embeddings tell the kinds of rows and the index in a frame.

Shapes: B items, T units and keyframes, K tokens a frame, F factors of a code with V_f = V^(1/F) values each, H heads
of D channels. Hidden states are (B, G, M, hidden): M rows in each of G groups.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .attention_masks import (
    ROWS_PER_UNIT,
    frame_row_visibility,
    unit_reach,
    unit_row_visibility,
    unit_visibility,
)
from .configuration_avatarsync import KeyframeGeneratorConfig
from .errors import InvalidArgumentError
from .quantizers import ids_to_digits
from .text_frame_attention import EncodedUnits, KeyframeBlock, Memory, Rotation, RowDecoder
from .token_sampling import choose_codes, draw_noise

ROW_KINDS = 5
DURATION, UNIT, CONDITION, REFERENCE, FRAME = range(ROW_KINDS)


@dataclass
class KeyframeOutput(ModelOutput):
    """Keyframes.

    Args:
        loss: scalar, Eq. 6 as nats per token; None when generating.
        logits `(B, T, K, F, V_f)`: of each factor of each code, F = 1 included.
        codes `(B, T, K)`: code ids, int64; None in training.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    codes: torch.Tensor | None = None


class KeyframeGeneratorModel(PreTrainedModel):
    """Visual units, their durations and conditions, and the reference's codes → codes of one keyframe per unit.

    A code is predicted as F digits in base V^(1/F), independently of each other given everything before the token.
    """

    config_class = KeyframeGeneratorConfig
    base_model_prefix = "keyframes"
    main_input_name = "unit_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["KeyframeBlock"]

    def __init__(self, config: KeyframeGeneratorConfig):
        super().__init__(config)
        size = config.hidden_size
        self.reach = unit_reach(config.attention_mode, config.past_units, config.future_units)
        self.duration_embedding = nn.Embedding(config.num_duration_bins, size)
        self.unit_embedding = nn.Embedding(config.num_units, size)
        self.condition_embedding = nn.Linear(config.condition_size, size)
        self.no_condition = nn.Parameter(torch.empty(size))
        self.code_embedding = nn.Embedding(config.code_factors * config.code_base, size)
        self.begin = nn.Parameter(torch.empty(size))  # [B]
        self.kind_embedding = nn.Embedding(ROW_KINDS, size)
        self.index_embedding = nn.Embedding(config.num_tokens, size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([KeyframeBlock(config) for _ in range(config.num_layers)])
        self.norm = nn.RMSNorm(size)
        self.head = nn.Linear(size, config.code_factors * config.code_base)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        deviation = self.config.initializer_range
        if isinstance(module, KeyframeGeneratorModel):
            init.normal_(module.no_condition, std=deviation)
            init.normal_(module.begin, std=deviation)
        elif isinstance(module, KeyframeBlock):
            # Two layers a block add to the residual stream: keep its variance independent of the depth.
            scaled = deviation / (2 * self.config.num_layers) ** 0.5
            init.normal_(module.attention.output.weight, std=scaled)
            init.normal_(module.mlp[-1].weight, std=scaled)

    def forward(
        self,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        condition: torch.Tensor | None,
        reference_codes: torch.Tensor,
        labels: torch.Tensor,
        unit_mask: torch.Tensor | None = None,
        label_mask: torch.Tensor | None = None,
        from_means: torch.Tensor | None = None,
    ) -> KeyframeOutput:
        """Cross-entropy of the true codes (Eq. 6), each token given the true ones before it.

        Args:
            unit_ids `(B, T)`: visual units.
            durations `(B, T)`: seconds.
            condition `(B, T, condition_size)`: eye openness; None hides it, and training hides it now and then.
            reference_codes `(B, K)`: ids of the reference's codes.
            labels `(B, T, K)`: ids of the keyframes' codes; anything at padding.
            unit_mask `(B, T)`: False at padding, which must be last; None where there is none.
            label_mask `(B, T)`: frames that the loss counts; None: all that are not padding.
            from_means `(B,)`: items whose tokens are given not the true ones before them but the mean embeddings of
                what the model itself predicts, as in `generate(expected=True)`: their logits become each token's
                marginal distribution, whose mean code is what the face is like on average. No gradient passes
                through the embeddings. None: no item.

        Raises:
            InvalidArgumentError: if the shapes do not fit each other or the configuration.
        """
        config = self.config
        unit_mask = self._check_inputs(unit_ids, durations, condition, reference_codes, unit_mask)
        if labels.shape != (*unit_ids.shape, config.num_tokens):
            raise InvalidArgumentError(
                f"labels of shape {tuple(labels.shape)}: give (B, T, K) = {(*unit_ids.shape, config.num_tokens)}"
            )
        labels = labels.masked_fill(~unit_mask.unsqueeze(-1), 0)
        memories = self._encode(unit_ids, durations, condition, reference_codes, unit_mask)
        begin = self.begin.expand(*unit_ids.shape, 1, -1)
        before = self._embed_codes(labels[..., :-1])
        if from_means is not None and from_means.any():
            means = self._mean_embeddings(memories, unit_mask)[:, :, :-1]
            before = torch.where(from_means[:, None, None, None], means.to(before.dtype), before)
        rows = self._frame_rows(torch.cat([begin, before], dim=2), first=0)
        causal = frame_row_visibility(config.num_tokens, unit_ids.device)
        previous_mask = self._has_previous(unit_mask)
        if previous_mask is not None:
            previous_mask = previous_mask & causal
        for block, memory in zip(self.blocks, memories, strict=True):
            rows, _, _ = block(rows, memory, causal, None, previous_mask)
        logits = self._logits(rows)
        digits = ids_to_digits(labels, config.code_factors, config.code_base)
        counted = unit_mask if label_mask is None else unit_mask & label_mask
        errors = functional.cross_entropy(logits[counted].flatten(0, -2).float(), digits[counted].flatten())
        return KeyframeOutput(loss=errors * config.code_factors, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        condition: torch.Tensor | None,
        reference_codes: torch.Tensor,
        unit_mask: torch.Tensor | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        expected: bool = False,
    ) -> KeyframeOutput:
        """All T keyframes at once: at step j every frame emits its token j (Eq. 4, 5).

        Args:
            unit_ids, durations, condition, reference_codes, unit_mask: as `forward` takes them.
            temperature: 0 takes the likeliest code.
            top_k: samples among so many likeliest values of each factor; None among all.
            generator: source of the noise. All items of a batch get the same noise, so that what an item becomes
                depends on the seed and not on its company.
            expected: with temperature 0, go on from the mean embedding of each token's distribution instead of the
                likeliest code's. The likeliest code after the likeliest code is an extreme face more often than a
                likely one; the mean of `logits` then says what the face is like on average, and `codes` are the
                likeliest after that.

        Returns:
            `codes` and `logits`; both mean nothing at padding.

        Raises:
            InvalidArgumentError: if an option is out of range or the shapes do not fit.
        """
        encoded = self.encode(unit_ids, durations, condition, reference_codes, unit_mask)
        noise = draw_noise(self.config, unit_ids.shape[1], temperature, top_k, generator, expected)
        return self.decode(encoded, temperature, top_k, noise, expected)

    @torch.no_grad()
    def generate_blocks(
        self,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        condition: torch.Tensor | None,
        reference_codes: torch.Tensor,
        block_size: int = 64,
        first_block_size: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        expected: bool = False,
    ) -> Iterator[KeyframeOutput]:
        """The keyframes of `generate`, `block_size` at a time, in memory that does not grow with T.

        Blocks may begin smaller, with `first_block_size`, and double: whoever waits for the first keyframe wants it
        soon.

        Each block is decoded together with the units around it that its frames read, which is exact where the reach
        of a frame is bounded: attention modes "limited_history", "one_to_one" and "window", frame_context "none".

        Raises:
            InvalidArgumentError: as `generate`, and where the reach of a frame is unbounded.
        """
        noise = draw_noise(self.config, unit_ids.shape[1], temperature, top_k, generator, expected)
        inputs = (unit_ids, durations, condition, reference_codes)
        for encoded in self.encode_blocks(*inputs, block_size=block_size, first_block_size=first_block_size):
            block_noise = None if noise is None else noise[encoded.span]
            yield self.decode(encoded, temperature, top_k, block_noise, expected)

    @torch.no_grad()
    def encode(
        self,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        condition: torch.Tensor | None,
        reference_codes: torch.Tensor,
        unit_mask: torch.Tensor | None = None,
    ) -> EncodedUnits:
        """What all frames read; arguments as `forward` takes them, and its errors."""
        unit_mask = self._check_inputs(unit_ids, durations, condition, reference_codes, unit_mask)
        memories = self._encode(unit_ids, durations, condition, reference_codes, unit_mask)
        return EncodedUnits(memories, unit_mask, slice(0, unit_ids.shape[1]))

    @torch.no_grad()
    def encode_blocks(
        self,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        condition: torch.Tensor | None,
        reference_codes: torch.Tensor,
        block_size: int = 64,
        first_block_size: int | None = None,
    ) -> Iterator[EncodedUnits]:
        """What `generate_blocks` decodes; arguments and errors as there."""
        if self.reach is None or self.config.frame_context != "none":
            raise InvalidArgumentError(
                f"attention mode {self.config.attention_mode!r} with frame_context {self.config.frame_context!r} "
                "cannot be generated in blocks: use generate, or a bounded mode with frame_context 'none'"
            )
        size = block_size if first_block_size is None else first_block_size
        if block_size < 1 or size < 1:
            raise InvalidArgumentError(f"block_size is {block_size}, of the first {size}: give at least 1")
        unit_mask = self._check_inputs(unit_ids, durations, condition, reference_codes, None)
        num_units = unit_ids.shape[1]
        past_units, future_units = self.reach
        start = 0
        while start < num_units:
            stop = min(start + size, num_units)
            first = max(start - past_units, 0)
            around, inside = slice(first, stop + future_units), slice(start - first, stop - first)
            memories = self._encode(
                unit_ids[:, around],
                durations[:, around],
                None if condition is None else condition[:, around],
                reference_codes,
                unit_mask[:, around],
            )
            memories = [[units.of_groups(inside), reference] for units, reference in memories]
            yield EncodedUnits(memories, unit_mask[:, start:stop], slice(start, stop))
            start, size = stop, min(2 * size, block_size)

    @torch.no_grad()
    def decode(
        self,
        encoded: EncodedUnits,
        temperature: float = 0.0,
        top_k: int | None = None,
        noise: torch.Tensor | None = None,
        expected: bool = False,
    ) -> KeyframeOutput:
        """Token after token of all frames of what was encoded.

        Args:
            temperature, top_k, expected: as `generate` takes them.
            noise: `(T, K, F)` in [0, 1), for a temperature above 0.
        """
        unit_mask, num_tokens = encoded.unit_mask, self.config.num_tokens
        next_row = RowDecoder(self.blocks, encoded, self._has_previous(unit_mask), num_tokens)
        content = self.begin.expand(*unit_mask.shape, 1, -1)
        codes, logits = [], []
        for step in range(num_tokens):
            logits.append(self._logits(next_row(self._frame_rows(content, first=step))))  # (B, T, 1, F, V_f)
            step_noise = None if noise is None else noise[:, step : step + 1]
            codes.append(choose_codes(logits[-1], temperature, top_k, step_noise))
            content = self._embed_expected(logits[-1]) if expected else self._embed_codes(codes[-1])
        return KeyframeOutput(codes=torch.cat(codes, dim=2), logits=torch.cat(logits, dim=2))

    @torch.no_grad()
    def _mean_embeddings(self, memories: list[list[Memory]], unit_mask: torch.Tensor) -> torch.Tensor:
        """Mean embeddings `(B, T, K, hidden)` of the tokens that `decode` would find with `expected`."""
        training = self.training
        self.eval()  # what is known in use, without dropout
        decoded = self.decode(EncodedUnits(memories, unit_mask, slice(0, unit_mask.shape[1])), expected=True)
        self.train(training)
        return self._embed_expected(decoded.logits)

    def _encode(
        self,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        condition: torch.Tensor | None,
        reference_codes: torch.Tensor,
        unit_mask: torch.Tensor,
    ) -> list[list[Memory]]:
        """Units and reference through all layers → what frame rows read of them, [units, reference] of each layer."""
        config, device = self.config, unit_ids.device
        head_size = config.hidden_size // config.num_heads
        units = self._embed_units(unit_ids, durations, condition)  # (B, T, 3, hidden)
        reference = self._embed_codes(reference_codes) + self.kind_embedding.weight[REFERENCE]
        reference = self.dropout(reference + self.index_embedding.weight).unsqueeze(1)  # (B, 1, K, hidden)
        row_mask = row_rotation = query_rotation = None
        if self.reach is None:
            # All units in one group, at absolute positions.
            index = torch.arange(unit_ids.shape[1], device=device)
            units = units.flatten(1, 2).unsqueeze(1)  # (B, 1, 3T, hidden)
            row_rotation = Rotation.of(index.repeat_interleave(ROWS_PER_UNIT), head_size, units.dtype)
            query_rotation = Rotation.of(index[:, None, None], head_size, units.dtype)
            real = unit_mask.repeat_interleave(ROWS_PER_UNIT, dim=1)[:, None, None, None]  # (B, 1, 1, 1, 3T)
            row_mask = unit_row_visibility(config.attention_mode, len(index), device)
            row_mask = row_mask.repeat_interleave(ROWS_PER_UNIT, 0).repeat_interleave(ROWS_PER_UNIT, 1) & real
            visible = unit_visibility(config.attention_mode, len(index), 0, 0, device)
            read_mask = visible.repeat_interleave(ROWS_PER_UNIT, 1)[:, None, None] & real  # (B, T, 1, 1, 3T)
        else:
            read_mask = self._windows(unit_mask[:, :, None, None, None].expand(-1, -1, 1, ROWS_PER_UNIT, 1))
            read_mask = read_mask.transpose(-1, -2)  # (B, T, 1, 1, 3W)
            offsets = torch.arange(-self.reach[0], self.reach[1] + 1, device=device)
            key_rotation = Rotation.of(offsets.repeat_interleave(ROWS_PER_UNIT), head_size, units.dtype)
        memories = []
        for block in self.blocks:
            units, unit_key, unit_value = block(units, [], row_mask, row_rotation)
            reference, reference_key, reference_value = block(reference, [])
            if self.reach is None:
                unit_memory = Memory(unit_key[:, 0], unit_value[:, 0], read_mask, query_rotation)
            else:
                unit_memory = Memory(key_rotation(self._windows(unit_key)), self._windows(unit_value), read_mask)
            memories.append([unit_memory, Memory(reference_key[:, 0], reference_value[:, 0])])
        return memories

    def _windows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows `(B, T, H, 3, D)` of the units → of the W units that each frame reads, `(B, T, H, 3W, D)`."""
        past_units, future_units = self.reach
        padded = functional.pad(rows, (0, 0, 0, 0, 0, 0, past_units, future_units))
        windows = padded.unfold(1, past_units + 1 + future_units, 1)  # (B, T, H, 3, D, W)
        return windows.permute(0, 1, 2, 5, 3, 4).flatten(3, 4)

    def _embed_units(
        self, unit_ids: torch.Tensor, durations: torch.Tensor, condition: torch.Tensor | None
    ) -> torch.Tensor:
        """{duration}{unit}{condition} of each unit, (B, T, 3, hidden)."""
        config = self.config
        lowest, highest = math.log(config.min_duration), math.log(config.max_duration)
        place = (durations.float().clamp(config.min_duration, config.max_duration).log() - lowest) / (highest - lowest)
        bins = (place * (config.num_duration_bins - 1)).round().long()
        if condition is None:
            seen = self.no_condition.expand(*unit_ids.shape, -1)
        else:
            seen = self.condition_embedding(condition.to(self.no_condition.dtype))
            if self.training:
                # For the whole sequence: so it is at inference, too.
                hidden = torch.rand(len(unit_ids), 1, 1, device=unit_ids.device) < config.condition_dropout
                seen = torch.where(hidden, self.no_condition, seen)
        rows = torch.stack([self.duration_embedding(bins), self.unit_embedding(unit_ids), seen], dim=2)
        return self.dropout(rows + self.kind_embedding.weight[[DURATION, UNIT, CONDITION]])

    def _embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Code ids (...) → (..., hidden), the sum over their digits."""
        digits = ids_to_digits(codes, self.config.code_factors, self.config.code_base)
        offsets = self.config.code_base * torch.arange(self.config.code_factors, device=codes.device)
        return self.code_embedding(digits + offsets).sum(-2)

    def _embed_expected(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean embedding `(..., hidden)` of codes with logits `(..., F, V_f)`."""
        return logits.softmax(-1).flatten(-2) @ self.code_embedding.weight

    def _frame_rows(self, content: torch.Tensor, first: int) -> torch.Tensor:
        """Input of the blocks: content `(B, T, M, hidden)` as the rows of each frame from index `first` on."""
        index = self.index_embedding.weight[first : first + content.shape[2]]
        return self.dropout(content + self.kind_embedding.weight[FRAME] + index)

    def _has_previous(self, unit_mask: torch.Tensor) -> torch.Tensor | None:
        """(B, T, 1, 1, 1): True where there is a frame before to read; None where no frame reads another."""
        if self.config.frame_context == "none":
            return None
        return functional.pad(unit_mask[:, :-1], (1, 0))[:, :, None, None, None]

    def _logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows `(..., hidden)` → (..., F, V_f)."""
        return self.head(self.norm(rows)).unflatten(-1, (self.config.code_factors, self.config.code_base))

    def _check_inputs(
        self,
        unit_ids: torch.Tensor,
        durations: torch.Tensor,
        condition: torch.Tensor | None,
        reference_codes: torch.Tensor,
        unit_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The mask of real units, `(B, T)`, once all shapes are found to fit."""
        batch, num_units = unit_ids.shape
        if unit_mask is None:
            unit_mask = torch.ones_like(unit_ids, dtype=torch.bool)
        for name, tensor, shape in (
            ("durations", durations, (batch, num_units)),
            ("condition", condition, (batch, num_units, self.config.condition_size)),
            ("reference_codes", reference_codes, (batch, self.config.num_tokens)),
            ("unit_mask", unit_mask, (batch, num_units)),
        ):
            if tensor is not None and tensor.shape != shape:
                raise InvalidArgumentError(f"{name} of shape {tuple(tensor.shape)}: give {shape}")
        return unit_mask


__all__ = ["KeyframeGeneratorModel", "KeyframeOutput"]
