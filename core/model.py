"""FastMETRO: mesh recovery from a picture with a transformer whose encoder and decoder are kept apart.

Source: Cho et al., Cross-Attention of Disentangled Modalities for 3D Human Mesh Recovery with Transformers, ECCV 2022
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from core.body_regressor import BodyRegressor
from core.cameras import CAMERAS
from core.config import GRID, VARIANTS, ModelConfig, adapted
from core.errors import InputError
from core.feedback import KeypointFeedback
from core.reductions import REDUCTIONS
from core.tokens import TOKENS
from core.transformer import POSITIONS, Transformer
from core.types import CROP_SIZE_PX
from core.upsampling import UPSAMPLINGS

if TYPE_CHECKING:
    from core.bodies import Body


@dataclass(frozen=True)
class Prediction:
    """What the network says. Raw: centring on the pelvis is the caller's.

    camera: (B, 3) scale, tx, ty of the crop          joints: (B, 14, 3) metres, from the joint tokens
    levels: coarse (B, 431, 3), intermediate (B, 1723, 3), full (B, V, 3) metres; those that were not asked for are None
    rotmats, betas: body parameters, or None: rotations (B, J, 3, 3) of the bones and shape (B, S): SMPL's betas, Anny's phenotype
    """

    camera: Tensor
    joints: Tensor
    levels: tuple[Tensor | None, Tensor | None, Tensor | None]
    rotmats: Tensor | None = None
    betas: Tensor | None = None


class FastMETRO(nn.Module):
    """Pictures -> camera, joints and three levels of mesh."""

    def __init__(self, config: ModelConfig, backbone: nn.Module, body: "Body") -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        wide, narrow = config.widths
        positions, upsampling = POSITIONS[config.positions], [UPSAMPLINGS[name] for name in config.upsampling]
        layers = (config.num_layers, config.num_heads, config.feedforward_ratio, config.dropout, config.attention_dropout)
        self.conv_1x1 = nn.Conv2d(backbone.channels, wide, 1)
        self.stages = nn.ModuleList(Transformer(positions(GRID, width), width, *layers) for width in config.widths)
        self.reduction = REDUCTIONS[config.reduction](wide, narrow)
        self.tokens = TOKENS[config.tokens](wide, body)
        self.camera = CAMERAS[config.camera](wide, narrow, body)
        self.xyz_regressor = nn.Linear(narrow, 3)
        self.upsampling = nn.ModuleList(make(matrix) for make, matrix in zip(upsampling, body.levels.upsample, strict=True))
        self.body_regressor = _body_regressor(config, body) if config.parametric else None
        self.feedback = _feedback(config, layers[1:], backbone, body) if config.feedback else None
        self.num_tokens = (self.camera.num_decoder_tokens, len(body.joint_names), body.levels.sizes[0])
        mask = attention_mask(body.levels.coarse_adjacency, self.num_free_tokens) if config.masked else None
        self.register_buffer("mask", mask, persistent=False)
        self._constants: tuple[tuple[object, ...], tuple[Tensor, Tensor]] | None = None

    @property
    def num_free_tokens(self) -> int:
        """Decoder tokens that see all others and are seen by all: a camera's, if it is there, and the joints'. The vertices' follow."""
        return sum(self.num_tokens[:-1])

    def forward(self, images: Tensor) -> Prediction:
        """images: (B, 3, 224, 224), normalised as the backbone wants them. Raises InputError for other shapes and types, and for NaN."""
        check_images(images, next(self.backbone.parameters()).dtype)
        return self.decode(self.backbone(images))

    def decode(self, features: Tensor, num_levels: int = 3) -> Prediction:
        """features: (B, C, 7, 7) from the backbone. num_levels = 2 leaves the full mesh out, as training may."""
        camera, joints, coarse = self.points(features)
        levels = self.upsample(coarse, num_levels)
        if self.body_regressor is None or levels[1] is None:
            return Prediction(camera, joints, levels)
        return Prediction(camera, joints, levels, *self.body_regressor.reading(self._exactly(self.body_regressor.numbers, levels[1])))

    def points(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, 7, 7) -> camera (B, 3), joints (B, 14, 3), coarse mesh (B, 431, 3): what the transformers say."""
        image = self.conv_1x1(features).flatten(2).transpose(1, 2)  # (B, 49, wide)
        camera = self.camera.encoder_tokens.to(image.dtype).expand(image.shape[0], -1, -1)  # under autocast all tokens stay in its type
        first, second = self.stages
        tokens, queries = (tensor.to(image.dtype) for tensor in self.kept_constants())
        camera, image, tokens = first(camera, image, tokens, queries, self.mask)
        camera, image, tokens = self.reduction(camera, image, tokens)
        camera, image, tokens = second(camera, image, *second.begin(tokens, self.mask), self.mask)
        camera_token, *rest = tokens.split(self.num_tokens, 1)
        joints, coarse = (self._exactly(self.xyz_regressor, points) for points in rest)  # (B, 14, 3), (B, 431, 3)
        camera = self._exactly(self.camera, camera, camera_token, coarse)
        if self.feedback is None:
            return camera, joints, coarse
        return self.feedback(features, image, second.positions(), torch.cat(rest, 1), self.mask, camera, joints, coarse)

    def _exactly(self, layer: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """What one of the last layers says, in float32 under autocast as well: bfloat16 would round metres to millimetres."""
        device = inputs[0].device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return layer(*(tensor.to(self.xyz_regressor.weight.dtype) for tensor in inputs))
        said = layer(*inputs)
        return said if said.dtype == torch.float64 else said.float()

    def upsample(self, coarse: Tensor, num_levels: int = 3) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, 431, 3) -> coarse, intermediate (B, 1723, 3), full (B, V, 3)."""
        intermediate = self._exactly(self.upsampling[0], coarse) if num_levels > 1 else None
        full = self._exactly(self.upsampling[1], intermediate) if intermediate is not None and num_levels > 2 else None
        return coarse, intermediate, full

    def constants(self) -> tuple[Tensor, Tensor]:
        """Decoder tokens (1, 445, wide) after the first self-attention, and their queries to the image.

        They are the same for every picture, so they are computed for a batch of one; in training one dropout mask then serves the
        whole batch.
        """
        tokens = torch.cat([self.camera.decoder_tokens, self.tokens()])[None]
        return self.stages[0].begin(tokens, self.mask)

    def kept_constants(self) -> tuple[Tensor, Tensor]:
        """Inference computes the constants once and again only when a weight behind them has changed. A fused optimiser changes weights
        without counting it, so a pass that one may follow forgets them.
        """
        if self.training or torch.is_grad_enabled():
            if not torch.compiler.is_compiling():
                self._constants = None
            return self.constants()
        device = self.conv_1x1.weight.device.type
        weights = (*self.tokens.parameters(), *self.camera.parameters(), *self.stages[0].decoder.layers[0].parameters())
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (autocast, *((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights))
        if self._constants is None or self._constants[0] != key:
            self._constants = key, self.constants()
        return self._constants[1]

    def train(self, mode: bool = True) -> "FastMETRO":
        """As nn.Module's. Whoever changes the mode has trained or will, so the constants are forgotten."""
        if mode != self.training:
            self._constants = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FastMETRO":
        """As nn.Module's, behind `to` and its kin; new memory may lie where the old lay, so the constants are forgotten."""
        self._constants = None
        return super()._apply(fn, recurse)


def _feedback(config: ModelConfig, layer: tuple[Any, ...], backbone: nn.Module, body: "Body") -> KeypointFeedback:
    source = getattr(backbone, "keypoint_channels", None)
    if config.camera == "decoder":
        raise InputError(f"model {config.name!r}: got feedback with a camera token in the decoder, expected it in the encoder")
    if source is None:
        raise InputError(f"model {config.name!r}: got feedback {config.feedback}, but its backbone {config.backbone!r} sees no keypoints")
    return KeypointFeedback(config.feedback, config.widths[1], layer, source, body)


def _body_regressor(config: ModelConfig, body: "Body") -> BodyRegressor:
    return BodyRegressor(body.levels.sizes[1], body.num_bones, body.num_shape, config.rotations)


def check_images(images: Tensor, dtype: torch.dtype) -> None:
    """Raise InputError unless `images` is what a network with weights of this dtype takes.

    Under autocast any floating point will do. Values are looked at on the CPU only: a GPU would have to wait.
    """
    if images.dim() != 4 or images.shape[1:] != (3, CROP_SIZE_PX, CROP_SIZE_PX):
        raise InputError(f"images: got shape {tuple(images.shape)}, expected (B, 3, {CROP_SIZE_PX}, {CROP_SIZE_PX}); see core.crop")
    device = images.device.type
    if images.dtype != dtype and not (images.is_floating_point() and torch.is_autocast_enabled(device)):
        raise InputError(f"images: got {images.dtype}, expected {dtype}, normalised with the backbone's mean and std")
    if device == "cpu" and not torch.compiler.is_compiling() and not images.isfinite().all():
        raise InputError(f"images: {int((~images.isfinite()).sum())} of {images.numel()} values are NaN or infinite, expected numbers")


def attention_mask(coarse_adjacency: np.ndarray, num_free: int) -> Tensor:
    """(F + C, F + C) float32 to add to attention scores: -inf between vertices that are no neighbours.

    coarse_adjacency: (C, C) bool, True on the diagonal; num_free: tokens before the vertices (joints) that see and are seen by all
    """
    num_tokens = num_free + len(coarse_adjacency)
    allowed = torch.ones(num_tokens, num_tokens, dtype=torch.bool)
    allowed[num_free:, num_free:] = torch.from_numpy(np.asarray(coarse_adjacency, bool))
    return torch.zeros(num_tokens, num_tokens).masked_fill(~allowed, -math.inf)


def build_model(
    config: ModelConfig | str,
    body: str | None = None,
    mesh_dir: str | Path | None = None,
    release: str | None = None,
    parametric: bool | None = None,
) -> FastMETRO:
    """An untrained network, in training mode. `config`: a ModelConfig, or a name of core.variants.

    body, release, parametric: instead of the config's. mesh_dir: folder of the official SMPL mesh files, for the body "smpl".
    Raises InputError for unknown names, and when the body's files are missing or damaged.
    """
    from core.bodies import load_body

    config = adapted(VARIANTS[config] if isinstance(config, str) else config, body, release, parametric)
    return assemble(config, load_body(config.body, mesh_dir))


def assemble(config: ModelConfig, body: "Body") -> FastMETRO:
    """An untrained network on a body that is loaded already."""
    from core.backbones import BACKBONES

    return FastMETRO(config, BACKBONES[config.backbone](), body)
