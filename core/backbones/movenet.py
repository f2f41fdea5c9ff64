"""MoveNet Thunder's trunk: MobileNetV2 with a feature pyramid, and its evidence of where the keypoints are.

Rebuilt from the published network (TensorFlow Hub, google/movenet/singlepose/thunder/4, Apache-2.0); see convert_tfjs for the weights.
MobileNetV2: Sandler et al. 2018. Heat maps on a pyramid: CenterNet, Zhou et al. 2019.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.backbones import BACKBONES, KeypointChannels
from core.joints import KEYPOINT_NAMES
from core.mobilenet import Layout, Separable, Trunk

NUM_KEYPOINTS = len(KEYPOINT_NAMES)
CELLS_PER_SIDE = 8
"""Heat maps have an eighth of the grid's step: their stride is 4, the grid's 32."""
SMALL_HEAT = 1e-4
TOP_SCALE, EVIDENCE_SCALE = 1 / 32, 4.0
"""Bring all channels to about the same spread: the last stage's is 2, the pyramid's top has 49 and the evidence 0.03."""


THUNDER = Layout(
    stem=56,
    entry=32,
    stages=((40, 2, 2), (56, 3, 2), (112, 4, 2), (168, 3, 1), (280, 3, 2), (560, 1, 1)),
    top=1280,
    pyramid=(64, 32, 24, 24),
    head=96,
)


class MoveNet(Trunk):
    """Features of the last stage, the pyramid's top, and for each keypoint how hot a cell is and where in it. Takes RGB in [0, 1]."""

    stride = 32
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)
    unused = ()

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
