"""Anny's bones for animation programs: what they call them, and where a person's root goes."""

from collections.abc import Mapping
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
"""Anny's bone -> what the joint is called: as in Mixamo's rigs, which have fewer bones in spine, neck and forearm."""
ONWARDS = {"root": "spine05", "spine01": "neck01", "head": None, "foot": "toe3-1", "wrist": "metacarpal2"}
"""Of bones with several below them the one that they run to, without its side."""
TURNED = ("foot", "wrist")
"""From these down a bone's z points up, so out of the back of hand or foot, for many of them point forward."""
SHORTEST_M = 1e-3
"""Bones that begin nearer to each other run the same way."""
BATCH_SIZE = 256


class BoneTurns:
    """A person's bones over time, relative to the bones above: most as recorded, and read only when they are asked for."""

    def __init__(self, rotmats: np.ndarray, rows: np.ndarray, changed: Mapping[int, np.ndarray]) -> None:
        """rotmats: (N, 104, 3, 3) of meshes.npz, of which the rows (T,) are this person's; changed: bone -> (T, 3, 3) instead."""
        self._rotmats, self._rows, self._changed = rotmats, rows, changed

    def of(self, bone: int) -> np.ndarray:
        """(T, 3, 3)."""
        return self._changed[bone] if bone in self._changed else self._rotmats[self._rows, bone]


def turned_up(rotmats: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) in camera axes -> float64, in those of UP_FROM_CAMERA."""
    return UP_FROM_CAMERA[:, None] * rotmats.astype(np.float64) * UP_FROM_CAMERA


def rest_axes(body: "AnnyBody", heads_m: np.ndarray) -> np.ndarray:
    """(J, 3, 3) the bones' axes at rest as columns, as rigs have them: y along the bone to the next one, x across, z to the front.

    Left and right mirror each other in y and z; x follows as right-handed axes want it. Bones without any below them run as the one above.
    heads_m: (J, 3) where bones begin at rest, y up
    """
    following, turned = [], []
    for bone, (name, above) in enumerate(zip(body.bone_names, body.parents, strict=True)):
        below = [child for child, parent in enumerate(body.parents) if parent == bone]
        stem, dot, side = name.partition(".")
        if len(below) > 1:
            onwards = ONWARDS[stem]
            below = [] if onwards is None else [body.bone_index(f"{onwards}{dot}{side}")]
        following.append(below[0] if below else None)
        turned.append(stem in TURNED or (above >= 0 and turned[above]))
    axes = np.empty((len(heads_m), 3, 3))
    for bone, above in enumerate(body.parents):
        onwards = following[bone]
        while onwards is not None and np.linalg.norm(heads_m[onwards] - heads_m[bone]) < SHORTEST_M:
            onwards = following[onwards]
        y = axes[above, :, 1] if onwards is None else heads_m[onwards] - heads_m[bone]
        y = y / np.linalg.norm(y)
        towards = np.array([0.0, 1, 0] if turned[bone] else [0.0, 0, 1])
        z = towards - (towards @ y) * y
        z /= np.linalg.norm(z)
        axes[bone] = np.stack([np.cross(y, z), y, z], 1)
    return axes


def root_offsets_m(body: "AnnyBody", rotmats: np.ndarray, rows: np.ndarray, phenotype: np.ndarray) -> np.ndarray:
    """(T, 3) float64 from the root's joint to the pelvis, which is what meshes.npz speaks of, camera axes.

    rotmats: (N, 104, 3, 3) of meshes.npz, of which the rows (T,) count; phenotype: (6,) of them all
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
    return np.concatenate(found).astype(np.float64)
