"""MobileNetV2 with a feature pyramid, as MoveNet's networks have it.

MobileNetV2: Sandler et al. 2018. Feature pyramids: Lin et al. 2017. Outside core.backbones, because the person detector has one too and may
be loaded by another thread than the backbones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name


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
