"""Scores during training on a data set of pictures, and some of its people drawn. The official protocol is core.training.evaluate's."""

import numpy as np
import torch

from core.errors import InputError
from core.geometry import HALF_CROP_PX
from core.training.batches import Batch
from core.training.crew import Crew
from core.training.metrics import Estimates, Scores, facing_errors_deg, mpjpe_mm, mpvpe_mm, pa_mpjpe_mm
from core.training.objective import Objective, as_array
from core.training.pictures import plain_batches
from core.training.samples import SampleDataset
from core.training.sheet import Panel
from core.training.truth import TargetMaker
from core.training.validation import spread
from core.types import MeshEstimate

NUM_DRAWN = 8
IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
MEASURES = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "facing_deg", "projection_px")

NOBODY = np.empty((0, len(MEASURES)))


class PictureValidation:
    """A fixed part of a data set, shared out among the processes.

    After `scores` there are `panels`, people drawn by the leader, and where the body's parameters are learned `parametric`, the scores of
    the mesh that they pose.
    """

    shared = True

    def __init__(self, people: SampleDataset, limit: int, maker: TargetMaker, batch_size: int, num_workers: int) -> None:
        """limit: at most so many people, spread evenly over the set; 0 = all."""
        self.people, self.maker, self.batch_size, self.num_workers = people, maker, batch_size, num_workers
        self.chosen = spread(len(people), limit)
        self.panels: list[Panel] = []
        self.parametric: Scores | None = None

    def scores(self, objective: Objective, crew: Crew) -> tuple[Scores, None]:
        """Means over the people for whom there is such a truth; NaN where there is nobody. Raises InputError where all are broken."""
        objective.model.eval()
        rows = crew.share(self.chosen)
        drawn = set(spread(len(rows), NUM_DRAWN).tolist()) if crew.leads and len(rows) else set()
        measured, posed, self.panels, seen = [], [], [], 0
        for batch, pictures in plain_batches(self.people, rows, self.batch_size, self.maker, self.num_workers):
            full = batch.targets.full_m is not None
            prediction = objective.prediction(batch.features, pictures=True, num_levels=3 if full else 2)
            errors = person_errors(objective.free_estimates(prediction, full), batch, full)
            measured.append(errors)
            parametric = objective.posed_estimates(prediction, full)
            if parametric is not None:
                posed.append(person_errors(parametric, batch, full))
            wanted = [index - seen for index in sorted(drawn) if seen <= index < seen + len(batch)]
            if wanted:
                self.panels += panels_of(objective, batch, pictures.numpy(), errors[:, 0], wanted)
            seen += len(batch)
        every = zip(*crew.gathered((measured, posed)), strict=True)
        free, parametric = (np.concatenate([NOBODY, *(part for parts in kind for part in parts)]) for kind in every)
        if not len(free):
            raise InputError(f"validation: all {len(self.chosen)} people looked at are broken; mend data.validation, or leave it out")
        self.parametric = scores_of(parametric) if len(parametric) else None
        return scores_of(free), None


def person_errors(predicted: Estimates, batch: Batch, full: bool) -> np.ndarray:
    """(B, 5) of MEASURES for each person, NaN where there is no truth."""
    targets = batch.targets
    true_joints, confidence, true_crop, seen = (
        as_array(tensor) for tensor in (targets.joints_m, targets.joint_confidence, targets.joints_crop, targets.joint_visibility)
    )
    has_mesh = as_array(targets.has_full if full else targets.has_mesh) > 0
    has_joints = (confidence > 0).all(1)
    distance_px = np.linalg.norm(predicted.joints_crop - true_crop, axis=-1) * HALF_CROP_PX
    weight = (seen > 0.5).astype(np.float64)
    counted = weight.sum(1)
    vertex_errors = mpvpe_mm(predicted.vertices_m, as_array(targets.full_m if full else targets.intermediate_m))
    columns = (
        np.where(has_joints, mpjpe_mm(predicted.joints_m, true_joints), np.nan),
        np.where(has_joints, pa_mpjpe_mm(predicted.joints_m, true_joints), np.nan),
        np.where(has_mesh, vertex_errors, np.nan),
        np.where(has_joints, facing_errors_deg(predicted.joints_m, true_joints), np.nan),
        np.where(counted > 0, (distance_px * weight).sum(1) / np.maximum(counted, 1), np.nan),
    )
    return np.stack(columns, 1)


def scores_of(errors: np.ndarray) -> Scores:
    """Means of (N, 5) errors; NaN or None where nobody has that truth."""
    known = {name: column[~np.isnan(column)] for name, column in zip(MEASURES, errors.T, strict=True)}
    mean = {name: float(column.mean()) if len(column) else None for name, column in known.items()}
    facing = known["facing_deg"] if len(known["facing_deg"]) else np.full(1, np.nan)
    over_60, over_120 = (float((facing > limit).mean()) if len(known["facing_deg"]) else float("nan") for limit in (60, 120))
    return Scores(
        num_people=len(errors),
        mpjpe_mm=float("nan") if mean["mpjpe_mm"] is None else mean["mpjpe_mm"],
        pa_mpjpe_mm=float("nan") if mean["pa_mpjpe_mm"] is None else mean["pa_mpjpe_mm"],
        mpvpe_mm=mean["mpvpe_mm"],
        facing_error_median_deg=float(np.median(facing)),
        facing_over_60_deg=over_60,
        projection_error_px=mean["projection_px"],
        facing_over_120_deg=over_120,
    )


def panels_of(objective: Objective, batch: Batch, pictures: np.ndarray, errors_mm: np.ndarray, rows: list[int]) -> list[Panel]:
    """These people of a batch with their estimates."""
    chosen = torch.tensor(rows, device=objective.device)
    prediction = objective.prediction((batch.features[0][chosen],), pictures=True, num_levels=3)
    levels = [level.float() for level in prediction.levels]
    joints, pelvis = objective.criterion.joints_and_pelvis(levels[1], levels[2])
    vertices_m, joints_m, cameras = (as_array(tensor) for tensor in (levels[2] - pelvis, joints - pelvis, prediction.camera))
    panels = []
    for place, row in enumerate(rows):
        camera = cameras[place]
        joints_px = (camera[0] * (joints_m[place, :, :2] + camera[1:]) + 1) * HALF_CROP_PX
        estimate = MeshEstimate(vertices_m[place], joints_m[place], joints_px.astype(np.float32), camera, IDENTITY)
        true_px = (as_array(batch.targets.joints_crop[row]) + 1) * HALF_CROP_PX
        said = "no 3D truth" if np.isnan(errors_mm[row]) else f"{errors_mm[row]:.0f} mm"
        seen = as_array(batch.targets.joint_visibility[row]) > 0.5
        true_m = None if np.isnan(errors_mm[row]) else as_array(batch.targets.joints_m[row])
        panels.append(Panel(pictures[row], estimate, true_px, seen, float(errors_mm[row]), f"{batch.keys[row]} {said}", true_m))
    return panels
