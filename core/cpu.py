"""What this machine's CPU does well."""

import torch


def has_fast_bf16_cpu() -> bool:
    """Whether the CPU has AMX or AVX512-BF16, which make bfloat16 convolutions faster than float32 ones."""
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)
