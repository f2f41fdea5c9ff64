"""PyTorch without its rules, written in Python, for tensors without numbers: a quarter of its import.

The "meta" device, torch.compile and torch.export need them (`import torch._meta_registrations` brings them), a camera does not.
"""

from core.lean_imports import imported_later

with imported_later("torch._meta_registrations"):
    import torch

__all__ = ["torch"]
