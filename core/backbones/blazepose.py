"""The trunks of BlazePose's landmark networks, full and heavy: MobileNetV2-like, trained on real people, Apache-2.0.

Full gives the features one block into its landmark head; heavy those of its landmark head's first half, which has seen the
heat-map decoder's features. Batch normalisation is folded into the convolutions. At 224x224 both give 7x7x288.
Source: BlazePose, Bazarevsky et al. 2020, as shipped in mediapipe 0.10.21 (pose_landmark_full.tflite, pose_landmark_heavy.tflite)
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.backbones import BACKBONES

LATERAL_CHANNELS = 48
FEATURE_CHANNELS = 288


@dataclass(frozen=True)
class Stage:
    """Equal inverted residual blocks in a row. hidden: channels inside; the stride is the first block's."""

    hidden: int
    kernel: int
    stride: int
    channels: int
    repeats: int = 1


@dataclass(frozen=True)
class Refinement:
    """One step down of the heavy network's second pass: a block of stride 2 to `channels`, then `repeats` more."""

    channels: int
    repeats: int


@dataclass(frozen=True)
class Layout:
    """A trunk as a table. entry: channels after the stem; head_hidden: channels of the last expansion.

    refinements: the second pass over the decoder's features; the full network is used without (its decoder serves heat maps only).
    num_frozen_blocks: where training cuts a trunk without refinements; one with them is cut behind the last step down.
    """

    entry: int
    stages: tuple[Stage, ...]
    head_hidden: int
    refinements: tuple[Refinement, ...] = ()
    num_frozen_blocks: int = 0


STEM_CHANNELS = 24
FULL = Layout(
    entry=16,
    stages=(
        Stage(64, 3, 2, 24), Stage(144, 3, 1, 24),
        Stage(144, 5, 2, 32), Stage(192, 5, 1, 32),
        Stage(192, 3, 2, 64), Stage(384, 3, 1, 64, 2), Stage(384, 5, 1, 88), Stage(528, 5, 1, 88, 2),
        Stage(528, 5, 2, 144), Stage(864, 5, 1, 144, 3),
    ),
    head_hidden=864,
    num_frozen_blocks=11,
)  # fmt: skip
HEAVY = Layout(
    entry=24,
    stages=(
        Stage(96, 3, 2, 32), Stage(128, 3, 1, 32), Stage(192, 3, 1, 32, 2),
        Stage(192, 5, 2, 56), Stage(336, 5, 1, 56, 3),
        Stage(336, 3, 2, 112), Stage(672, 3, 1, 112, 5), Stage(672, 5, 1, 160), Stage(960, 5, 1, 160, 5),
        Stage(960, 5, 2, 272), Stage(1632, 5, 1, 272, 7),
    ),
    head_hidden=1632,
    refinements=(Refinement(96, 6), Refinement(192, 7), Refinement(288, 7)),
)  # fmt: skip


