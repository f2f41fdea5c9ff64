"""Crops as numbers: normalised for a backbone, and made up where no picture is at hand."""

import numpy as np
import torch
from torch import Tensor, nn

from core.types import CROP_SIZE_PX

PATCH_PX = 16


class Normaliser(nn.Module):
    """Crops as a backbone wants them. Runs where it was moved to, on crops that are there."""

    def __init__(self, backbone: nn.Module) -> None:
        """backbone: `mean` and `std` for each channel, of RGB in [0, 1]; nothing else of it is kept."""
        super().__init__()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(backbone, name)).view(1, 3, 1, 1), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, in memory as the crops are: channels last, if they are contiguous."""
        return (crops.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


def patchwork(count: int, seed: int = 0) -> Tensor:
    """(count, 224, 224, 3) uint8: patches of colour under noise, to compare networks on. The same for a count and a seed."""
    random = np.random.default_rng(seed)
    grid = CROP_SIZE_PX // PATCH_PX
    patches = random.integers(40, 216, (count, grid, grid, 3)).repeat(PATCH_PX, 1).repeat(PATCH_PX, 2)
    return torch.from_numpy((patches + random.integers(-40, 40, patches.shape)).astype(np.uint8))
