"""What the decoder begins with: a token for each joint and each coarse vertex, the same for every picture."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from core.bodies import Body
from core.errors import InputError
from core.registry import Registry

TOKENS: Registry[type[nn.Module]] = Registry("kind of tokens")
"""Name -> module(width, body) whose forward gives (14 + 431, width), joints first."""


@TOKENS.register("learned")
class LearnedTokens(nn.Module):
    """Embeddings, as in the paper."""

    def __init__(self, width: int, body: Body) -> None:
        super().__init__()
        self.joints = nn.Parameter(torch.randn(len(body.joint_names), width))
        self.vertices = nn.Parameter(torch.randn(body.levels.sizes[0], width))

    def forward(self) -> Tensor:
        """(J + C, width)."""
        return torch.cat([self.joints, self.vertices])


@TOKENS.register("fourier")
class FourierTokens(LearnedTokens):
    """Embeddings that begin as Fourier features of the places in the rest mesh, of unit variance: near vertices begin alike."""

    def __init__(self, width: int, body: Body) -> None:
        super().__init__(width, body)
        half = width // 2
        scales_m = torch.logspace(math.log10(0.08), math.log10(0.8), half)
        frequencies = torch.randn(3, half) / scales_m
        with torch.no_grad():
            for tokens, places_m in zip((self.joints, self.vertices), rest_places_m(body), strict=True):
                # Another phase for joints: a joint is no vertex.
                phase = places_m.to(frequencies) @ frequencies + 2 * math.pi * torch.rand(half)
                tokens.copy_(math.sqrt(2) * torch.cat([phase.sin(), phase.cos()], 1))


@TOKENS.register("template")
class TemplateTokens(nn.Module):
    """A human mesh for input: the rest mesh's coordinates, projected linearly. The baseline of the supplement's Table B1."""

    def __init__(self, width: int, body: Body) -> None:
        super().__init__()
        self.register_buffer("places_m", torch.cat(rest_places_m(body)), persistent=False)
        self.projection = nn.Linear(3, width)

    def forward(self) -> Tensor:
        """(J + C, width)."""
        return self.projection(self.places_m)


def rest_places_m(body: Body) -> tuple[Tensor, Tensor]:
    """Where joints (J, 3) and coarse vertices (C, 3) rest, metres, float32. Raises InputError when that is not known."""
    template_m = body.levels.template_m
    if template_m is None:
        raise InputError(f"tokens from the rest mesh: the rest mesh of the body {body.name!r} is not known; it comes with an SMPL model")
    joints_m = np.asarray(body.joint_regressor @ template_m, np.float32)
    return torch.from_numpy(joints_m), torch.from_numpy(template_m[np.asarray(body.levels.coarse_ids)])
