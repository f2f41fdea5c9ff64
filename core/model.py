"""FastMETRO: mesh recovery from a picture with a transformer whose encoder and decoder are kept apart.

Source: Cho et al., Cross-Attention of Disentangled Modalities for 3D Human Mesh Recovery with Transformers, ECCV 2022
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.config import GRID, ModelConfig, variant
from core.errors import InputError
from core.transformer import Transformer

if TYPE_CHECKING:
    from core.bodies import Body

START_CAMERA = (0.9, 0.0, 0.0)
"""A person that fills a crop as ours are cut: saves training the first thousand steps of finding that out."""


@dataclass(frozen=True)
class Prediction:
    """What the network says. Raw: centring on the pelvis is the caller's.

    camera: (B, 3) scale, tx, ty of the crop          joints: (B, 14, 3) metres, from the joint tokens
    levels: coarse (B, 431, 3), intermediate (B, 1723, 3), full (B, V, 3) metres; those that were not asked for are None
    rotmats, betas: body parameters, or None
    """

    camera: Tensor
    joints: Tensor
    levels: tuple[Tensor | None, Tensor | None, Tensor | None]
    rotmats: Tensor | None = None
    betas: Tensor | None = None


class Upsample(nn.Module):
    """A fixed sparse matrix over vertices. Rows hold few entries, so it runs as a weighted sum of looked-up rows.

    (1723 -> 13718 vertices for 16 people on one CPU thread: 0.3 ms; PyTorch's sparse product 0.7 ms, plain indexing 23 ms.)
    """

    def __init__(self, matrix: csr_matrix) -> None:
        super().__init__()
        counts = np.diff(matrix.indptr)
        filled = np.arange(counts.max())[None] < counts[:, None]
        ids, weights = np.zeros(filled.shape, np.int64), np.zeros(filled.shape, np.float32)
        ids[filled], weights[filled] = matrix.indices, matrix.data
        self.register_buffer("ids", torch.from_numpy(ids), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights), persistent=False)

    def forward(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, V', 3)."""
        table = vertices.to(self.weights.dtype).transpose(0, 1).flatten(1)  # (V, B * 3)
        mixed = F.embedding_bag(self.ids, table, per_sample_weights=self.weights, mode="sum")
        return mixed.unflatten(1, (-1, 3)).transpose(0, 1)


class FastMETRO(nn.Module):
    """Pictures -> camera, joints and three levels of mesh."""

    def __init__(self, config: ModelConfig, backbone: nn.Module, body: "Body") -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        self.num_joints, (num_coarse, *_) = len(body.joint_names), body.levels.sizes
        wide, narrow = config.widths
        self.conv_1x1 = nn.Conv2d(backbone.channels, wide, 1)
        self.stages = nn.ModuleList(
            Transformer(
                width, config.num_layers, config.num_heads, config.feedforward_ratio, config.dropout, config.attention_dropout, GRID
            )
            for width in config.widths
        )
        self.narrow_encoded = nn.Linear(wide, narrow)  # camera and image
        self.narrow_decoded = nn.Linear(wide, narrow)  # joints and vertices
        self.camera_token = nn.Parameter(torch.randn(1, wide))
        self.joint_tokens = nn.Parameter(torch.randn(self.num_joints, wide))
        self.vertex_tokens = nn.Parameter(torch.randn(num_coarse, wide))
        self.xyz_regressor = nn.Linear(narrow, 3)
        self.camera_predictor = nn.Linear(narrow, 3)
        with torch.no_grad():
            self.camera_predictor.bias.copy_(torch.tensor(START_CAMERA))
            if config.token_init == "template":
                self._init_tokens(body)
        self.register_buffer("mask", attention_mask(body.levels.coarse_adjacency, self.num_joints), persistent=False)
        self.upsampling = nn.ModuleList(Upsample(matrix) for matrix in body.levels.upsample)
        self._constants: tuple[tuple[object, ...], tuple[Tensor, Tensor]] | None = None

    def forward(self, images: Tensor) -> Prediction:
        """images: (B, 3, 224, 224), normalised as the backbone wants them."""
        return self.decode(self.backbone(images))

    def decode(self, features: Tensor, num_levels: int = 3) -> Prediction:
        """features: (B, C, 7, 7) from the backbone. num_levels = 2 leaves the full mesh out, as training may."""
        image = self.conv_1x1(features).flatten(2).transpose(1, 2)  # (B, 49, wide)
        camera = self.camera_token.to(image.dtype).expand(len(image), 1, -1)  # under autocast all tokens stay in its type
        first, second = self.stages
        tokens, queries = (tensor.to(image.dtype) for tensor in self._begin())
        camera, image, tokens = first(camera, image, tokens, queries, self.mask)
        camera, image, tokens = self.narrow_encoded(camera), self.narrow_encoded(image), self.narrow_decoded(tokens)
        camera, _, tokens = second(camera, image, *second.begin(tokens, self.mask), self.mask)
        points = _at_least_float32(self.xyz_regressor(tokens))  # (B, 14 + 431, 3)
        joints, coarse = points.split([self.num_joints, points.shape[1] - self.num_joints], 1)
        return Prediction(_at_least_float32(self.camera_predictor(camera[:, 0])), joints, self.upsample(coarse, num_levels))

    def upsample(self, coarse: Tensor, num_levels: int = 3) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, 431, 3) -> coarse, intermediate (B, 1723, 3), full (B, V, 3)."""
        intermediate = self.upsampling[0](coarse) if num_levels > 1 else None
        full = self.upsampling[1](intermediate) if intermediate is not None and num_levels > 2 else None
        return coarse, intermediate, full

    def _begin(self) -> tuple[Tensor, Tensor]:
        """Joint and vertex tokens (1, 445, wide) after the first self-attention, and their queries to the image.

        They are the same for every picture, so they are computed for a batch of one; in training one dropout mask then serves the
        whole batch. Inference computes them once and again only when a weight behind them has changed.
        """
        if self.training or torch.is_grad_enabled():
            return self._compute_constants()
        device = self.joint_tokens.device.type
        weights = (self.joint_tokens, self.vertex_tokens, *self.stages[0].decoder.layers[0].parameters())
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (autocast, *((weight.data_ptr(), weight._version) for weight in weights))
        if self._constants is None or self._constants[0] != key:
            self._constants = key, self._compute_constants()
        return self._constants[1]

    def _compute_constants(self) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([self.joint_tokens, self.vertex_tokens])[None]
        return self.stages[0].begin(tokens, self.mask)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FastMETRO":
        """As nn.Module's, behind `to` and its kin; new memory may lie where the old lay, so the constants are forgotten."""
        self._constants = None
        return super()._apply(fn, recurse)

    def _init_tokens(self, body: "Body") -> None:
        """Fourier features of the places in the rest mesh, of unit variance: near vertices begin with similar tokens."""
        template_m = torch.from_numpy(body.levels.template_m)
        joints_m = torch.from_numpy(body.joint_regressor @ body.levels.template_m).float()
        vertices_m = template_m[torch.from_numpy(np.asarray(body.levels.coarse_ids))]
        half = self.config.widths[0] // 2
        scales_m = torch.logspace(math.log10(0.08), math.log10(0.8), half)
        frequencies = torch.randn(3, half) / scales_m
        for tokens, places_m in ((self.joint_tokens, joints_m), (self.vertex_tokens, vertices_m)):
            phase = places_m @ frequencies + 2 * math.pi * torch.rand(half)  # another phase for joints: a joint is no vertex
            tokens.copy_(math.sqrt(2) * torch.cat([phase.sin(), phase.cos()], 1))


