"""What a model knows of the one person whose portraits it draws, beyond what its weights learned of them."""

from dataclasses import replace

import torch
from torch import nn

from .data.expressions import to_neutral
from .modeling_visual_tokenizer import Reference

# What landmarks, and not the encoder, say of a known person's portrait: share of its expression.
LANDMARKS_SAY = 1 / 3


class KnownPerson(nn.Module):
    """Tells of a portrait what is known of the person in it; a model that an adapter was merged into has it among its
    weights.

    Args:
        resting_landmarks: `(468, 2)`, the person's resting face in fractions of the crop.
        speaking_codes: `(K, D)` that the keyframe generator is told in the place of the portrait's; None: the
            portrait's own.
    """

    def __init__(self, resting_landmarks: torch.Tensor, speaking_codes: torch.Tensor | None = None):
        super().__init__()
        self.register_buffer("resting_landmarks", resting_landmarks)
        self.register_buffer("speaking_codes", speaking_codes)

    @classmethod
    def empty(cls, num_landmarks: int, code_shape: tuple[int, int] | None) -> "KnownPerson":
        """One to load weights into; `code_shape` is (K, D), or None where the portrait's own codes are told."""
        return cls(torch.zeros(num_landmarks, 2), None if code_shape is None else torch.zeros(code_shape))

    @torch.no_grad()
    def personalise(self, reference: Reference) -> Reference:
        """One reference `(1, …)`, a portrait of this person, as this person's.

        Its expression lies between the guess that it comes with and what its landmarks say: they tremble, and a head
        that is turned a little looks like an expression. By the landmarks alone, what is drawn is less like the person
        (docs/fine_tuning.md).
        """
        resting = self.resting_landmarks.to(reference.landmarks).expand(len(reference.landmarks), -1, -1)
        known = to_neutral(reference.landmarks, resting).to(self.resting_landmarks.dtype)
        personal = replace(reference, expression=torch.lerp(reference.expression.to(known), known, LANDMARKS_SAY))
        return personal if self.speaking_codes is None else replace(personal, codes=self.speaking_codes[None])


__all__ = ["LANDMARKS_SAY", "KnownPerson"]
