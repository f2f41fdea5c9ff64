"""Where training runs, and in which precision it multiplies."""

import torch

from core.cpu import has_fast_bf16_cpu
from core.errors import InputError
from core.training.crew import Crew

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def training_device(wanted: str, crew: Crew) -> torch.device:
    """The device of this process. Raises InputError when the one that is wanted is not there."""
    from core.estimator import choose_device

    name, _ = choose_device(wanted)
    if name == "mps" and wanted == "auto":
        name = "cpu"  # PyTorch lacks some of the training's operations there; who wants to try asks for mps
    if name != "cuda":
        return torch.device(name)
    if crew.local_rank >= torch.cuda.device_count():
        raise InputError(f"device: process {crew.local_rank} has no GPU of its own, there are {torch.cuda.device_count()}; start fewer")
    return torch.device("cuda", crew.local_rank)


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What to multiply in. fp16 needs a GPU, whose gradients are then scaled. Raises InputError."""
    if precision == "fp16" and device.type != "cuda":
        raise InputError(f"precision: got fp16 on {device.type}, which is for GPUs without bfloat16; use bf16 or fp32")
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
        else:
            precision = "bf16" if device.type == "cpu" and has_fast_bf16_cpu() else "fp32"
    return DTYPES[precision]
