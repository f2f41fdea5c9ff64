"""Backbones: a picture in, a coarse grid of features out.

A backbone is an nn.Module with
    channels, stride     C and 32
    mean, std            per channel, how it wants RGB in [0, 1] normalised
    forward(images)      (B, 3, H, W) -> (B, C, H/32, W/32), the same as tail(*frozen(images))
    frozen(images)       what training computes once per picture and keeps: a tuple of tensors
    tail(*kept)          the rest, trained together with the transformer
    tail_parameters()    the parameters of that rest
    unused               names of its modules that no feature passes through
    keypoint_channels    of those that see keypoints: where in their features
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from core.registry import Registry


class KeypointChannels(NamedTuple):
    """Where features hold evidence of COCO's keypoints: `core.backbones.movenet.evidence` times `scale`, from the channel `first` on."""

    first: int
    scale: float


class Backbone(Protocol):
    """What the model may ask of a backbone."""

    channels: int
    stride: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    unused: tuple[str, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, H/32, W/32)."""
        ...

    def frozen(self, images: Tensor) -> tuple[Tensor, ...]:
        """What training keeps of each picture."""
        ...

    def tail(self, *kept: Tensor) -> Tensor:
        """The features, from what was kept."""
        ...

    def tail_parameters(self) -> list[nn.Parameter]:
        """What `tail` trains."""
        ...


BACKBONES: Registry[Callable[[], nn.Module]] = Registry("backbone")

from core.backbones import blazepose, hrnet, movenet, pair, resnet  # noqa: E402, F401  they register themselves in BACKBONES
