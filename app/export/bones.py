"""Anny's bones for animation programs: what they call them, and where a person's root goes."""

from typing import TYPE_CHECKING

import numpy as np

from app.export.sink import UP_FROM_CAMERA
from core.joints import HIPS

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody

BODY = "anny"
PARAMETERS = ("bone_rotmats", "phenotype")
"""What meshes.npz has to hold of a body to be animated."""
SIDED = {
    "upperleg01": "UpLeg", "lowerleg01": "Leg", "foot": "Foot", "clavicle": "Shoulder", "upperarm01": "Arm", "lowerarm01": "ForeArm",
    "lowerarm02": "ForeArmRoll", "wrist": "Hand",
}  # fmt: skip
NAMES = {
    "root": "Hips", "spine05": "Spine", "spine04": "Spine1", "spine03": "Spine2", "spine02": "Spine3", "spine01": "Spine4",
    "neck01": "Neck", "neck02": "Neck1", "neck03": "Neck2", "head": "Head",
    **{f"{bone}.{side[0]}": f"{side}{name}" for bone, name in SIDED.items() for side in ("Left", "Right")},
}  # fmt: skip
"""Anny's bone -> what the joint is called, as in Mixamo's rigs."""
BATCH_SIZE = 256


def turned_up(rotmats: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) in camera axes -> float64, in those of UP_FROM_CAMERA."""
    return UP_FROM_CAMERA[:, None] * rotmats.astype(np.float64) * UP_FROM_CAMERA


def root_places_m(body: "AnnyBody", translation_m: np.ndarray, rotmats: np.ndarray, rows: np.ndarray, phenotype: np.ndarray) -> np.ndarray:
    """(T, 3) the root's joint before the camera, float64; meshes.npz has the pelvis there.

    translation_m: (N, 3) and rotmats: (N, 104, 3, 3) of meshes.npz, of which the rows (T,) count; phenotype: (6,) of them all
    """
    import torch

    points, heads, alignments = body.rest(torch.from_numpy(phenotype[None]))
    # The pelvis is a mean of vertices, each blended from what its bones make of it: it is linear in the bones' turns and places.
    share = torch.from_numpy(np.asarray(body.joint_regressor[HIPS].mean(axis=0)).reshape(-1, 1)).float() * body.skinning
    arms = torch.einsum("vb,vbc->bc", share, points[0, :, None] - heads[0])
    share = share.sum(0)
    found = []
    for start in range(0, len(rows), BATCH_SIZE):
        pose = torch.from_numpy(np.ascontiguousarray(rotmats[rows[start : start + BATCH_SIZE]]))
        turns, places = body.bone_transforms(pose, heads.expand(len(pose), -1, -1), alignments.expand(len(pose), -1, -1, -1))
        found.append((torch.einsum("tbij,bj->ti", turns, arms) + torch.einsum("b,tbi->ti", share, places)).numpy())
    return translation_m[rows].astype(np.float64) - np.concatenate(found)
