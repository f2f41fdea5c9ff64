"""Learning body parameters from an estimated mesh: the second stage, for SMPL as in the release and for any other body.

The regressor sees the mesh detached, so these terms leave the mesh alone.
Source: the release's smpl loss: MSE of rotations + 0.1 x MSE of betas + L1 of 3D joints, of 2D joints, and of vertices, all x 1000
"""

from dataclasses import dataclass, fields

from torch import Tensor, nn

from core.bodies import Body
from core.errors import InputError
from core.geometry import hip_centred, project
from core.model import Prediction
from core.training.losses import Criterion, Targets, joint_mean, sample_mean
from core.training.settings import setting


@dataclass(frozen=True)
class ParametricWeights:
    """Weight of each term of the body's parameters; all 0 = the regressor is not trained."""

    rotations: float = setting(0.0, "mean squared error of the bones' rotation matrices")
    shape: float = setting(0.0, "mean squared error of the body's shape (SMPL's betas)")
    parametric_joints: float = setting(0.0, "L1 of the parametric mesh's joints in metres")
    parametric_projection: float = setting(0.0, "L1 of these projected by the estimated camera, in crop units")
    parametric_vertices: float = setting(0.0, "L1 of the parametric mesh's vertices in metres")

    def __post_init__(self) -> None:
        for entry in fields(self):
            if not 0 <= getattr(self, entry.name) < float("inf"):
                raise InputError(f"loss weight {entry.name}: got {getattr(self, entry.name)}, expected 0 or more")

    @property
    def any(self) -> bool:
        """Whether there is anything to train."""
        return any(getattr(self, entry.name) for entry in fields(self))


class ParametricCriterion(nn.Module):
    """Estimated body parameters and truth -> total loss and its named, unweighted terms."""

    def __init__(self, body: Body, weights: ParametricWeights, criterion: Criterion) -> None:
        """criterion: lends its regressor of joints, and how it takes means."""
        super().__init__()
        self.body, self.weights = body, weights
        self.mean = criterion.weights.mean
        self.register_buffer("from_full", criterion.from_full, persistent=False)

    def forward(self, prediction: Prediction, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch in which nobody's parameters are known costs nothing, and gives a gradient of 0."""
        rotmats, shape = prediction.rotmats.float(), prediction.betas.float()
        if targets.rotmats is None or targets.shape is None:
            return 0.0 * (rotmats.sum() + shape.sum()), {}
        has = targets.has_parameters
        terms = {
            "rotations": sample_mean((rotmats - targets.rotmats).square(), has),
            "shape": sample_mean((shape - targets.shape).square(), has),
        }
        if self.weights.parametric_joints or self.weights.parametric_projection or self.weights.parametric_vertices:
            terms |= self._posed_terms(self.body.vertices(rotmats, shape), prediction.camera.detach().float(), targets)
        return sum(getattr(self.weights, name) * term for name, term in terms.items()), terms

    def _posed_terms(self, vertices: Tensor, camera: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Of the mesh (B, V, 3) that the parameters pose. The camera is detached: it is learned from the free mesh."""
        points = self.from_full @ vertices
        pelvis = points[:, -1:]
        joints = points[:, :-1] - pelvis
        confidence = targets.joint_confidence
        counted = None if confidence is None else (confidence > 0).any(1)
        distance = (project(joints, camera) - targets.joints_crop).abs()
        terms = {
            "parametric_joints": joint_mean((hip_centred(joints) - targets.joints_m).abs(), confidence, self.mean, counted),
            "parametric_projection": joint_mean(distance, targets.joint_visibility, self.mean),
        }
        if targets.full_m is not None:
            terms["parametric_vertices"] = sample_mean((vertices - pelvis - targets.full_m).abs(), targets.has_full)
        return terms
