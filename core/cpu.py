"""What this machine's CPU does well."""

import torch


def has_fast_bf16_cpu() -> bool:
    """Whether the CPU has AMX or AVX512-BF16, which make bfloat16 convolutions faster than float32 ones."""
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def has_int8_dot_products() -> bool:
    """Whether the CPU has AMX, AVX512-VNNI or AVX-VNNI. One without adds products of 8 bits up in 16, which overflow, and is no faster."""
    names = ("_is_amx_tile_supported", "_is_vnni_supported")
    known = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.13 and newer
    return bool(known.get("avx_vnni")) or any(getattr(torch.cpu, name, bool)() for name in names)
