"""How the skeleton of a person moves in the world of 3D files, for all that write skeletons."""

from typing import TYPE_CHECKING

import numpy as np

from app.export.bones import BoneTurns, root_offsets_m
from app.export.legs import reaching
from app.export.world import World

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody


def skeleton_motion(
    body: "AnnyBody", world: World, track_id: int, rotmats: np.ndarray, rows: np.ndarray, phenotype: np.ndarray
) -> tuple[np.ndarray, BoneTurns]:  # fmt: skip
    """Places of the root (T, 3), before the camera as it stood at the start, and the bones' turns.

    rotmats: (N, 104, 3, 3) of meshes.npz, of which the rows (T,) are this person's; phenotype: (6,) of them all
    """
    size, start_from_camera = world.sizes[track_id], world.start_from_camera[rows]
    offsets_m = root_offsets_m(body, rotmats, rows, phenotype) * size
    places_m = world.translation_m[rows] - np.einsum("tij,tj->ti", start_from_camera, offsets_m)
    ankle_moves_m = np.einsum("tji,tfj->tfi", start_from_camera, world.ankle_moves_m[rows]) / size
    changed = reaching(body, rotmats, rows, phenotype, ankle_moves_m)
    if not world.rests:
        changed[0] = (start_from_camera @ rotmats[rows, 0]).astype(np.float32)
    return places_m, BoneTurns(rotmats, rows, changed)
