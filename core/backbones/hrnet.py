"""HRNet-W64, the classification network up to its last feature map: the paper's second backbone.

Parameters are named as in the official HRNet, so that its ImageNet weights and FastMETRO's released weights fit.
Source: Wang et al. 2020, "Deep High-Resolution Representation Learning for Visual Recognition"
"""

from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.backbones import BACKBONES
from core.backbones.resnet import Bottleneck, WholeBackbone, init_convolutions

WIDTHS = (64, 128, 256, 512)
"""Channels of the branches, from fine to coarse."""
NUM_MODULES = {2: 1, 3: 4, 4: 3}
"""Stage -> fusions in it; stage n has n branches."""
NUM_BLOCKS = 4
"""Blocks of a branch between two fusions, and of the first stage."""
HEAD_WIDTHS = (32, 64, 128, 256)
NUM_CLASSES = 1000


def conv_bn(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, activate: bool = True, bias: bool = False
) -> nn.Sequential:
    """Convolution, normalisation and, where wanted, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if activate else []))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


class Fusion(nn.Module):
    """Branches of several resolutions side by side, and then each the sum of all, brought to its resolution."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(width) for _ in range(NUM_BLOCKS))) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths))) for target in range(len(widths))
        )

    @staticmethod
    def _path(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
        """From one branch's resolution to another's: nearest up-sampling, or a 3x3 convolution of stride 2 for each halving."""
        if source == target:
            return nn.Identity()
        if source > target:
            mix = conv_bn(widths[source], widths[target], kernel=1, activate=False)
            return nn.Sequential(*mix, nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"))
        halvings = target - source
        steps = [conv_bn(widths[source], widths[source], stride=2) for _ in range(halvings - 1)]
        return nn.Sequential(*steps, conv_bn(widths[source], widths[target], stride=2, activate=False))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """One tensor (B, C_i, h_i, w_i) a branch -> the same shapes."""
        branches = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        fused = []
        for paths in self.fuse_layers:
            total = paths[0](branches[0])
            for path, x in zip(paths[1:], branches[1:], strict=True):
                total = total + path(x)
            fused.append(F.relu(total))
        return fused


@BACKBONES.register("hrnet-w64")
class HRNetW64(WholeBackbone):
    """(B, 3, H, W) -> (B, 2048, H/32, W/32).

    The classifier takes no part in the features. The release carries it along, in its weights and in the paper's 128.1M parameters,
    and so does this: an upstream quirk that keeps official weights loading strictly.
    """

    channels = 2048
    unused: ClassVar[tuple[str, ...]] = ("classifier",)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        self.conv2, self.bn2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(*(Bottleneck(64 if block == 0 else 256, 64) for block in range(NUM_BLOCKS)))
        # Identities stand where the official network has None: they hold no parameters.
        self.transition1 = nn.ModuleList([conv_bn(256, WIDTHS[0]), nn.Sequential(conv_bn(256, WIDTHS[1], stride=2))])
        for stage, count in NUM_MODULES.items():
            if stage > 2:
                self.add_module(f"transition{stage - 1}", self._transition(stage))
            self.add_module(f"stage{stage}", nn.ModuleList(Fusion(WIDTHS[:stage]) for _ in range(count)))
        head = [width * Bottleneck.expansion for width in HEAD_WIDTHS]
        self.incre_modules = nn.ModuleList(nn.Sequential(Bottleneck(*pair)) for pair in zip(WIDTHS, HEAD_WIDTHS, strict=True))
        self.downsamp_modules = nn.ModuleList(conv_bn(fine, coarse, stride=2, bias=True) for fine, coarse in pairwise(head))
        self.final_layer = conv_bn(head[-1], self.channels, kernel=1, bias=True)
        self.classifier = nn.Linear(self.channels, NUM_CLASSES)
        init_convolutions(self)

    @staticmethod
    def _transition(stage: int) -> nn.ModuleList:
        """One more branch, of half the resolution of the coarsest."""
        kept = [nn.Identity() for _ in range(stage - 1)]
        return nn.ModuleList([*kept, nn.Sequential(conv_bn(WIDTHS[stage - 2], WIDTHS[stage - 1], stride=2))])

    def forward(self, images: Tensor) -> Tensor:
        """As the class says."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer1(F.relu(self.bn2(self.conv2(x))))
        branches = [begin(x) for begin in self.transition1]
        for stage in NUM_MODULES:
            if stage > 2:
                *kept, new = self.get_submodule(f"transition{stage - 1}")
                branches = [*(same(x) for same, x in zip(kept, branches, strict=True)), new(branches[-1])]
            for fusion in self.get_submodule(f"stage{stage}"):
                branches = fusion(branches)
        x = self.incre_modules[0](branches[0])
        for wider, halve, branch in zip(self.incre_modules[1:], self.downsamp_modules, branches[1:], strict=True):
            x = wider(branch) + halve(x)
        return self.final_layer(x)
