"""MoveNet Thunder's trunk: MobileNetV2 with a feature pyramid, and its evidence of where the keypoints are.

Rebuilt from the published network (TensorFlow Hub, google/movenet/singlepose/thunder/4, Apache-2.0); see convert_movenet for the weights.
MobileNetV2: Sandler et al. 2018. Heat maps on a pyramid: CenterNet, Zhou et al. 2019.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.backbones import BACKBONES, KeypointChannels
from core.joints import KEYPOINT_NAMES

NUM_KEYPOINTS = len(KEYPOINT_NAMES)
CELLS_PER_SIDE = 8
"""Heat maps have an eighth of the grid's step: their stride is 4, the grid's 32."""
SMALL_HEAT = 1e-4
TOP_SCALE, EVIDENCE_SCALE = 1 / 32, 4.0
"""Bring all channels to about the same spread: the last stage's is 2, the pyramid's top has 49 and the evidence 0.03."""


@dataclass(frozen=True)
class Layout:
    """A network as a table. stages: (hidden channels are six times the input's) channels, blocks, stride of the first block.

    pyramid: channels of its levels, coarse to fine, of which the first stands on the last stage.
    """

    stem: int
    entry: int
    stages: tuple[tuple[int, int, int], ...]
    top: int
    pyramid: tuple[int, ...]
    head: int
    expansion: int = 6


THUNDER = Layout(
    stem=56,
    entry=32,
    stages=((40, 2, 2), (56, 3, 2), (112, 4, 2), (168, 3, 1), (280, 3, 2), (560, 1, 1)),
    top=1280,
    pyramid=(64, 32, 24, 24),
    head=96,
)


def _same(x: Tensor, stride: int) -> Tensor:
    """TensorFlow's SAME padding of a 3x3 filter: with stride 2 the odd pixel goes to the right and the bottom."""
    return F.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))


class Block(nn.Module):
    """An inverted residual block of MobileNetV2, batch normalisation folded in. The first one of a network does not expand."""

    def __init__(self, channels_in: int, hidden: int, channels: int, stride: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels_in, hidden, 1) if hidden != channels_in else None
        self.filter = nn.Conv2d(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, channels, 1)
        self.stride = stride
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.filter(_same(y, self.stride))))
        return x + y if self.residual else y


class Separable(nn.Module):
    """Filter each channel (3x3), mix them (1x1), ReLU."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False)
        self.mix = nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        return F.relu(self.mix(self.filter(x)))


class Trunk(nn.Module):
    """MobileNetV2 up to its last stage, and a feature pyramid from there to a fourth of the picture."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, layout.stem, 3, 2)
        blocks, self.taps, channels = [Block(layout.stem, layout.stem, layout.entry, 1)], [], layout.entry
        for wide, repeats, stride in layout.stages:
            for repeat in range(repeats):
                blocks.append(Block(channels, channels * layout.expansion, wide, stride if repeat == 0 else 1))
                channels = wide
            self.taps.append(len(blocks))
        self.blocks = nn.ModuleList(blocks)
        self.expand = nn.Conv2d(channels, layout.top, 1)
        self.top = nn.Conv2d(layout.top, layout.pyramid[0], 1)
        steps = list(zip(layout.pyramid[:-1], layout.pyramid[1:], strict=True))
        self.taps = self.taps[: len(steps)]  # the first stages' ends, one for each step of the pyramid
        widths = [wide for wide, _, _ in layout.stages[: len(steps)]]
        self.laterals = nn.ModuleList(nn.Conv2d(width, before, 1) for width, (before, _) in zip(widths[::-1], steps, strict=True))
        self.merges = nn.ModuleList(Separable(before, after) for before, after in steps)

    def levels(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) RGB in [0, 1] -> the last stage and the pyramid's top, H/32 and W/32 large, and its finest level, H/4 and W/4."""
        x = F.relu6(self.stem(_same(2 * images - 1, 2)))
        kept = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index + 1 in self.taps:
                kept.append(x)
        top = y = self.top(F.relu6(self.expand(x)))
        for lateral, merge, features in zip(self.laterals, self.merges, reversed(kept), strict=True):
            y = merge(F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False) + lateral(features))
        return x, top, y

    def trunk_convolutions(self) -> Iterator[nn.Conv2d]:
        """Every convolution up to the finest level: trunk, then top, then level by level."""
        yield self.stem
        for block in self.blocks:
            yield from (conv for conv in (block.expand, block.filter, block.project) if conv is not None)
        yield from (self.expand, self.top)
        for lateral, merge in zip(self.laterals, self.merges, strict=True):
            yield from (lateral, merge.filter, merge.mix)


class MoveNet(Trunk):
    """Features of the last stage, the pyramid's top, and for each keypoint how hot a cell is and where in it. Takes RGB in [0, 1]."""

    stride = 32
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.head = Separable(layout.pyramid[-1], layout.head)
        self.heat = nn.Conv2d(layout.head, NUM_KEYPOINTS, 1)
        deep = layout.stages[-1][0]
        self.channels = deep + layout.pyramid[0] + 3 * NUM_KEYPOINTS
        self.keypoint_channels = KeypointChannels(deep + layout.pyramid[0], EVIDENCE_SCALE)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, C, H/32, W/32)."""
        return self.tail(*self.frozen(images))

    def frozen(self, images: Tensor) -> tuple[Tensor, ...]:
        """All of it: nothing of this trunk is trained."""
        deep, top, heat = self._run(images)
        return (torch.cat([deep, TOP_SCALE * top, EVIDENCE_SCALE * evidence(heat)], 1),)

    def tail(self, *kept: Tensor) -> Tensor:
        """What `frozen` found."""
        return kept[0]

    def tail_parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def heat_maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, 17, H/4, W/4) in 0..1, COCO's keypoints."""
        return self._run(images)[2]

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        deep, top, finest = self.levels(images)
        return deep, top, torch.sigmoid(self.heat(self.head(finest)))

    def convolutions(self) -> Iterator[nn.Conv2d]:
        """Every convolution from the picture to the heat maps."""
        yield from self.trunk_convolutions()
        yield from (self.head.filter, self.head.mix, self.heat)


def evidence(heat: Tensor) -> Tensor:
    """Heat maps (B, K, 8h, 8w) -> (B, 3K, h, w): each cell's highest value, and that times where in the cell its heat lies.

    That place is x and y in -1..1; it is the mean, weighted by the squared heat.
    """
    peak = F.max_pool2d(heat, CELLS_PER_SIDE)
    weight = heat * heat
    total = F.avg_pool2d(weight, CELLS_PER_SIDE) + SMALL_HEAT
    ramp = (torch.arange(CELLS_PER_SIDE, device=heat.device, dtype=heat.dtype) * 2 + 1) / CELLS_PER_SIDE - 1
    across = ramp.repeat(heat.shape[-1] // CELLS_PER_SIDE)
    down = ramp.repeat(heat.shape[-2] // CELLS_PER_SIDE)[:, None]
    x = F.avg_pool2d(weight * across, CELLS_PER_SIDE) / total
    y = F.avg_pool2d(weight * down, CELLS_PER_SIDE) / total
    return torch.cat([peak, peak * x, peak * y], 1)


@BACKBONES.register("movenet-thunder")
def movenet_thunder() -> MoveNet:
    """Thunder, the larger one."""
    return MoveNet(THUNDER)
