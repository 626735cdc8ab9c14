"""Keyframes as the mean of what the generator thinks possible, and shut where they are to be shut.

Shapes: B items, T_s keyframes, K tokens a keyframe, D channels a code.
"""

import torch

from .lip_edges import lip_gaps
from .modeling_keyframes import KeyframeGeneratorModel
from .modeling_visual_tokenizer import VisualTokenizerModel
from .text_frame_attention import EncodedUnits

SHUT_LIPS = 0.02  # inner-lip gap below which lips count as shut: the transfer narrows such gaps
# And below which they may be the mean of shut and open ones. Without a look at the likeliest codes, 7 of 100 /m b p/
# on portraits stayed open; with it none, whether all frames are looked at or, as here, one in five.
DOUBTFUL_LIPS = 0.05
# Soft codes are rounded to this: a frame comes out the same to the last bit whatever is computed beside it.
CODE_STEP = 1 / 64


def round_codes(codes: torch.Tensor) -> torch.Tensor:
    """Codes to the nearest multiple of CODE_STEP."""
    return (codes / CODE_STEP).round() * CODE_STEP


@torch.no_grad()
def expected_keyframes(
    generator: KeyframeGeneratorModel, tokenizer: VisualTokenizerModel, encoded: EncodedUnits
) -> torch.Tensor:
    """Codes `(T_s, K, D)` of one encoded sequence: the mean, and where the likeliest codes shut the lips, these.

    The mean of shut and open lips is a little open, and people notice that first.
    """
    quantizer = tokenizer.quantizer
    alone = generator.config.frame_context == "none"
    mean = generator.decode(encoded, expected=True).logits[0].float()
    codes = round_codes(quantizer.expected_codes_factorised(mean)).to(tokenizer.dtype)

    def gaps(codes: torch.Tensor) -> torch.Tensor:
        return lip_gaps(tokenizer.expression(codes)).amax(1)  # (T_s,), at the widest place

    opened = gaps(codes)
    doubtful = torch.nonzero((opened > SHUT_LIPS) & (opened < DOUBTFUL_LIPS)).flatten()
    if len(doubtful):
        likeliest = generator.decode(encoded.of_frames(doubtful) if alone else encoded).codes[0]
        likeliest = quantizer.ids_to_codes(likeliest if alone else likeliest[doubtful]).to(codes.dtype)
        shut = gaps(likeliest) <= SHUT_LIPS
        codes[doubtful[shut]] = likeliest[shut]
    return codes
