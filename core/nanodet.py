"""NanoDet-g: boxes of people in a picture, small ones and those in crowds too.

Rebuilt from the published network (github.com/RangiLyu/nanodet, Apache-2.0), which knows the 80 classes of COCO; only its people are
kept. See core.backbones.convert_tfjs for the weights. Each cell of three maps says whether somebody is there and how far their sides
are, as a distribution over whole cells: Generalized Focal Loss, Li et al. 2020.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

NAME = "nanodet-g"
STRIDE = 32
"""Sides of pictures are multiples of it."""
STRIDES = (8, 16, 32)
"""Sides of the cells of the three maps in the picture, in pixels."""
STAGES = ((32, 1, 1), (64, 2, 2), (128, 2, 2), (256, 3, 2))
"""Width, mixing steps and stride of each stage, which ends twice as wide."""
WIDTH = 128
"""Channels of the pyramid."""
REACH = 10
"""A side lies 0 to so many cells from its cell's centre."""
SIDES = 4 * (REACH + 1)
KEPT = (0, *range(80, 80 + SIDES))
"""Of the published network's 124 values for each cell: somebody, and the sides. Between them are the other 79 classes."""
MEAN_BGR, STD_BGR = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
SLOPE = 0.1


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def _filter(channels_in: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, stride, padding=1)


class Stage(nn.Module):
    """Cross-stage partial block: half of the width goes through the mixing steps, and everything on the way is kept."""

    def __init__(self, width: int, steps: int, stride: int) -> None:
        super().__init__()
        self.entry = _filter(width, width, stride)
        halves = [(_filter(width, width // 2), _filter(width // 2, width // 2)) for _ in range(steps)]
        self.steps = nn.ModuleList(layer for pair in halves for layer in pair)
        self.leave = _filter(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 C, H / stride, W / stride)."""
        entered = mixed = _activated(self.entry(x))
        for reduce, mix in zip(self.steps[::2], self.steps[1::2], strict=True):
            reduced = _activated(reduce(mixed))
            mixed = torch.cat([_activated(mix(reduced)), reduced], 1)
        return torch.cat([_activated(self.leave(mixed)), entered], 1)


class NanoDet(nn.Module):
    """(B, H, W, 3) uint8 RGB, sides multiples of 32 -> for each of STRIDES (B, 1 + SIDES, H / stride, W / stride): how likely
    somebody is there, 0..1, and how likely their left, top, right and bottom side is 0 to REACH cells away, before the softmax.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _filter(3, STAGES[0][0], 2)
        self.stages = nn.ModuleList(Stage(*stage) for stage in STAGES)
        self.lateral = nn.ModuleList(nn.Conv2d(2 * width, WIDTH, 1) for width, _, _ in STAGES[1:])
        self.heads = nn.ModuleList(nn.ModuleList([_filter(WIDTH, WIDTH), nn.Conv2d(WIDTH, 1 + SIDES, 1)]) for _ in STRIDES)
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(STD_BGR).view(3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        x = (pictures.permute(0, 3, 1, 2).float().flip(1) - self.mean) * self.scale
        x = F.max_pool2d(_activated(self.stem(x)), 3, 2, 1)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        fine, middle, coarse = (lateral(level) for lateral, level in zip(self.lateral, levels[1:], strict=True))
        middle = middle + _twice(coarse)
        fine = fine + _twice(middle)
        middle = middle + F.avg_pool2d(fine, 2)
        coarse = coarse + F.avg_pool2d(middle, 2)
        maps = (last(_activated(first(level))) for (first, last), level in zip(self.heads, (fine, middle, coarse), strict=True))
        return tuple(torch.cat([torch.sigmoid(values[:, :1]), values[:, 1:]], 1) for values in maps)

    def convolutions(self) -> Iterator[nn.Conv2d]:
        """Every convolution, in the order of the published graph: a level's 1x1 follows the stage that it reads."""
        yield self.stem
        for number, stage in enumerate(self.stages):
            yield from (stage.entry, *stage.steps, stage.leave)
            if number:
                yield self.lateral[number - 1]
        for head in self.heads:
            yield from head


@dataclass(frozen=True)
class Boxes:
    """N boxes, likeliest first, in a picture's pixels. boxes_px: (N, 4) float32 x0, y0, x1, y1; scores: (N,) float32 0..1."""

    boxes_px: np.ndarray
    scores: np.ndarray


def boxes_in(maps: tuple[np.ndarray, ...], least: float) -> Boxes:
    """Boxes of a picture's maps, each (1 + SIDES, h, w) float32, with a score above `least`; of one person there may be several."""
    boxes, scores = [], []
    for stride, values in zip(STRIDES, maps, strict=True):
        y, x = np.nonzero(values[0] > least)
        logits = values[1:, y, x].reshape(4, REACH + 1, -1)
        distances = np.exp(logits - logits.max(1, keepdims=True))
        sides = (np.arange(REACH + 1)[:, None] * distances).sum(1) / distances.sum(1)  # (4, N) left, top, right, bottom in cells
        centers = np.stack([x, y]) + 0.5 - 0.5 / stride  # as it was trained: the pixel before the cell's middle
        boxes.append(np.concatenate([centers - sides[:2], centers + sides[2:]]).T * stride)
        scores.append(values[0, y, x])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return Boxes(np.concatenate(boxes)[order].astype(np.float32), np.concatenate(scores)[order])


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
