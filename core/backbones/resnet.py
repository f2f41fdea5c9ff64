"""ResNet-50 without its pooling and classifier: the paper's first backbone. Parameters are named as torchvision names them.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition"; the stride sits in the 3x3 convolution, as in torchvision
"""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.backbones import BACKBONES

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Width and number of blocks of each stage."""


class WholeBackbone(nn.Module):
    """The training part of the backbone contract for a network that is trained as a whole."""

    stride = 32
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    unused: ClassVar[tuple[str, ...]] = ()
    """Children that the features do not pass through."""

    def frozen(self, images: Tensor) -> tuple[Tensor, ...]:
        """The pictures themselves."""
        return (images,)

    def tail(self, *kept: Tensor) -> Tensor:
        """The features of pictures."""
        return self(*kept)

    def tail_parameters(self) -> list[nn.Parameter]:
        """All that the features depend on."""
        return [parameter for name, child in self.named_children() if name not in self.unused for parameter in child.parameters()]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution around a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, 4 * width, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """What a shortcut needs where the block changes the shape; None elsewhere."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def init_convolutions(network: nn.Module) -> None:
    """He's initialisation, for those who train without ImageNet weights."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@BACKBONES.register("resnet50")
class ResNet50(WholeBackbone):
    """(B, 3, H, W) -> (B, 2048, H/32, W/32)."""

    channels = 2048

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for number, (width, repeats) in enumerate(STAGES, start=1):
            blocks = []
            for repeat in range(repeats):
                blocks.append(Bottleneck(channels, width, stride=2 if number > 1 and repeat == 0 else 1))
                channels = width * Bottleneck.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """As the class says."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for number in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x
