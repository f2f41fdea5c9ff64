"""The training loss: a dict of named terms, weighed in one place.

Metres and crop units; everything in float32. Predictions are centred first, as the release does, so that the network is free in
where it puts the pelvis: joints on the middle of the hips, vertices on the body's pelvis.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from core.bodies import Body
from core.errors import InputError
from core.geometry import hip_centred, project
from core.mesh import edges_of
from core.model import Prediction
from core.training.settings import setting


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of values (B, ...) weighed by `valid` (B,) or (B, ... leading dimensions); 0 when nothing is valid."""
    weight = valid.to(values).view(*valid.shape, *[1] * (values.dim() - valid.dim())).expand_as(values)
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


MEANS = ("weighed", "release")


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term. The defaults keep the proportions of the recipe that was tried; PAPER_WEIGHTS are the paper's."""

    vertices_coarse: float = setting(1.0, "L1 of the coarse vertices in metres")
    vertices_intermediate: float = setting(1.0, "L1 of the intermediate vertices in metres")
    joints_token: float = setting(2.0, "L1 of the joint tokens in metres")
    joints_mesh: float = setting(2.0, "L1 of the joints regressed from the mesh in metres")
    projection_mesh: float = setting(0.4, "L1 of the projected mesh joints in crop units")
    projection_token: float = setting(0.2, "L1 of the projected joint tokens in crop units")
    camera: float = setting(0.1, "L1 of the camera (scale, tx, ty)")
    edges: float = setting(1.0, "L1 of the edge lengths of the intermediate mesh in metres")
    normals: float = setting(0.05, "|cosine| between predicted edges and true face normals; 0 = off")
    vertices_full: float = setting(0.0, "L1 of the full mesh's vertices in metres, for data that have it; 0 = off")
    edge_length: float = setting(0.0, "mean edge length of the intermediate mesh in metres; 0 = off")
    hidden_joints: float = setting(0.3, "weight of a hidden joint in 2D, where a visible one has 1")
    mean: str = setting(
        "weighed", "joints with a confidence: weighed divides by the sum of confidences, release by the number of joints", MEANS
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name == "mean":
                if value not in MEANS:
                    raise InputError(f"loss mean: got {value!r}, expected one of {', '.join(MEANS)}")
            elif not 0 <= value < float("inf"):
                raise InputError(f"loss weight {entry.name}: got {value}, expected 0 or more")


PAPER_WEIGHTS = LossWeights(
    joints_token=1000.0, joints_mesh=1000.0,
    vertices_coarse=25.0, vertices_intermediate=50.0, vertices_full=25.0,
    projection_token=100.0, projection_mesh=100.0,
    camera=0.0, edges=0.0, normals=0.0, hidden_joints=0.0, mean="release",
)  # fmt: skip
"""1000 x 3D joints, 100 x vertices in shares of 0.25, 0.5, 0.25, 100 x 2D joints. Source: the release's run_fastmetro_bodymesh.py, whose
further 100 x (5 x edge lengths + 0.1 x normals + 1e-4 x mean edge length) is edges 500, normals 10, edge_length 0.01 here."""


@dataclass(frozen=True)
class Targets:
    """The truth of a batch as float32 tensors; shapes as in shards.Truth.

    What is None does not exist in these data. A mask of None stands for ones.
    full_m: (B, V, 3) pelvis at 0                        has_mesh, has_full: (B,) whose intermediate and full vertices are known
    joint_confidence: (B, 14) of joints_m                has_camera: (B,) whose camera is known
    rotmats, shape: (B, J, 3, 3), (B, S) parameters of the body; has_parameters: (B,)
    """

    intermediate_m: Tensor
    joints_m: Tensor
    joints_crop: Tensor
    joint_visibility: Tensor
    camera: Tensor
    full_m: Tensor | None = None
    has_mesh: Tensor | None = None
    has_full: Tensor | None = None
    joint_confidence: Tensor | None = None
    has_camera: Tensor | None = None
    rotmats: Tensor | None = None
    shape: Tensor | None = None
    has_parameters: Tensor | None = None


def sample_mean(values: Tensor, has: Tensor | None) -> Tensor:
    """Mean over the samples (B, ...) that have a truth, all of them for None; 0 when none has."""
    return values.mean() if has is None else masked_mean(values, has)


def joint_mean(values: Tensor, confidence: Tensor | None, mean: str, counted: Tensor | None = None) -> Tensor:
    """Mean of errors (B, J, K) of joints with confidence (B, J), None = ones; 0 when none has any.

    mean: "weighed" divides by the sum of the confidences; "release" multiplies by them and takes the plain mean over all joints of the
    samples that are `counted` (B,), all where None, as the release does
    """
    if confidence is None:
        return values.mean()
    if mean == "weighed":
        return masked_mean(values, confidence)
    return sample_mean(values * confidence[..., None], counted)


def pelvis_row(body: Body) -> Tensor:
    """(V,) how the pelvis is mixed from the full mesh: it is linear in the vertices, so that its gradient says it."""
    vertices = torch.zeros(1, body.levels.sizes[2], 3, requires_grad=True)
    with torch.enable_grad():
        return torch.autograd.grad(body.pelvis(vertices)[0, 0], vertices)[0][0, :, 0]


class Criterion(nn.Module):
    """Prediction and truth -> total loss and its named, unweighted terms.

    The full mesh has a term of its own only where `vertices_full` is set: it follows from the intermediate one by a fixed matrix, and
    up-sampling 13,718 vertices forward and backward would cost as much as the rest of the head.
    """

    def __init__(self, body: Body, weights: LossWeights) -> None:
        super().__init__()
        self.weights = weights
        levels = body.levels
        rows = np.concatenate([body.joint_regressor.toarray(), pelvis_row(body).numpy()[None]])
        self.register_buffer("from_full", torch.from_numpy(rows.astype(np.float32)), persistent=False)
        from_intermediate = (levels.upsample[1].T @ rows.T).T
        self.register_buffer("from_intermediate", torch.from_numpy(from_intermediate.astype(np.float32)), persistent=False)
        intermediate_ids = {int(vertex): row for row, vertex in enumerate(levels.intermediate_ids)}
        coarse_rows = torch.tensor([intermediate_ids[int(vertex)] for vertex in levels.coarse_ids])
        self.register_buffer("coarse_rows", coarse_rows, persistent=False)
        self.register_buffer("edge_ends", torch.from_numpy(edges_of(levels.intermediate_faces).astype(np.int64)), persistent=False)
        self.register_buffer("faces", torch.from_numpy(levels.intermediate_faces.astype(np.int64)), persistent=False)
        if weights.edges + weights.normals + weights.edge_length > 0 and not len(self.faces):
            raise InputError(f"edge and normal losses: the body {body.name!r} has no triangles here; set them to 0 or add its mesh file")

    @property
    def num_levels(self) -> int:
        """Mesh levels that a prediction must hold."""
        return 3 if self.weights.vertices_full else 2

    def joints_and_pelvis(self, intermediate_m: Tensor, full_m: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Joints (B, 14, 3) and pelvis (B, 1, 3) regressed from the full mesh where it is given, else from the intermediate one."""
        points = self.from_intermediate @ intermediate_m if full_m is None else self.from_full @ full_m
        return points[:, :-1], points[:, -1:]

    def joints(self, intermediate_m: Tensor) -> Tensor:
        """Joints regressed from the intermediate mesh: (B, V', 3) -> (B, 14, 3)."""
        return self.joints_and_pelvis(intermediate_m)[0]

    def forward(self, prediction: Prediction, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its terms. Needs the coarse and the intermediate level of the prediction, and the full one where it is weighed."""
        coarse, intermediate, full = (None if level is None else level.float() for level in prediction.levels)
        camera, token = prediction.camera.float(), hip_centred(prediction.joints.float())
        joints, pelvis = self.joints_and_pelvis(intermediate, full)
        coarse, intermediate, joints = coarse - pelvis, intermediate - pelvis, joints - pelvis
        true, has_mesh = targets.intermediate_m, targets.has_mesh
        terms = {
            "vertices_coarse": sample_mean((coarse - true[:, self.coarse_rows]).abs(), has_mesh),
            "vertices_intermediate": sample_mean((intermediate - true).abs(), has_mesh),
            **self._joint_terms({"mesh": joints, "token": token}, camera, targets),
            "camera": sample_mean((camera - targets.camera).abs(), targets.has_camera),
        }
        if full is not None and targets.full_m is not None and self.weights.vertices_full:
            terms["vertices_full"] = sample_mean((full - pelvis - targets.full_m).abs(), targets.has_full)
        if self.weights.edges or self.weights.normals or self.weights.edge_length:
            terms |= self._surface_terms(intermediate, true, has_mesh)
        return sum(getattr(self.weights, name) * term for name, term in terms.items()), terms

    def _joint_terms(self, joints: dict[str, Tensor], camera: Tensor, targets: Targets) -> dict[str, Tensor]:
        """3D and 2D terms of joints (B, 14, 3) from the mesh and from the tokens: in 3D centred on the hips, projected as they are."""
        confidence = targets.joint_confidence
        counted = None if confidence is None else (confidence > 0).any(1)
        seen = targets.joint_visibility + (1 - targets.joint_visibility) * self.weights.hidden_joints
        terms = {}
        for kind, points in joints.items():
            terms[f"joints_{kind}"] = joint_mean((hip_centred(points) - targets.joints_m).abs(), confidence, self.weights.mean, counted)
            distance = (project(points, camera) - targets.joints_crop).abs()
            terms[f"projection_{kind}"] = joint_mean(distance, seen, self.weights.mean)
        return terms

    def _surface_terms(self, predicted_m: Tensor, true_m: Tensor, has_mesh: Tensor | None) -> dict[str, Tensor]:
        """Edge lengths and, unless their weights are 0, directions. Vertices first, so that picking edges copies whole rows."""
        predicted = predicted_m.permute(1, 2, 0).contiguous()  # (V', 3, B)
        true = true_m.permute(1, 2, 0).contiguous()
        ends = self.edge_ends.unbind(1)
        lengths = [_lengths(points.index_select(0, ends[0]) - points.index_select(0, ends[1])) for points in (predicted, true)]
        terms = {"edges": sample_mean((lengths[0] - lengths[1]).abs().T, has_mesh)}
        if self.weights.edge_length:
            terms["edge_length"] = sample_mean(lengths[0].T, has_mesh)
        if self.weights.normals:
            terms["normals"] = self._normal_term(predicted, true, has_mesh)
        return terms

    def _normal_term(self, predicted: Tensor, true: Tensor, has_mesh: Tensor | None) -> Tensor:
        """Mean |cosine| between predicted edges of each face and the true normal of that face: two edges, three as the release has it."""
        a, b, c = (true.index_select(0, corner) for corner in self.faces.unbind(1))
        normals = torch.linalg.cross(b - a, c - a, dim=1)
        normals = normals / _lengths(normals)[:, None]
        a, b, c = (predicted.index_select(0, corner) for corner in self.faces.unbind(1))
        edges = (b - a, c - a, c - b) if self.weights.mean == "release" else (b - a, c - a)
        cosines = [((edge * normals).sum(1) / _lengths(edge)).abs() for edge in edges]  # (F, B)
        return sum(sample_mean(cosine.T, has_mesh) for cosine in cosines) / len(cosines)


def _lengths(vectors: Tensor) -> Tensor:
    """(N, 3, B) -> (N, B), with a gradient at 0 as well."""
    return (vectors.square().sum(1) + 1e-10).sqrt()
