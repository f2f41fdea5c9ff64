"""Kinds of poses by the truth's geometry, for data sets that do not say. Up is taken as the picture's up, so a tilted camera blurs them."""

import numpy as np

from core.geometry import body_rotations
from core.joints import JOINT_NAMES, indices

UP = np.array([0.0, -1.0, 0.0])
INVERTED, LYING, BENDING, CROUCHING, SITTING, OVERHEAD, UPRIGHT = POSE_KINDS = (
    "inverted", "lying", "bending", "crouching", "sitting", "reaching overhead", "upright",
)  # fmt: skip
TORSO_UPRIGHT = 0.5
"""Cosine between torso and up: 60 degrees."""
LEGS_STRAIGHT_UP, THIGHS_LEVEL = 0.7, 0.5
FLOOR, CROUCHED = 0.12, 0.55
"""Hips over ankles, as a share of the leg's length: below the first somebody sits on the floor, from there to the second crouches."""
ABOVE_HEAD_M = 0.05


def pose_kinds(joints_m: np.ndarray) -> list[str]:
    """(B, 14, 3) true joints -> one of POSE_KINDS for each person."""
    joints = {name: joints_m[:, k] for k, name in enumerate(JOINT_NAMES)}
    torso = body_rotations(joints_m)[..., 1] @ UP
    thigh_vectors, shin_vectors = (
        np.stack([joints[f"{side}_{upper}"] - joints[f"{side}_{lower}"] for side in "RL"], 1)
        for upper, lower in (("Hip", "Knee"), ("Knee", "Ankle"))
    )
    legs_m = np.linalg.norm(thigh_vectors, axis=-1) + np.linalg.norm(shin_vectors, axis=-1)
    height_of_hips = ((thigh_vectors + shin_vectors) @ UP / np.maximum(legs_m, 1e-9)).mean(1)
    thighs = (thigh_vectors @ UP / np.maximum(np.linalg.norm(thigh_vectors, axis=-1), 1e-9)).mean(1)
    head, wrists = joints_m[:, indices(("Head",))] @ UP, joints_m[:, indices(("R_Wrist", "L_Wrist"))] @ UP
    conditions = {
        INVERTED: torso < -TORSO_UPRIGHT,
        BENDING: (torso < TORSO_UPRIGHT) & (height_of_hips > LEGS_STRAIGHT_UP),
        LYING: torso < TORSO_UPRIGHT,
        CROUCHING: (thighs < THIGHS_LEVEL) & (height_of_hips > FLOOR) & (height_of_hips < CROUCHED) & _folded(thigh_vectors, shin_vectors),
        SITTING: thighs < THIGHS_LEVEL,
        OVERHEAD: (wrists > head + ABOVE_HEAD_M).any(1),
    }
    return [str(kind) for kind in np.select(list(conditions.values()), list(conditions), UPRIGHT)]


def _folded(thigh_vectors: np.ndarray, shin_vectors: np.ndarray) -> np.ndarray:
    """(B,) whether both knees are bent by more than a right angle, as in a crouch; in a chair they are bent by about one."""
    cosine = (thigh_vectors * shin_vectors).sum(-1)
    lengths = np.linalg.norm(thigh_vectors, axis=-1) * np.linalg.norm(shin_vectors, axis=-1)
    return (cosine < -0.2 * lengths).all(1)
