"""MoveNet MultiPose: where people are in a picture, and which of their keypoints can be seen.

Rebuilt from the published network (TensorFlow Hub, google/movenet/multipose/lightning/1, Apache-2.0); see
core.backbones.convert_tfjs for the weights. Objects as points: CenterNet, Zhou et al. 2019.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from core.joints import KEYPOINT_NAMES
from core.mobilenet import Layout, Separable, Trunk

NAME = "movenet-multipose"
STRIDE = 32
"""Sides of pictures are multiples of it."""
CELL_PX = 4
"""Side of a cell of the maps in the picture."""
MULTIPOSE = Layout(
    stem=48,
    entry=24,
    stages=((40, 2, 2), (48, 3, 2), (96, 4, 2), (144, 3, 1), (240, 3, 2), (480, 1, 1)),
    top=1280,
    pyramid=(64, 32, 24, 24),
    head=96,
)
HEADS = {"center": 1, "box_scale": 2, "box_offset": 2, "kpt_heatmap": len(KEYPOINT_NAMES), "kpt_regress": 2 * len(KEYPOINT_NAMES)}
"""The published graph's names -> channels. Pairs are y, x, in cells."""
PEAK_CELLS = 5
"""A centre is the highest within so many cells."""
REACH = 0.3
"""Squared distance in cells, as a share of the maps' shorter side, at which a keypoint's heat counts 1 / e."""
PER_PIXEL = 1 / 255


class Head(nn.Module):
    """Separable filter with bias, then one value or more for each cell."""

    def __init__(self, channels_in: int, width: int, channels: int) -> None:
        super().__init__()
        self.separable, self.out = Separable(channels_in, width), nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H, W)."""
        return self.out(self.separable(x))


class MultiPose(Trunk):
    """(B, H, W, 3) uint8 RGB, sides multiples of 32 -> one map for each of HEADS: (B, channels, H/4, W/4); heats are in 0..1."""

    def __init__(self) -> None:
        super().__init__(MULTIPOSE)
        self.heads = nn.ModuleDict({name: Head(MULTIPOSE.pyramid[-1], MULTIPOSE.head, channels) for name, channels in HEADS.items()})

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        finest = self.levels(pictures.permute(0, 3, 1, 2).float() * PER_PIXEL)[2]
        maps = {name: head(finest) for name, head in self.heads.items()}
        return tuple(torch.sigmoid(value) if name in ("center", "kpt_heatmap") else value for name, value in maps.items())

    def convolutions(self) -> Iterator[nn.Conv2d]:
        """Every convolution: up to the finest level, then head by head."""
        yield from self.trunk_convolutions()
        for head in self.heads.values():
            yield from (head.separable.filter, head.separable.mix, head.out)


@dataclass(frozen=True)
class Found:
    """N people in a picture, likeliest first, in its pixels.

    boxes_px: (N, 4) x0, y0, x1, y1, which may reach beyond the picture; scores: (N,) 0..1
    keypoints: (N, 17, 3) x, y and 0..1 how hot the picture is there, in the order of core.joints.KEYPOINT_NAMES
    """

    boxes_px: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray


def people_in(maps: tuple[np.ndarray, ...], max_people: int, min_heat: float = 0.0) -> Found:
    """The likeliest people of a picture's maps, each (channels, h, w) float32, in the order of HEADS.

    min_heat: of their centres; cooler ones are left out
    """
    center, box_scale, box_offset, heat, regress = maps
    width = center.shape[-1]
    highest = max_pool2d(torch.from_numpy(center), PEAK_CELLS, stride=1, padding=PEAK_CELLS // 2)[0].numpy()
    peaks = np.where(center[0] >= highest, center[0], 0).ravel()
    cells = np.flatnonzero(peaks > min_heat)
    cells = cells[np.argsort(-peaks[cells], kind="stable")][:max_people]
    centers = np.stack([cells // width, cells % width], 1).astype(np.float32)  # (N, 2) y, x
    middle = centers + box_offset.reshape(2, -1)[:, cells].T
    half = np.maximum(box_scale.reshape(2, -1)[:, cells].T, 0) / 2
    boxes = np.concatenate([middle - half, middle + half], 1)  # y0, x0, y1, x1 in cells
    places = centers[:, None] + regress.reshape(-1, 2, regress[0].size)[..., cells].transpose(2, 0, 1)  # (N, 17, 2)
    scores = np.array([_hottest(heat, *person) for person in zip(places, boxes, strict=True)], np.float32).reshape(len(cells), len(heat))
    keypoints = np.concatenate([places[..., ::-1] * CELL_PX, scores[..., None]], 2)
    return Found(boxes[:, [1, 0, 3, 2]] * CELL_PX, peaks[cells], keypoints)


def _hottest(heat: np.ndarray, places: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(17,) each keypoint's highest heat (17, h, w) near its place (17, 2) and in the box (4,), weighed as in the published graph."""
    size = np.array(heat.shape[1:])
    y0, x0 = np.clip(np.ceil(box[:2]), 0, size).astype(int)
    y1, x1 = np.clip(np.ceil(box[2:]), 0, size).astype(int)
    if y0 >= y1 or x0 >= x1:
        return np.zeros(len(heat), np.float32)
    near_y, near_x = (
        np.exp(-((np.arange(first, end) - place[:, None]) ** 2) / (REACH * size.min()))
        for place, first, end in ((places[:, 0], y0, y1), (places[:, 1], x0, x1))
    )
    return (heat[:, y0:y1, x0:x1] * near_y[:, :, None] * near_x[:, None]).max((1, 2))
