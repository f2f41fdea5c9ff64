"""From the intermediate mesh to the body's own parameters: a rotation for each bone, and the shape.

For SMPL 24 rotations and 10 betas, for Anny 104 rotations and 6 phenotype values.
Source: the SMPL parameter regressor of the FastMETRO release
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.geometry import nearest_orthogonal, nearest_rotations
from core.registry import Registry

WIDTH = 1024
NUM_BLOCKS = 2

ROTATIONS: Registry[Callable[[Tensor], Tensor]] = Registry("way to make rotations")
"""Name -> function from any matrices (..., 3, 3) to rotation matrices."""


ROTATIONS.register("nearest")(nearest_rotations)


@ROTATIONS.register("released")
def released_rotations(matrices: Tensor) -> Tensor:
    """The release's way: where U V^T is a reflection, the whole matrix is negated.

    That is a rotation, but not the nearest one. An upstream quirk, kept because the official weights were trained with it.
    """
    orthogonal = nearest_orthogonal(matrices)
    return orthogonal * torch.linalg.det(orthogonal.detach())[..., None, None]


class Residual(nn.Sequential):
    """Two dense layers, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, width)."""
        return torch.relu(x + super().forward(x))


@dataclass(frozen=True)
class Reading:
    """What the regressor's numbers mean: 9 for each bone's rotation, then the shape."""

    num_bones: int
    num_shape: int
    to_rotations: Callable[[Tensor], Tensor]

    def __call__(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 9 J + S) -> rotations (B, J, 3, 3), shape (B, S)."""
        numbers = numbers if numbers.dtype == torch.float64 else numbers.float()
        matrices, shape = numbers.split([9 * self.num_bones, self.num_shape], 1)
        with torch.autocast(numbers.device.type, enabled=False):  # rotations want the precision, and no SVD takes bfloat16
            return self.to_rotations(matrices.unflatten(1, (self.num_bones, 3, 3))), shape


class BodyRegressor(nn.Module):
    """Vertices (B, V, 3) -> rotations (B, J, 3, 3) and shape (B, S). The mesh is detached: learning this leaves the mesh alone."""

    def __init__(self, num_vertices: int, num_bones: int, num_shape: int, rotations: str) -> None:
        super().__init__()
        self.reading = Reading(num_bones, num_shape, ROTATIONS[rotations])
        self.entry = nn.Sequential(nn.Linear(3 * num_vertices, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
        self.blocks = nn.Sequential(*(Residual(WIDTH) for _ in range(NUM_BLOCKS)))
        self.exit = nn.Linear(WIDTH, 9 * num_bones + num_shape)

    def forward(self, vertices: Tensor) -> tuple[Tensor, Tensor]:
        """vertices: (B, V, 3) the intermediate mesh as the network says it, not centred."""
        return self.reading(self.numbers(vertices))

    def numbers(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 9 J + S), for `reading`."""
        return self.exit(self.blocks(self.entry(vertices.detach().flatten(1))))
