"""The network as a GPU runs it: crops as bytes in, all that it says in one packed tensor out.

What does not depend on the picture is computed once. Backbone and transformer multiply in the mode's type; the camera, the regressors
of coordinates and body parameters, and all of the mesh stay in float32.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from core.folding import fold_batch_norms
from core.model import FastMETRO, Prediction

ALIGNED = 16
"""Elements to whose multiple the rows of the attention mask are laid out: the memory-efficient kernels take it then without a copy."""
NUM_CHECKED = 4
"""Crops of core.pixels.patchwork that a way is compared with float32 on."""
TOLERANCE = 0.01
"""Mean way of a vertex from where float32 puts it, relative to the mesh's radius (about 0.45 m for a person: 4.5 mm)."""


@dataclass(frozen=True)
class Mode:
    """A precision. dtype: of backbone and transformer; tf32: float32 products may drop 13 bits of the factors."""

    name: str
    dtype: torch.dtype
    tf32: bool = False


FP32, TF32 = Mode("fp32", torch.float32), Mode("tf32", torch.float32, tf32=True)
BF16, FP16 = Mode("bf16", torch.bfloat16), Mode("fp16", torch.float16)
MODES: dict[str, tuple[Mode, ...]] = {"fp32": (FP32,), "bf16": (BF16, FP16, TF32, FP32)}
"""What --precision asks for -> modes, the first first; the first that is near enough to float32 runs.

fp16 has bf16's speed and three bits more: BlazePose's trunks, 60 layers of depth-wise convolutions, need them (measured on real crops:
a vertex is 9 to 50 mm off in bf16, 0.5 to 4 mm in fp16).
"""


@contextmanager
def exactness(tf32: bool) -> Iterator[None]:
    """Whether products of float32 may be TF32; cuDNN may try its algorithms. Process-wide while it lasts."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class InFloat32(nn.Module):
    """A layer that takes its input in float32, whatever the layers before it run in."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's."""
        return self.layer(x.float())


class PackedNetwork(nn.Module):
    """(B, 224, 224, 3) uint8 -> (B, N) float32, see Layout. For inference; parameters of the body leave as matrices."""

    def __init__(self, model: FastMETRO, mode: Mode, change_backbone: Callable[[nn.Module], nn.Module] = lambda backbone: backbone) -> None:
        """model: folded, on its device; it is copied. change_backbone: the last step in making the backbone, e.g. fused.py's."""
        super().__init__()
        self.mode = mode
        model = copy.deepcopy(model)
        backbone, dtype = model.backbone, mode.dtype
        scale = 1 / (255 * torch.tensor(backbone.std))
        shift = -torch.tensor(backbone.mean) / torch.tensor(backbone.std)
        device = model.xyz_regressor.weight.device
        for name, values in (("scale", scale), ("shift", shift)):
            self.register_buffer(name, values.view(1, 3, 1, 1).to(device), persistent=False)
        self.backbone = change_backbone(backbone.to(dtype=dtype, memory_format=torch.channels_last))
        model.backbone = nn.Identity()
        with torch.no_grad():
            tokens, queries = model.constants()  # in float32, once for all
        self.register_buffer("tokens", tokens.detach().to(dtype), persistent=False)
        self.register_buffer("queries", queries.detach().to(dtype), persistent=False)
        self.model = _in_mode(model, dtype)
        self.model.kept_constants = lambda: (self.tokens, self.queries)

    def normalised(self, crops: Tensor) -> Tensor:
        """(B, 3, 224, 224) float32: core.pixels.Normaliser's numbers but for rounding, in one operation."""
        return torch.addcmul(self.shift, crops.permute(0, 3, 1, 2).float(), self.scale)

    def forward(self, crops: Tensor) -> Tensor:
        """As the class says."""
        images = self.normalised(crops).to(self.mode.dtype, memory_format=torch.channels_last)
        said = self.model.decode(self.backbone(images))
        parts = (said.camera, said.joints, said.levels[2], said.rotmats, said.betas)
        return torch.cat([part.float().flatten(1) for part in parts if part is not None], 1)


def _in_mode(model: FastMETRO, dtype: torch.dtype) -> FastMETRO:
    """Transformers in `dtype`, their ends in float32, the mask as the kernels like it."""
    for part in (model.conv_1x1, model.stages, model.reduction, model.tokens):
        part.to(dtype)
    if model.camera.token is not None:
        model.camera.token.data = model.camera.token.data.to(dtype)
    model.camera.no_token = model.camera.no_token.to(dtype)
    if dtype != torch.float32:
        model.xyz_regressor = InFloat32(model.xyz_regressor)
        model.camera.predictor = InFloat32(model.camera.predictor)
    if model.feedback is not None:
        model.feedback.to(dtype)
        for head in model.feedback.heads:
            head.float()
    if model.body_regressor is not None:
        reading = model.body_regressor.reading
        model.body_regressor.reading = replace(reading, to_rotations=nn.Identity())  # an SVD makes the host wait, which no graph can hold
    if model.mask is not None:
        model.mask = aligned(model.mask.to(dtype))
    return model.requires_grad_(False).eval()


def aligned(mask: Tensor) -> Tensor:
    """(L, L') -> the same values, with rows that begin at multiples of ALIGNED elements."""
    return F.pad(mask, (0, -mask.shape[1] % ALIGNED))[:, : mask.shape[1]]


def prepared(model: FastMETRO, device: torch.device) -> FastMETRO:
    """`model` changed in place for PackedNetwork: folded, on the device."""
    return fold_batch_norms(model.eval()).to(device)


@dataclass(frozen=True)
class Layout:
    """Where things lie in a packed row. shapes: name -> shape for one person, in order; to_rotations: matrices -> rotations, on the host"""

    shapes: dict[str, tuple[int, ...]]
    to_rotations: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of(cls, model: FastMETRO, said: Prediction) -> "Layout":
        """Of a network that is not a PackedNetwork's yet, from what it said once."""
        shapes: dict[str, tuple[int, ...]] = {"camera": (3,), "joints": said.joints.shape[1:], "full": said.levels[2].shape[1:]}
        if model.body_regressor is None:
            return cls(shapes)
        reading = model.body_regressor.reading
        return cls(shapes | {"rotmats": (reading.num_bones, 3, 3), "betas": (reading.num_shape,)}, reading.to_rotations)

    @property
    def width(self) -> int:
        """Numbers for one person."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def unpacked(self, rows: Tensor) -> Prediction:
        """(B, width) on the host -> what the network said: mesh and joints are views of it; who keeps the rest keeps no row alive."""
        parts = rows.split([math.prod(shape) for shape in self.shapes.values()], 1)
        said = {name: part.unflatten(1, shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        said |= {name: said[name].clone() for name in ("camera", "betas") if name in said}
        rotmats = said.get("rotmats")
        if rotmats is not None and self.to_rotations is not None:
            rotmats = self.to_rotations(rotmats)
        return Prediction(said["camera"], said["joints"], (None, None, said["full"]), rotmats, said.get("betas"))


def deviation(got: Tensor, expected: Tensor) -> float:
    """Mean way of the vertices from where they should be, relative to the radius of the mesh; infinite where something is no number.

    got, expected: (B, V, 3), both about their own centres: what moves as a whole is the camera's business
    """
    got, expected = (points - points.mean(1, keepdim=True) for points in (got.float(), expected.float()))
    way = (got - expected).norm(dim=-1).mean()
    radius = expected.square().sum(-1).mean().sqrt()
    result = float(way / radius.clamp(min=1e-6))
    return result if math.isfinite(result) else math.inf
