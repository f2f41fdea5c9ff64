"""Two trunks side by side, as one backbone with the channels of both. core.backbones.make_pair makes its weights of theirs."""

import torch
from torch import Tensor, nn

from core.backbones import BACKBONES, KeypointChannels
from core.backbones.blazepose import blazepose_heavy
from core.backbones.movenet import movenet_thunder

NAME = "blazepose-heavy+movenet-thunder"


class Pair(nn.Module):
    """The features of `first`, then those of `second`. Both take RGB in [0, 1]. num_kept: how many tensors `first.frozen` gives."""

    stride = 32
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, first: nn.Module, second: nn.Module, num_kept: int) -> None:
        super().__init__()
        self.first, self.second, self.num_kept = first, second, num_kept
        self.channels = first.channels + second.channels
        self.unused = tuple(f"{name}.{module}" for name, trunk in self.named_children() for module in trunk.unused)
        found = getattr(second, "keypoint_channels", None)
        self.keypoint_channels = None if found is None else KeypointChannels(first.channels + found.first, found.scale)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, C + C', H/32, W/32)."""
        return torch.cat([self.first(images), self.second(images)], 1)

    def frozen(self, images: Tensor) -> tuple[Tensor, ...]:
        """What both keep."""
        return (*self.first.frozen(images), *self.second.frozen(images))

    def tail(self, *kept: Tensor) -> Tensor:
        """The features of both, from what was kept."""
        return torch.cat([self.first.tail(*kept[: self.num_kept]), self.second.tail(*kept[self.num_kept :])], 1)

    def tail_parameters(self) -> list[nn.Parameter]:
        """What the tails train."""
        return [*self.first.tail_parameters(), *self.second.tail_parameters()]


@BACKBONES.register(NAME)
def blazepose_heavy_and_movenet_thunder() -> Pair:
    """BlazePose's heavy trunk, which knows depth, and MoveNet's, which finds keypoints on photographs better."""
    return Pair(blazepose_heavy(), movenet_thunder(), num_kept=2)
