"""The training loss: a dict of named terms, weighed in one place.

Metres and crop units; everything in float32. Predictions are centred on the hips first, as the release does, so that the
network is free in where it puts the pelvis.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from core.bodies import Body
from core.geometry import project
from core.joints import indices
from core.mesh import edges_of
from core.model import Prediction

HIPS = indices(("R_Hip", "L_Hip"))


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of values (B, ...) weighed by `valid` (B,) or (B, ... leading dimensions); 0 when nothing is valid."""
    weight = valid.to(values).view(*valid.shape, *[1] * (values.dim() - valid.dim())).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term. The defaults keep the proportions of the recipe that was tried; see each field."""

    vertices_coarse: float = field(default=1.0, metadata={"help": "L1 of the coarse vertices in metres"})
    vertices_intermediate: float = field(default=1.0, metadata={"help": "L1 of the intermediate vertices in metres"})
    joints_token: float = field(default=2.0, metadata={"help": "L1 of the joint tokens in metres"})
    joints_mesh: float = field(default=2.0, metadata={"help": "L1 of the joints regressed from the mesh in metres"})
    projection_mesh: float = field(default=0.4, metadata={"help": "L1 of the projected mesh joints in crop units"})
    projection_token: float = field(default=0.2, metadata={"help": "L1 of the projected joint tokens in crop units"})
    camera: float = field(default=0.1, metadata={"help": "L1 of the camera (scale, tx, ty)"})
    edges: float = field(default=1.0, metadata={"help": "L1 of the edge lengths of the intermediate mesh in metres"})
    normals: float = field(default=0.05, metadata={"help": "|cosine| between predicted edges and true face normals; 0 = off"})
    hidden_joints: float = field(default=0.3, metadata={"help": "weight of a hidden joint in 2D, where a visible one has 1"})


@dataclass(frozen=True)
class Targets:
    """The truth of a batch as float32 tensors; shapes as in shards.Truth."""

    intermediate_m: Tensor
    joints_m: Tensor
    joints_crop: Tensor
    joint_visibility: Tensor
    camera: Tensor


class Criterion(nn.Module):
    """Prediction and truth -> total loss and its named, unweighted terms.

    The full mesh has no term of its own: it follows from the intermediate one by a fixed matrix, and up-sampling 13,718
    vertices forward and backward would cost as much as the rest of the head.
    """

    def __init__(self, body: Body, weights: LossWeights) -> None:
        super().__init__()
        self.weights = weights
        levels = body.levels
        joints_from_intermediate = (body.joint_regressor @ levels.upsample[1]).toarray()
        self.register_buffer("joint_regressor", torch.from_numpy(joints_from_intermediate.astype(np.float32)))
        intermediate_ids = {int(vertex): row for row, vertex in enumerate(levels.intermediate_ids)}
        self.register_buffer("coarse_rows", torch.tensor([intermediate_ids[int(vertex)] for vertex in levels.coarse_ids]))
        self.register_buffer("edges", torch.from_numpy(edges_of(levels.intermediate_faces).astype(np.int64)))
        self.register_buffer("faces", torch.from_numpy(levels.intermediate_faces.astype(np.int64)))

    def joints(self, intermediate_m: Tensor) -> Tensor:
        """Joints regressed from the intermediate mesh: (B, V', 3) -> (B, 14, 3)."""
        return self.joint_regressor @ intermediate_m

    def forward(self, prediction: Prediction, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its terms. Needs the coarse and the intermediate level of the prediction."""
        coarse, intermediate = (level.float() for level in prediction.levels[:2])
        camera, token = prediction.camera.float(), prediction.joints.float()
        joints = self.joints(intermediate)
        pelvis = joints[:, HIPS].mean(1, keepdim=True)
        coarse, intermediate, joints = coarse - pelvis, intermediate - pelvis, joints - pelvis
        token = token - token[:, HIPS].mean(1, keepdim=True)
        seen = targets.joint_visibility + (1 - targets.joint_visibility) * self.weights.hidden_joints
        true = targets.intermediate_m
        terms = {
            "vertices_coarse": (coarse - true[:, self.coarse_rows]).abs().mean(),
            "vertices_intermediate": (intermediate - true).abs().mean(),
            "joints_token": (token - targets.joints_m).abs().mean(),
            "joints_mesh": (joints - targets.joints_m).abs().mean(),
            "projection_mesh": masked_mean((project(joints, camera) - targets.joints_crop).abs(), seen),
            "projection_token": masked_mean((project(token, camera) - targets.joints_crop).abs(), seen),
            "camera": (camera - targets.camera).abs().mean(),
        }
        if self.weights.edges or self.weights.normals:
            terms |= self._surface_terms(intermediate, true)
        return sum(getattr(self.weights, name) * term for name, term in terms.items()), terms

    def _surface_terms(self, predicted_m: Tensor, true_m: Tensor) -> dict[str, Tensor]:
        """Edge lengths and, unless its weight is 0, directions. Vertices first, so that picking edges copies whole rows."""
        predicted = predicted_m.permute(1, 2, 0).contiguous()  # (V', 3, B)
        true = true_m.permute(1, 2, 0).contiguous()
        ends = self.edges.unbind(1)
        lengths = [_lengths(points.index_select(0, ends[0]) - points.index_select(0, ends[1])) for points in (predicted, true)]
        terms = {"edges": (lengths[0] - lengths[1]).abs().mean()}
        if self.weights.normals:
            terms["normals"] = self._normal_term(predicted, true)
        return terms

    def _normal_term(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Mean |cosine| between two predicted edges of each face and the true normal of that face."""
        a, b, c = (true.index_select(0, corner) for corner in self.faces.unbind(1))
        normals = torch.linalg.cross(b - a, c - a, dim=1)
        normals = normals / _lengths(normals)[:, None]
        a, b, c = (predicted.index_select(0, corner) for corner in self.faces.unbind(1))
        cosines = [((edge * normals).sum(1) / _lengths(edge)).abs().mean() for edge in (b - a, c - a)]
        return sum(cosines) / len(cosines)


def _lengths(vectors: Tensor) -> Tensor:
    """(N, 3, B) -> (N, B), with a gradient at 0 as well."""
    return (vectors.square().sum(1) + 1e-10).sqrt()
