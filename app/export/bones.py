"""Anny's bones for animation programs: what they call them, and where a person's root goes."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody

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
BATCH_SIZE = 64


def root_places_m(body: "AnnyBody", translation_m: np.ndarray, rotmats: np.ndarray, phenotype: np.ndarray) -> np.ndarray:
    """(T, 3) the root's joint before the camera, float64; meshes.npz has the pelvis there.

    translation_m: (T, 3) rows of meshes.npz; rotmats: (T, 104, 3, 3); phenotype: (6,)
    """
    import torch

    found = []
    with torch.inference_mode():
        for start in range(0, len(rotmats), BATCH_SIZE):
            pose = torch.from_numpy(rotmats[start : start + BATCH_SIZE])
            shape = torch.from_numpy(phenotype).expand(len(pose), -1)
            found.append(body.pelvis(body.vertices(pose, shape)).numpy())
    return translation_m.astype(np.float64) - np.concatenate(found)
