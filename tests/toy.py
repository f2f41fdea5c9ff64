"""A body of 30 vertices and a backbone of two convolutions: tests run forward and backward in milliseconds."""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from core.backbones import KeypointChannels
from core.config import ModelConfig
from core.joints import JOINT_NAMES, KEYPOINT_NAMES
from core.mesh import MeshLevels

RINGS, SIDES = 6, 5


def tube() -> tuple[np.ndarray, np.ndarray]:
    """A closed tube, 1.5 m tall: (30, 3) vertices in camera axes, (50, 3) triangles."""
    angle = 2 * np.pi * np.arange(SIDES) / SIDES
    ring = np.stack([0.2 * np.cos(angle), np.zeros(SIDES), 0.2 * np.sin(angle)], 1)
    heights = np.linspace(-0.75, 0.75, RINGS)
    vertices = np.concatenate([ring + np.array([0.0, height, 0.0]) for height in heights])
    faces = []
    for row in range(RINGS - 1):
        for side in range(SIDES):
            a, b = row * SIDES + side, row * SIDES + (side + 1) % SIDES
            faces += [[a, b, a + SIDES], [b, b + SIDES, a + SIDES]]
    return vertices.astype(np.float32), np.array(faces, np.int32)


def mixing(source: np.ndarray, target: np.ndarray) -> csr_matrix:
    """(T, S) float32: each target vertex as the affine mixture of its eight nearest source vertices that reproduces it best."""
    rows = np.zeros((len(target), len(source)))
    for index, place in enumerate(target):
        near = np.argsort(np.linalg.norm(source - place, axis=1))[:8]
        system = np.concatenate([source[near].T, np.ones((1, len(near)))])
        rows[index, near] = np.linalg.lstsq(system, np.append(place, 1.0), rcond=None)[0]
    return csr_matrix(rows.astype(np.float32))


def toy_levels() -> MeshLevels:
    """Levels of 6, 12 and 30 vertices."""
    vertices, faces = tube()
    intermediate_ids = np.array([0, 7, 14, 16, 23, 29, 2, 4, 11, 18, 25, 27])
    coarse_ids = intermediate_ids[:6]
    adjacency = np.linalg.norm(vertices[coarse_ids][:, None] - vertices[coarse_ids], axis=-1) < 0.6
    return MeshLevels(
        template_m=vertices,
        faces=faces,
        intermediate_faces=np.array([[0, 1, 2], [3, 4, 5]], np.int32),
        coarse_ids=coarse_ids,
        intermediate_ids=intermediate_ids,
        coarse_adjacency=adjacency | np.eye(6, dtype=bool),
        upsample=(mixing(vertices[coarse_ids], vertices[intermediate_ids]), mixing(vertices[intermediate_ids], vertices)),
    )


@dataclass(frozen=True)
class ToyBody:
    """The body contract on a tube. `shape` (B, 1) stretches it, `pose` (B, 1, 3, 3) turns it."""

    name: str = "toy"
    joint_names: tuple[str, ...] = JOINT_NAMES
    levels: MeshLevels = field(default_factory=toy_levels)
    num_bones: int = 1
    num_shape: int = 1
    parameter_names: tuple[str, str] = ("rotmats", "stretch")
    parameter_labels: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def faces(self) -> np.ndarray:
        """(F, 3) int32."""
        return self.levels.faces

    @property
    def joint_regressor(self) -> csr_matrix:
        """(14, V): each joint between two opposite vertices."""
        rows = np.zeros((14, 30), np.float32)
        for joint in range(14):
            rows[joint, [2 * joint, (2 * joint + 15) % 30]] = 0.5
        return csr_matrix(rows)

    def to(self, device: torch.device | str) -> "ToyBody":
        """Nothing to move."""
        del device
        return self

    def vertices(self, pose: Tensor, shape: Tensor) -> Tensor:
        """(B, V, 3) metres."""
        return torch.einsum("bij,bvj->bvi", pose[:, 0], torch.from_numpy(self.levels.template_m) * (1 + shape[:, None]))

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def joints(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 14, 3)."""
        return torch.from_numpy(self.joint_regressor.toarray()).to(vertices) @ vertices

    def pelvis(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 3), the midpoint of the hips."""
        return self.joints(vertices)[:, 2:4].mean(1)


class ToyBackbone(nn.Module):
    """(B, 3, H, W) -> (B, 8, H/32, W/32)."""

    channels, stride = 8, 32
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    unused = ()

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 32, 32)
        self.mix = nn.Conv2d(8, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.tail(*self.frozen(images))

    def frozen(self, images: Tensor) -> tuple[Tensor, ...]:
        """As the backbone contract says."""
        return (self.patch(images),)

    def tail(self, *kept: Tensor) -> Tensor:
        """As the backbone contract says."""
        return self.mix(kept[0].relu())

    def tail_parameters(self) -> list[nn.Parameter]:
        """As the backbone contract says."""
        return list(self.mix.parameters())


class ToySeer(nn.Module):
    """A backbone that sees keypoints: (B, 3, H, W) -> (B, 8 + 51, H/32, W/32)."""

    num_keypoints = len(KEYPOINT_NAMES)
    channels, stride = 8 + 3 * num_keypoints, 32
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    unused = ()
    keypoint_channels = KeypointChannels(8, 2.0)

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, self.channels, 32, 32)

    def forward(self, images: Tensor) -> Tensor:
        """Some features, then evidence: peaks in 0..1, and these times a place in the cell."""
        features, peak, place = self.patch(images).split([8, self.num_keypoints, 2 * self.num_keypoints], 1)
        peak = peak.sigmoid()
        return torch.cat([features, 2 * peak, 2 * torch.cat([peak, peak], 1) * place.tanh()], 1)


def toy_backbone(config: ModelConfig) -> nn.Module:
    """One that the config can live with."""
    return ToySeer() if config.feedback else ToyBackbone()