def _at_least_float32(x: Tensor) -> Tensor:
    """bfloat16 would round metres to millimetres."""
    return x if x.dtype == torch.float64 else x.float()


def attention_mask(coarse_adjacency: np.ndarray, num_joints: int) -> Tensor:
    """(J + C, J + C) float32 to add to attention scores: -inf between vertices that are no neighbours. Joints see and are seen by all."""
    num_tokens = num_joints + len(coarse_adjacency)
    allowed = torch.ones(num_tokens, num_tokens, dtype=torch.bool)
    allowed[num_joints:, num_joints:] = torch.from_numpy(np.asarray(coarse_adjacency, bool))
    return torch.zeros(num_tokens, num_tokens).masked_fill(~allowed, -math.inf)


def build_model(
    config: ModelConfig | str, body: str | None = None, mesh_dir: str | Path | None = None, release: str | None = None
) -> FastMETRO:
    """An untrained network, in training mode. `config`: a ModelConfig, or a name of core.variants.

    body, release: instead of the config's. mesh_dir: folder of the official SMPL mesh files.
    Raises InputError for unknown names and for what this version does not offer.
    """
    from core.backbones import BACKBONES
    from core.bodies import load_body

    if isinstance(config, str):
        config = variant(config, body, release)
    else:
        config = replace(config, body=body or config.body, release=release or config.release)
    if mesh_dir is not None:
        raise InputError(f"mesh_dir: got {mesh_dir}, but the SMPL body that it serves is not available yet; use body 'anny' without it")
    return FastMETRO(config, BACKBONES[config.backbone](), load_body(config.body))
