"""Network and criterion as one module: a batch in, the loss and its terms out. What runs in parallel and is compiled is this."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from core.geometry import project
from core.model import FastMETRO, Prediction
from core.training.losses import Criterion, Targets
from core.training.metrics import Estimates
from core.training.parametric import ParametricCriterion


class Objective(nn.Module):
    """A model at the precision of the training, seen from cached features or from pictures."""

    def __init__(
        self, model: FastMETRO, criterion: Criterion, parametric: ParametricCriterion | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.model, self.criterion, self.parametric, self.dtype = model, criterion, parametric, dtype
        self.predict: Callable[..., Prediction] = self._predict
        # What is learned must be used, or nothing would reach it.
        self.num_levels = max(criterion.num_levels, 3 if next(model.upsampling[1].parameters(), None) is not None else 2)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def autocast(self) -> torch.autocast:
        """The precision of the training as a context."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def compile(self, mode: str) -> None:
        """Let torch.compile work on the network; the losses stay as they are."""
        self.predict = torch.compile(self._predict, mode=mode)

    def _predict(self, features: tuple[Tensor, ...], pictures: bool, num_levels: int) -> Prediction:
        backbone = self.model.backbone
        return self.model.decode(backbone(*features) if pictures else backbone.tail(*features), num_levels)

    def forward(self, features: tuple[Tensor, ...], targets: Targets, pictures: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms of a batch's fields."""
        with self.autocast():
            prediction = self.predict(features, pictures, self.num_levels)
        loss, terms = self.criterion(prediction, targets)
        if self.parametric is not None:
            extra_loss, extra_terms = self.parametric(prediction, targets)
            loss, terms = loss + extra_loss, terms | extra_terms
        return loss, terms

    @torch.inference_mode()
    def prediction(self, features: tuple[Tensor, ...], pictures: bool = False, num_levels: int = 2) -> Prediction:
        """What the network says, in float32."""
        with self.autocast():
            return self._predict(features, pictures, num_levels)

    @torch.inference_mode()
    def estimates(self, features: tuple[Tensor, ...], pictures: bool = False, full: bool = False) -> Estimates:
        """Pelvis-centred meshes of the intermediate or the full level, their joints, and these projected."""
        return self.free_estimates(self.prediction(features, pictures, 3 if full else 2), full)

    @torch.inference_mode()
    def free_estimates(self, prediction: Prediction, full: bool) -> Estimates:
        """Of the mesh as the network says it."""
        levels = [None if level is None else level.float() for level in prediction.levels]
        joints, pelvis = self.criterion.joints_and_pelvis(levels[1], levels[2])
        return centred_estimates(joints, levels[2] if full else levels[1], pelvis, prediction)

    @torch.inference_mode()
    def posed_estimates(self, prediction: Prediction, full: bool) -> Estimates | None:
        """Likewise of the mesh that the body's parameters pose; None unless their regressor is trained."""
        if self.parametric is None:
            return None
        body = self.parametric.body
        vertices = body.vertices(prediction.rotmats.float(), prediction.betas.float())
        points = self.parametric.from_full @ vertices
        return centred_estimates(
            points[:, :-1], vertices if full else vertices[:, body.levels.intermediate_ids], points[:, -1:], prediction
        )


def centred_estimates(joints: Tensor, vertices: Tensor, pelvis: Tensor, prediction: Prediction) -> Estimates:
    """joints: (B, 14, 3); vertices: (B, V, 3); pelvis: (B, 1, 3); seen by the prediction's camera."""
    projected = project(joints - pelvis, prediction.camera.float())
    return Estimates(*(as_array(tensor) for tensor in (joints - pelvis, vertices - pelvis, projected)))


def as_array(tensor: Tensor) -> np.ndarray:
    """On the CPU, as NumPy has it."""
    return tensor.float().cpu().numpy()
