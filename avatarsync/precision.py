"""Where half precision is worth it on a CPU."""

from functools import lru_cache

import torch


@lru_cache
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); without, it would be slower."""
    if not hasattr(torch.cpu, "get_capabilities"):  # older PyTorch cannot say
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
