"""Estimates of people against their truth, batch by batch, for sets of any size: what core.training.evaluate reports about 3D."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from core.bodies import Body
from core.errors import InputError
from core.geometry import HALF_CROP_PX, hip_centred, rotmats_from_rotvecs
from core.joints import JOINT_NAMES, LIMB_JOINT_NAMES
from core.training.coco import LIMBS
from core.training.metrics import (
    MM_PER_M,
    PersonErrors,
    accelerations_m_s2,
    aligned_joint_distances_mm,
    correct_keypoints,
    facing_errors_deg,
    joint_distances_mm,
    mpvpe_mm,
)
from core.training.pose_kinds import pose_kinds
from core.training.poses import EVERYDAY_FAMILIES
from core.training.samples import Sample
from core.training.sequences import tracks
from core.training.sheet import Panel
from core.types import MeshEstimate, PersonCrop

log = logging.getLogger(__name__)

ON_INTERMEDIATE = "MPVPE is of the intermediate mesh, as the truth does not hold all vertices"
Meshes = tuple[np.ndarray, np.ndarray]
"""Joints (B, 14, 3) and full mesh (B, V, 3), metres."""


@dataclass(frozen=True)
class Person:
    """What is kept of each person with 3D truth.

    groups: where they belong, by the keys of core.training.tables.GROUPS; "" = unknown
    shape: of the body, None = unknown; joints_m: (2, 14, 3) float32, estimated and true
    """

    key: str
    groups: Mapping[str, str]
    shape: np.ndarray | None
    joints_m: np.ndarray


class PeopleScorer:
    """Takes people in batches, keeps their errors and the worst cases, and reports in the end."""

    def __init__(self, body: Body, num_worst: int, with_motion: bool = True) -> None:
        """with_motion: whether the people come frame by frame, so that those who follow each other tell about motion."""
        self.body, self.num_worst, self.with_motion = body, num_worst, with_motion
        self.people: list[Person] = []
        self.errors: list[PersonErrors] = []
        self.parametric: list[PersonErrors] = []
        self.keypoints = Keypoints()
        self.panels: list[Panel] = []
        self.notes: list[str] = []
        self._can_pose = True

    def add(self, samples: Sequence[Sample], crops: Sequence[PersonCrop], estimates: Sequence[MeshEstimate]) -> None:
        """A batch, one crop and one estimate for each sample."""
        self.keypoints.add(samples, estimates)
        rows = [row for row, sample in enumerate(samples) if sample.has_3d]
        if not rows:
            return
        samples, crops, estimates = ([group[row] for row in rows] for group in (samples, crops, estimates))
        predicted = np.stack([e.joints_m for e in estimates]), np.stack([e.vertices_m for e in estimates])
        true_m = np.stack([sample.joints_3d[:, :3] for sample in samples])
        true_px = np.stack([in_crop(sample, crop) for sample, crop in zip(samples, crops, strict=True)])
        cameras = np.stack([e.camera for e in estimates])
        vertices = self._true_vertices(samples)
        errors = self._errors(predicted, cameras, samples, true_m, true_px, vertices)
        self.errors.append(errors)
        posed = self._posed_estimates(estimates)
        if posed is not None:
            self.parametric.append(self._errors(posed, cameras, samples, true_m, true_px, vertices))
        kinds = pose_kinds(true_m)
        self.people += [
            Person(s.img_key, {"families": s.family, "pose_kinds": kind, **s.labels}, s.betas, np.stack([p, t]).astype(np.float32))
            for s, kind, p, t in zip(samples, kinds, predicted[0], true_m, strict=True)
        ]
        self._keep_worst(samples, crops, estimates, errors, true_m, true_px)

    def _errors(
        self, predicted: Meshes, cameras: np.ndarray, samples: Sequence[Sample], true_m: np.ndarray, true_px: np.ndarray,
        vertices: list[np.ndarray | None],
    ) -> PersonErrors:  # fmt: skip
        joints_m, meshes_m = predicted
        unit = cameras[:, None, :1] * (joints_m[..., :2] + cameras[:, None, 1:])
        errors_mm = np.array([self._vertex_errors(mesh, true) for mesh, true in zip(meshes_m, vertices, strict=True)])
        distance_px = np.linalg.norm((unit + 1) * HALF_CROP_PX - true_px, axis=-1)
        return PersonErrors(
            joints_mm=joint_distances_mm(joints_m, true_m),
            aligned_joints_mm=aligned_joint_distances_mm(joints_m, true_m),
            vertices_mm=errors_mm[:, 0],
            intermediate_mm=errors_mm[:, 1],
            facing_deg=facing_errors_deg(joints_m, true_m),
            projection_px=np.where(np.stack([_seen(sample) for sample in samples]), distance_px, np.nan),
        )

    def _vertex_errors(self, mesh_m: np.ndarray, true_m: np.ndarray | None) -> tuple[float, float]:
        """Mean error of the full mesh and of the intermediate level; where the truth is only the latter, that twice."""
        if true_m is None:
            return float("nan"), float("nan")
        ids = self.body.levels.intermediate_ids
        if mesh_m.shape == true_m.shape:
            distances_m = np.linalg.norm(mesh_m - true_m, axis=-1)
            return float(distances_m.mean()) * MM_PER_M, float(distances_m[ids].mean()) * MM_PER_M
        if len(true_m) != len(ids):
            sizes = " or ".join(map(str, self.body.levels.sizes[1:]))
            raise InputError(f"the truth has {len(true_m)} vertices, the network's body {self.body.name!r} {sizes}")
        self.note(ON_INTERMEDIATE)
        error_mm = float(mpvpe_mm(mesh_m[ids][None], true_m[None])[0])
        return error_mm, error_mm

    def _true_vertices(self, samples: Sequence[Sample]) -> list[np.ndarray | None]:
        """For each sample its mesh with the pelvis at 0: as it came, or posed; None where neither is possible."""
        found = [sample.vertices_m for sample in samples]
        rows = [row for row, sample in enumerate(samples) if found[row] is None and sample.has_smpl]
        if not rows or not self._can_pose:
            return found
        pose = torch.from_numpy(np.stack([samples[row].pose for row in rows]).astype(np.float32))
        shape = torch.from_numpy(np.stack([samples[row].betas for row in rows]).astype(np.float32))
        posed = self._posed(lambda: rotmats_from_rotvecs(pose.unflatten(1, (-1, 3))), shape, "MPVPE is not measured")
        for row, mesh in zip(rows, () if posed is None else posed[1], strict=posed is not None):
            found[row] = mesh
        return found

    def _posed_estimates(self, estimates: Sequence[MeshEstimate]) -> Meshes | None:
        """The meshes of the estimated body parameters; None for networks without."""
        if estimates[0].rotmats is None:
            return None
        rotmats, shape = (torch.from_numpy(np.stack([getattr(e, name) for e in estimates])) for name in ("rotmats", "shape"))
        return self._posed(lambda: rotmats, shape, "the parametric mesh is not measured")

    @torch.inference_mode()
    def _posed(self, rotmats: Callable[[], torch.Tensor], shape: torch.Tensor, consequence: str) -> Meshes | None:
        """Joints and vertices with the pelvis at 0; None, with a note, where the body's model is not there."""
        try:
            vertices = self.body.vertices(rotmats(), shape)
        except InputError as error:
            self._can_pose = False
            self.note(f"{consequence}: {error}")
            return None
        pelvis = self.body.pelvis(vertices)[:, None]
        return (self.body.joints(vertices) - pelvis).numpy(), (vertices - pelvis).numpy()

    def _keep_worst(
        self, samples: Sequence[Sample], crops: Sequence[PersonCrop], estimates: Sequence[MeshEstimate], errors: PersonErrors,
        true_m: np.ndarray, true_px: np.ndarray,
    ) -> None:  # fmt: skip
        means = errors.joints_mm.mean(1)
        for row in np.argsort(-means)[: self.num_worst]:
            sample = samples[row]
            what = sample.family or self.people[len(self.people) - len(samples) + row].groups["pose_kinds"]
            caption = f"{what} {means[row]:.0f} mm, turned {errors.facing_deg[row]:.0f} deg"
            self.panels.append(
                Panel(crops[row].image, estimates[row], true_px[row], _seen(sample), float(means[row]), caption, hip_centred(true_m[row]))
            )
        self.panels = sorted(self.panels, key=lambda panel: -panel.error)[: self.num_worst]

    def note(self, text: str) -> None:
        """Something that a reader of the figures must know, told once."""
        if text not in self.notes:
            self.notes.append(text)
            log.warning("%s", text)

    def report(self) -> dict[str, Any]:
        """All scores as plain values for JSON; what was not measured is not there."""
        found: dict[str, Any] = {"notes": self.notes} if self.notes else {}
        if self.keypoints.num_visible:
            found["pck"] = self.keypoints.report()
        if not self.people:
            return found
        errors = PersonErrors.joined(self.errors)
        found["overall"] = asdict(errors.scores())
        for kind in dict.fromkeys(kind for person in self.people for kind in person.groups):
            groups = by_group(errors, [person.groups.get(kind, "") for person in self.people])
            if groups:
                found[kind] = groups
        everyday = np.array([person.groups["families"] in EVERYDAY_FAMILIES for person in self.people])
        if everyday.any():
            found["everyday"] = asdict(errors.rows(everyday).scores())
        found["joints_mm"] = _per_joint(errors.joints_mm)
        found["aligned_joints_mm"] = _per_joint(errors.aligned_joints_mm)
        if self.parametric:
            found["parametric"] = asdict(PersonErrors.joined(self.parametric).scores())
        motion = motion_scores(self.people) if self.with_motion else None
        if motion:
            found["motion"] = motion
        return found


