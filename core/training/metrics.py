"""Scores of estimated people. NumPy in, numbers out; millimetres and degrees, as the names say.

MPJPE, PA-MPJPE and MPVPE follow the protocol of the FastMETRO release: 14 joints regressed from the mesh, centred on the
midpoint of the hips; PA after a similarity alignment per person; vertices centred on the pelvis and nothing else.
"""

from dataclasses import dataclass, fields

import numpy as np

from core.geometry import HALF_CROP_PX, body_rotations, hip_centred, procrustes_align, turned_deg
from core.joints import JOINT_NAMES

MM_PER_M = 1000.0
PCK_THRESHOLD = 0.1


@dataclass(frozen=True)
class Scores:
    """Means over people. None = was not measured: there was no truth of that kind."""

    num_people: int
    mpjpe_mm: float
    pa_mpjpe_mm: float
    mpvpe_mm: float | None
    facing_error_median_deg: float
    facing_over_60_deg: float  # share of people, 0..1
    projection_error_px: float | None = None  # mean distance in the 224 px crop, visible joints
    facing_over_120_deg: float | None = None
    mpvpe_intermediate_mm: float | None = None

    def __str__(self) -> str:
        """One line for logs and tables."""
        parts = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return "  ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in parts)


def mpjpe_mm(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Per person mean joint error after centring on the hips: (B, 14, 3) twice -> (B,)."""
    return np.linalg.norm(hip_centred(predicted_m) - hip_centred(true_m), axis=-1).mean(axis=-1) * MM_PER_M


def joint_distances_mm(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Error of each joint of each person after centring on the hips: (B, 14, 3) twice -> (B, 14)."""
    return np.linalg.norm(hip_centred(predicted_m) - hip_centred(true_m), axis=-1) * MM_PER_M


def aligned_joint_distances_mm(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Error of each joint of each person after similarity alignment of the person: (B, 14, 3) twice -> (B, 14)."""
    true = np.asarray(true_m, np.float64)
    aligned = procrustes_align(np.asarray(predicted_m, np.float64), true)
    return np.linalg.norm(aligned - true, axis=-1) * MM_PER_M


def pa_mpjpe_mm(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Per person mean joint error after similarity alignment: (B, 14, 3) twice -> (B,)."""
    return aligned_joint_distances_mm(predicted_m, true_m).mean(axis=-1)


def mpvpe_mm(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Per person mean vertex error; both (B, V, 3) come with the pelvis at 0 -> (B,)."""
    return np.linalg.norm(predicted_m - true_m, axis=-1).mean(axis=-1) * MM_PER_M


def facing_errors_deg(predicted_m: np.ndarray, true_m: np.ndarray) -> np.ndarray:
    """Angle between the torso's frames of prediction and truth: (B, 14, 3) twice -> (B,) degrees, 0..180."""
    return turned_deg(body_rotations(predicted_m), body_rotations(true_m))


def correct_keypoints(predicted_px: np.ndarray, true_px: np.ndarray, visible: np.ndarray, threshold: float = PCK_THRESHOLD) -> np.ndarray:
    """Which keypoints lie within `threshold` x the larger side of the box around that person's visible keypoints.

    predicted_px, true_px: (B, K, 2); visible: (B, K) bool; returns (B, K) bool, False where not visible
    """
    low = np.where(visible[..., None], true_px, np.inf).min(axis=1)
    high = np.where(visible[..., None], true_px, -np.inf).max(axis=1)
    reach_px = threshold * (high - low).max(axis=-1)
    return visible & (np.linalg.norm(predicted_px - true_px, axis=-1) <= reach_px[:, None])


def pck(predicted_px: np.ndarray, true_px: np.ndarray, visible: np.ndarray, threshold: float = PCK_THRESHOLD) -> float:
    """Share of visible keypoints that are correct, all people pooled; NaN when none is visible."""
    count = int(visible.sum())
    return float(correct_keypoints(predicted_px, true_px, visible, threshold).sum() / count) if count else float("nan")


def accelerations_m_s2(points_m: np.ndarray, frames_per_s: float) -> np.ndarray:
    """Second differences of a track: (T, N, 3) -> (T - 2, N, 3) metres per second squared."""
    return (points_m[2:] - 2 * points_m[1:-1] + points_m[:-2]) * frames_per_s**2


def jitter_m_s2(points_m: np.ndarray, frames_per_s: float) -> float:
    """Mean size of the acceleration of a track (T, N, 3): how much it trembles."""
    return float(np.linalg.norm(accelerations_m_s2(points_m, frames_per_s), axis=-1).mean())


def acceleration_error_m_s2(predicted_m: np.ndarray, true_m: np.ndarray, frames_per_s: float) -> float:
    """Mean distance between the accelerations of two tracks (T, N, 3)."""
    difference = accelerations_m_s2(predicted_m, frames_per_s) - accelerations_m_s2(true_m, frames_per_s)
    return float(np.linalg.norm(difference, axis=-1).mean())


@dataclass(frozen=True)
class Estimates:
    """What is compared: one row a person. Prediction and truth use the same type.

    joints_m: (B, 14, 3) regressed from the mesh; vertices_m: (B, V, 3); both with the pelvis at 0
    joints_crop: (B, 14, 2) crop units in [-1, 1]
    """

    joints_m: np.ndarray
    vertices_m: np.ndarray
    joints_crop: np.ndarray

    def __post_init__(self) -> None:
        if self.joints_m.shape[1:] != (len(JOINT_NAMES), 3):
            raise ValueError(f"Estimates.joints_m: got shape {self.joints_m.shape}, expected (B, {len(JOINT_NAMES)}, 3)")

    def rows(self, chosen: np.ndarray) -> "Estimates":
        """The people that a mask or an index array picks."""
        return Estimates(self.joints_m[chosen], self.vertices_m[chosen], self.joints_crop[chosen])


def joined(parts: list[Estimates]) -> Estimates:
    """The people of several sets in one."""
    names = ("joints_m", "vertices_m", "joints_crop")
    return Estimates(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class PersonErrors:
    """Errors of each of B people, so that a set may be of any size. NaN = no truth of that kind.

    joints_mm, aligned_joints_mm: (B, 14) after centring on the hips, after similarity alignment
    vertices_mm: (B,) of the full mesh; intermediate_mm: (B,) of the intermediate level, whose vertices lie more evenly
    facing_deg: (B,)      projection_px: (B, 14) in the 224 px crop, NaN for joints that are not seen
    """

    joints_mm: np.ndarray
    aligned_joints_mm: np.ndarray
    vertices_mm: np.ndarray
    intermediate_mm: np.ndarray
    facing_deg: np.ndarray
    projection_px: np.ndarray

    def __len__(self) -> int:
        return len(self.facing_deg)

    def rows(self, chosen: np.ndarray) -> "PersonErrors":
        """The people that a mask or an index array picks."""
        return PersonErrors(*(getattr(self, f.name)[chosen] for f in fields(self)))

    @staticmethod
    def joined(parts: list["PersonErrors"]) -> "PersonErrors":
        """The people of several sets in one."""
        return PersonErrors(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(PersonErrors)))

    def scores(self) -> Scores:
        """Means over the people."""
        return Scores(
            num_people=len(self),
            mpjpe_mm=float(self.joints_mm.mean()),
            pa_mpjpe_mm=float(self.aligned_joints_mm.mean()),
            mpvpe_mm=_mean_of_known(self.vertices_mm),
            mpvpe_intermediate_mm=_mean_of_known(self.intermediate_mm),
            facing_error_median_deg=float(np.median(self.facing_deg)),
            facing_over_60_deg=float((self.facing_deg > 60).mean()),
            facing_over_120_deg=float((self.facing_deg > 120).mean()),
            projection_error_px=_mean_of_known(self.projection_px),
        )


def _mean_of_known(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def person_errors(predicted: Estimates, true: Estimates, joint_visibility: np.ndarray) -> PersonErrors:
    """Errors of each person. joint_visibility: (B, 14), above 0.5 = seen. Vertices NaN in the truth are not known."""
    distance_px = np.linalg.norm(predicted.joints_crop - true.joints_crop, axis=-1) * HALF_CROP_PX
    return PersonErrors(
        joints_mm=joint_distances_mm(predicted.joints_m, true.joints_m),
        aligned_joints_mm=aligned_joint_distances_mm(predicted.joints_m, true.joints_m),
        vertices_mm=mpvpe_mm(predicted.vertices_m, true.vertices_m),
        intermediate_mm=np.full(len(true.joints_m), np.nan),
        facing_deg=facing_errors_deg(predicted.joints_m, true.joints_m),
        projection_px=np.where(joint_visibility > 0.5, distance_px, np.nan),
    )


def score(predicted: Estimates, true: Estimates, joint_visibility: np.ndarray) -> Scores:
    """All scores of a set of people. joint_visibility: (B, 14), above 0.5 = seen."""
    return person_errors(predicted, true, joint_visibility).scores()