def depthwise(channels: int, kernel: int, stride: int = 1, padding: int | None = None) -> nn.Conv2d:
    """A convolution that treats each channel alone."""
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2 if padding is None else padding, groups=channels)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to its input where the shapes allow. Source: MobileNetV2, Sandler et al. 2018."""

    def __init__(self, channels_in: int, hidden: int, kernel: int, stride: int, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels_in, hidden, 1)
        self.filter = depthwise(hidden, kernel, stride)
        self.project = nn.Conv2d(hidden, channels, 1)
        self.stride = stride
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        y = self.project(F.relu6(self.filter(F.relu6(self.expand(x)))))
        return x + y if self.residual else y


class Separable(nn.Module):
    """Filter each channel (3x3), mix them (1x1); ReLU6 between, and after it where `activate`."""

    def __init__(self, channels_in: int, channels: int, activate: bool = True) -> None:
        super().__init__()
        self.filter = depthwise(channels_in, 3)
        self.mix = nn.Conv2d(channels_in, channels, 1)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        y = self.mix(F.relu6(self.filter(x)))
        return F.relu6(y) if self.activate else y


class SeparableResidual(nn.Module):
    """ReLU6(shortcut + separable convolution). With stride 2 the shortcut is pooled, and new channels of it are zero."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.filter = depthwise(channels_in, 3, stride, padding=1 if stride == 1 else 0)
        self.mix = nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/stride, W/stride)."""
        shortcut, y = x, x
        if self.stride == 2:
            shortcut = F.max_pool2d(x, 2)
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.mix.out_channels - x.shape[1]))
            y = F.pad(x, (0, 1, 0, 1))  # TensorFlow's SAME padding: the odd pixel goes to the right and the bottom
        return F.relu6(shortcut + self.mix(F.relu6(self.filter(y))))


class Refine(nn.Module):
    """A step down from `channels_in`, then residual blocks; the caller adds the trunk's features of that size."""

    def __init__(self, channels_in: int, layout: Refinement) -> None:
        super().__init__()
        self.down = SeparableResidual(channels_in, layout.channels, stride=2)
        self.blocks = nn.Sequential(*(SeparableResidual(layout.channels, layout.channels) for _ in range(layout.repeats)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2)."""
        return self.blocks(self.down(x))


class BlazePose(nn.Module):
    """A BlazePose trunk. Takes RGB in [0, 1]; see core.backbones for the contract."""

    channels = FEATURE_CHANNELS
    stride = 32
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
    unused = ()

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.stem = nn.Conv2d(3, STEM_CHANNELS, 3, 2, 1)
        self.entry = Separable(STEM_CHANNELS, layout.entry, activate=False)
        blocks, self.taps, channels = [], [], layout.entry  # taps: where each size of features ends, and its channels
        for stage in layout.stages:
            if stage.stride == 2 and blocks:
                self.taps.append((len(blocks), channels))
            for repeat in range(stage.repeats):
                blocks.append(InvertedResidual(channels, stage.hidden, stage.kernel, stage.stride if repeat == 0 else 1, stage.channels))
                channels = stage.channels
        self.blocks = nn.ModuleList(blocks)
        self.expand = nn.Conv2d(channels, layout.head_hidden, 1)
        self.filter = depthwise(layout.head_hidden, 3)
        self.head = Separable(layout.head_hidden, FEATURE_CHANNELS)
        if layout.refinements:
            self._add_decoder()

    def _add_decoder(self) -> None:
        """Laterals from the trunk's sizes to the decoder and to the second pass."""
        self.top = Separable(self.layout.head_hidden, LATERAL_CHANNELS)
        self.laterals = nn.ModuleList(Separable(channels, LATERAL_CHANNELS) for _, channels in self.taps)
        steps = self.layout.refinements
        self.refine_laterals = nn.ModuleList(
            Separable(channels, step.channels) for (_, channels), step in zip(self.taps[1:], steps[:-1], strict=True)
        )
        widths = [LATERAL_CHANNELS, *(step.channels for step in steps[:-1])]
        self.refine = nn.ModuleList(Refine(width, step) for width, step in zip(widths, steps, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, 288, H/32, W/32)."""
        return self.tail(*self.frozen(images))

    def frozen(self, images: Tensor) -> tuple[Tensor, ...]:
        """What training may compute once per picture: (B, 144, h, w), or for the heavy trunk twice (B, 288, h, w)."""
        x = self.entry(F.relu6(self.stem(images)))
        if not self.layout.refinements:
            for block in self.blocks[: self.layout.num_frozen_blocks]:
                x = block(x)
            return (x,)
        x, sizes = self._run_blocks(x)
        x = self._last_filter(x)
        return self._decode(x, sizes), self.head(x)

    def tail(self, *kept: Tensor) -> Tensor:
        """The part that is trained with the transformer; `kept` comes from `frozen`."""
        if self.layout.refinements:
            refined, trunk = kept
            return self.refine[-1].blocks(refined) + trunk
        (x,) = kept
        for block in self.blocks[self.layout.num_frozen_blocks :]:
            x = block(x)
        return self.head(self._last_filter(x))

    def tail_parameters(self) -> list[nn.Parameter]:
        """The parameters that `tail` uses."""
        if self.layout.refinements:
            return list(self.refine[-1].blocks.parameters())
        modules = [*self.blocks[self.layout.num_frozen_blocks :], self.expand, self.filter, self.head]
        return [parameter for module in modules for parameter in module.parameters()]

    def _last_filter(self, x: Tensor) -> Tensor:
        return F.relu6(self.filter(F.relu6(self.expand(x))))

    def _run_blocks(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Through all blocks; also the features at the end of each size, large to small."""
        ends, sizes = {end for end, _ in self.taps}, []
        for index, block in enumerate(self.blocks, start=1):
            x = block(x)
            if index in ends:
                sizes.append(x)
        return x, sizes

    def _decode(self, x: Tensor, sizes: list[Tensor]) -> Tensor:
        """Up to a quarter of the picture's size, adding the trunk's features, and down again to the last step's start."""
        y = self.top(x)
        for lateral, features in zip(reversed(self.laterals), reversed(sizes), strict=True):
            y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False) + lateral(features)
        for refine, lateral, features in zip(self.refine, self.refine_laterals, sizes[1:], strict=False):
            y = refine(y) + lateral(features)
        return self.refine[-1].down(y)

    def convolutions(self) -> Iterator[nn.Conv2d]:
        """Every convolution in the order in which the tflite files hold them: a lateral sits inside the block that follows it."""
        yield from (self.stem, *_pair(self.entry))
        decoder = bool(self.layout.refinements)
        for index, block in enumerate(self.blocks):
            yield block.expand
            for number in (n for n, (end, _) in enumerate(self.taps) if end == index and decoder):
                yield from _pair(self.laterals[number])
                if number:
                    yield from _pair(self.refine_laterals[number - 1])
            yield from (block.filter, block.project)
        yield from (self.expand, self.filter)
        if decoder:
            yield from _pair(self.top)
            for step in self.refine:
                for block in (step.down, *step.blocks):
                    yield from _pair(block)
        yield from _pair(self.head)


def _pair(block: Separable | SeparableResidual) -> tuple[nn.Conv2d, nn.Conv2d]:
    return block.filter, block.mix


@BACKBONES.register("blazepose")
def blazepose() -> BlazePose:
    """The full network's trunk."""
    return BlazePose(FULL)


@BACKBONES.register("blazepose-heavy")
def blazepose_heavy() -> BlazePose:
    """The heavy network's trunk, about three times the time of the full one."""
    return BlazePose(HEAVY)
