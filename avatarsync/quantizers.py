"""Quantizers of the visual tokenizer: lookup-free (LFQ, Yu et al. 2023) and learned-codebook (VQ), one interface.

Both have V = 2**D codes of D channels. An id is read as D bits, most significant first, so that its digits in base
2**(D / factors), first digit most significant, are the sub-codes that a factorised head predicts.

Neither keeps a buffer: everything but the VQ codebook is derived, so nothing is lost when a checkpoint is loaded.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

# Largest block of the VQ distance matrix, in elements: bounds memory when the codebook is large.
MAX_DISTANCE_ELEMENTS = 2**24
LOG_2 = math.log(2)


@dataclass
class QuantizerOutput:
    """What a quantizer returns.

    Args:
        codes `(..., D)`: quantised codes; their gradient goes straight through to the input.
        ids `(...)`: index of each code, int64.
        loss: scalar, the weighted sum of the terms below that the quantizer trains with.
        commitment_loss: scalar, mean squared distance of the input from its (detached) code.
        sample_entropy: scalar in [0, 1], how undecided a sample is, as a share of the largest entropy; low is good.
        batch_entropy: scalar in [0, 1], how evenly the batch uses the codes, likewise; high is good.
        codebook_loss: scalar, mean squared distance of the code from its (detached) input; None for LFQ.
    """

    codes: torch.Tensor
    ids: torch.Tensor
    loss: torch.Tensor
    commitment_loss: torch.Tensor
    sample_entropy: torch.Tensor
    batch_entropy: torch.Tensor
    codebook_loss: torch.Tensor | None = None


def ids_to_digits(ids: torch.Tensor, factors: int, base: int) -> torch.Tensor:
    """Ids `(...)` → their digits `(..., factors)` in `base`, most significant first."""
    powers = base ** torch.arange(factors - 1, -1, -1, device=ids.device)
    return ids.unsqueeze(-1) // powers % base


def digits_to_ids(digits: torch.Tensor, base: int) -> torch.Tensor:
    """Digits `(..., factors)`, most significant first → ids `(...)`."""
    powers = base ** torch.arange(digits.shape[-1] - 1, -1, -1, device=digits.device)
    return (digits * powers).sum(-1)


def straight_through(continuous: torch.Tensor, quantised: torch.Tensor) -> torch.Tensor:
    """`quantised` to the last bit, with the gradient of `continuous`."""
    return quantised.detach() + (continuous - continuous.detach())


class LookupFreeQuantizer(nn.Module):
    """Lookup-free quantization: every channel is one bit, its code the sign, -1 or 1.

    The entropy terms treat the bits as independent. That is exact for a sample (the code probabilities
    softmax(-|z - c|² / temperature) factorise over bits) and, for the batch, bounds the joint entropy from above;
    it costs D values instead of 2**D.

    Args:
        code_bits: D.
        entropy_weight: weight of sample_entropy - batch_entropy in the loss.
        commitment_weight: weight of the commitment loss.
        temperature: of the bit probabilities in the entropy terms.
    """

    def __init__(
        self,
        code_bits: int,
        entropy_weight: float = 0.02,
        commitment_weight: float = 0.1,
        temperature: float = 1.0,
    ):
        super().__init__()
        self.code_bits = code_bits
        self.entropy_weight = entropy_weight
        self.commitment_weight = commitment_weight
        self.temperature = temperature

    def forward(self, z: torch.Tensor) -> QuantizerOutput:
        """Quantise z `(..., D)`."""
        ids = self.codes_to_ids(z)
        codes = self.ids_to_codes(ids).to(z.dtype)
        commitment_loss = functional.mse_loss(z.float(), codes.float())
        # -|z - c|² / temperature differs between c = 1 and c = -1 by 4 z / temperature.
        logits = 4 * z.float().reshape(-1, self.code_bits) / self.temperature  # (N, D)
        sample_entropy = _bit_entropy(logits).mean()
        positive = logits.sigmoid().mean(0)  # (D,)
        negative = (-logits).sigmoid().mean(0)
        batch_entropy = (torch.special.entr(positive) + torch.special.entr(negative)).mean() / LOG_2
        loss = self.entropy_weight * (sample_entropy - batch_entropy) + self.commitment_weight * commitment_loss
        return QuantizerOutput(straight_through(z, codes), ids, loss, commitment_loss, sample_entropy, batch_entropy)

    def ids_to_codes(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids `(...)` → codes `(..., D)` of -1 and 1, float32."""
        return ids_to_digits(ids, self.code_bits, 2).float() * 2 - 1

    def codes_to_ids(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(..., D)`, soft ones too → ids `(...)` of the nearest code; a channel at 0 counts as 1."""
        return digits_to_ids((codes >= 0).long(), 2)

    def expected_codes(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(..., V)` → probability-weighted mean code `(..., D)`, differentiable."""
        return self.expected_codes_factorised(logits.unsqueeze(-2))

    def expected_codes_factorised(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(..., factors, base)` of independent sub-codes → mean code `(..., D)`, differentiable."""
        factors, base = logits.shape[-2:]
        digits = torch.arange(base, device=logits.device)
        sub_codes = ids_to_digits(digits, self.code_bits // factors, 2).to(logits.dtype) * 2 - 1  # (base, D / factors)
        return (logits.softmax(-1) @ sub_codes).flatten(-2)


class VectorQuantizer(nn.Module):
    """Vector quantization with a learned codebook (van den Oord et al. 2017), nearest by squared distance.

    The codebook starts evenly spread over [-1, 1]^D, the range of the encoder. `restart_dead_codes` moves unused
    codes onto data; with a usage of zeros it initialises the whole codebook from data.

    Args:
        code_bits: D; the codebook has 2**D entries of D channels.
        commitment_weight: weight of the commitment loss; the codebook loss has weight 1.
    """

    def __init__(self, code_bits: int, commitment_weight: float = 0.1):
        super().__init__()
        self.code_bits = code_bits
        self.commitment_weight = commitment_weight
        self.codebook = nn.Parameter(torch.empty(2**code_bits, code_bits))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spread the codebook over [-1, 1]^D."""
        nn.init.uniform_(self.codebook, -1.0, 1.0)

    def forward(self, z: torch.Tensor) -> QuantizerOutput:
        """Quantise z `(..., D)`. Assignments are hard, so sample_entropy is 0 and batch_entropy has no gradient."""
        ids = self.codes_to_ids(z)
        codes = self.ids_to_codes(ids)
        commitment_loss = functional.mse_loss(z.float(), codes.detach().float())
        codebook_loss = functional.mse_loss(codes.float(), z.detach().float())
        share = torch.bincount(ids.flatten(), minlength=len(self.codebook)).float() / ids.numel()
        batch_entropy = torch.special.entr(share).sum() / (self.code_bits * LOG_2)
        loss = codebook_loss + self.commitment_weight * commitment_loss
        return QuantizerOutput(
            straight_through(z, codes.to(z.dtype)),
            ids,
            loss,
            commitment_loss,
            torch.zeros_like(loss),
            batch_entropy,
            codebook_loss,
        )

    def ids_to_codes(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids `(...)` → codes `(..., D)`; the gradient reaches the codebook."""
        return functional.embedding(ids, self.codebook)

    @torch.no_grad()
    def codes_to_ids(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(..., D)`, soft ones too → ids `(...)` of the nearest code."""
        codebook = self.codebook.float()
        half_norm = codebook.square().sum(-1) / 2
        rows = codes.detach().float().reshape(-1, self.code_bits)
        block = max(1, MAX_DISTANCE_ELEMENTS // len(codebook))
        with torch.autocast(codes.device.type, enabled=False):  # near ties must not be decided in bfloat16
            ids = [(half_norm - part @ codebook.T).argmin(-1) for part in rows.split(block)]
        return torch.cat(ids).view(codes.shape[:-1])

    def expected_codes(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(..., V)` → probability-weighted mean code `(..., D)`, differentiable."""
        return logits.softmax(-1) @ self.codebook.to(logits.dtype)

    def expected_codes_factorised(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(..., factors, base)` → mean code `(..., D)` under the product of the factors' distributions.

        Learned codes do not split into sub-codes, so all V probabilities are formed: meant for small codebooks.
        """
        log_probs = logits.log_softmax(-1)
        joint = log_probs[..., 0, :]
        for factor in range(1, logits.shape[-2]):
            joint = (joint.unsqueeze(-1) + log_probs[..., factor, None, :]).flatten(-2)
        return self.expected_codes(joint)

    @torch.no_grad()
    def restart_dead_codes(self, z: torch.Tensor, usage: torch.Tensor, noise: float = 0.01) -> int:
        """Move every unused code onto a random input, so that it is the nearest to something again.

        Args:
            z `(..., D)`: recent inputs.
            usage `(V,)`: how often each code was chosen lately (`torch.bincount(ids.flatten(), minlength=V)`,
                summed over batches).
            noise: standard deviation of the jitter that keeps copies of one input apart.

        Returns:
            How many codes were moved.
        """
        dead = (usage == 0).nonzero().squeeze(-1)
        rows = z.detach().reshape(-1, self.code_bits).to(self.codebook)
        # Without replacement while the inputs last: two codes on one input would leave one of them dead.
        chosen = torch.randperm(len(rows), device=rows.device).repeat(-(-len(dead) // len(rows)))[: len(dead)]
        self.codebook[dead] = rows[chosen] + noise * torch.randn_like(rows[chosen])
        return len(dead)


def _bit_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in bits of Bernoulli variables with these logits, stable at any size."""
    nats = functional.softplus(-logits) * logits.sigmoid() + functional.softplus(logits) * (-logits).sigmoid()
    return nats / LOG_2


__all__ = ["LookupFreeQuantizer", "QuantizerOutput", "VectorQuantizer", "digits_to_ids", "ids_to_digits"]