def in_crop(sample: Sample, crop: PersonCrop) -> np.ndarray:
    """(14, 2) true joints in pixels of the crop."""
    linear, offset = crop.frame_from_crop[:, :2], crop.frame_from_crop[:, 2]
    return (sample.joints_2d[:, :2] - offset) @ np.linalg.inv(linear).T


def _seen(sample: Sample) -> np.ndarray:
    return sample.joints_2d[:, 2] > 0.5


def _per_joint(distances_mm: np.ndarray) -> dict[str, float]:
    return dict(zip(JOINT_NAMES, (round(float(mean), 1) for mean in distances_mm.mean(0)), strict=True))


def by_group(errors: PersonErrors, groups: list[str]) -> dict[str, Any]:
    """Scores of each group of people that has a name, the largest first."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        if group:
            rows[group].append(row)
    return {group: asdict(errors.rows(np.array(chosen)).scores()) for group, chosen in sorted(rows.items(), key=lambda item: -len(item[1]))}


def motion_scores(people: list[Person]) -> dict[str, float] | None:
    """Acceleration error and jitter over all tracks, pooled by frame, of the 14 joints centred on the hips; None without tracks.

    acceleration_error_mm_frame2 is the same error per frame instead of per second, as VIBE and its successors print it.
    """
    found = tracks([person.key for person in people], [person.shape for person in people])
    if not found:
        return None
    errors, shaking, true_shaking, per_frame = [], [], [], []
    for track in found:
        joints = hip_centred(np.stack([people[row].joints_m for row in track.rows]).astype(np.float64))
        predicted, true = (accelerations_m_s2(joints[:, which], track.frames_per_s) for which in (0, 1))
        error = np.linalg.norm(predicted - true, axis=-1).mean(1)
        errors.append(error)
        per_frame.append(error * MM_PER_M / track.frames_per_s**2)
        shaking.append(np.linalg.norm(predicted, axis=-1).mean(1))
        true_shaking.append(np.linalg.norm(true, axis=-1).mean(1))
    return {
        "num_tracks": len(found),
        "num_frames": sum(len(track.rows) for track in found),
        "acceleration_error_m_s2": float(np.concatenate(errors).mean()),
        "acceleration_error_mm_frame2": float(np.concatenate(per_frame).mean()),
        "jitter_m_s2": float(np.concatenate(shaking).mean()),
        "true_jitter_m_s2": float(np.concatenate(true_shaking).mean()),
    }


class Keypoints:
    """PCK@0.1 on the 12 limb joints of people with 2D truth; visible joints only."""

    def __init__(self) -> None:
        self.correct = np.zeros(len(LIMBS), np.int64)
        self.visible = np.zeros(len(LIMBS), np.int64)
        self.num_people = 0

    @property
    def num_visible(self) -> int:
        """Joints that count."""
        return int(self.visible.sum())

    def add(self, samples: Sequence[Sample], estimates: Sequence[MeshEstimate]) -> None:
        """A batch."""
        true = np.stack([sample.joints_2d[LIMBS] for sample in samples]).astype(np.float64)
        visible = true[..., 2] > 0.5
        correct = correct_keypoints(np.stack([e.joints_px[LIMBS] for e in estimates]), true[..., :2], visible)
        self.correct += correct.sum(0)
        self.visible += visible.sum(0)
        self.num_people += int(visible.any(1).sum())

    def report(self) -> dict[str, Any]:
        """Overall and per joint."""
        return {
            "num_people": self.num_people,
            "num_visible": self.num_visible,
            "pck": float(self.correct.sum() / self.num_visible),
            "joints": shares(self.correct, self.visible),
        }


def shares(correct: np.ndarray, visible: np.ndarray) -> dict[str, float]:
    """Share of correct keypoints of each limb joint that was seen. correct, visible: (12,) counts."""
    return {name: round(float(c / v), 3) for name, c, v in zip(LIMB_JOINT_NAMES, correct, visible, strict=True) if v}
