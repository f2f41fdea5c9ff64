"""Legs that reach: ankles go where they should by a turn of the thigh and a bend of the knee; hips stay, and feet keep their direction."""

from typing import TYPE_CHECKING

import numpy as np

from app.export.bones import BATCH_SIZE
from core.rotations import rotation, swing, unit

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody

SIDES = ("R", "L")
"""In the order of ankles."""
LONGEST = 0.97
"""A leg is never stretched beyond this share of its bones' length, unless it was: a knee goes through its last 28 degrees within these
three hundredths, so what is left of a foot's way had better slide.
"""
DOUBTFUL_SINE, SURE_SINE, BACKWARDS_SINE = 0.05, 0.25, 0.34
"""Sines of a knee's bend to the front up to which the hinge says about which axis it bends, and from which on the knee itself does; any
other way it does from the third one on (20 degrees). Less to the back is an error of the fit: the knee bends as far to the front, also
where its ankle stays.
"""


def reaching(body: "AnnyBody", rotmats: np.ndarray, rows: np.ndarray, phenotype: np.ndarray, moves_m: np.ndarray) -> dict[int, np.ndarray]:
    """Bone -> (T, 3, 3) float32 rotations relative to the bone above, of thighs, shins and feet.

    rotmats: (N, 104, 3, 3) of meshes.npz, of which the rows (T,) count; phenotype: (6,) of them all
    moves_m: (T, 2, 3) of the right and the left ankle, camera axes
    """
    import torch

    _, heads, alignments = body.rest(torch.from_numpy(phenotype[None]))
    found: dict[int, list[np.ndarray]] = {}
    for start in range(0, len(rows), BATCH_SIZE):
        pose = np.ascontiguousarray(rotmats[rows[start : start + BATCH_SIZE]])
        rest = heads.expand(len(pose), -1, -1), alignments.expand(len(pose), -1, -1, -1)
        turns, places_m = (values.numpy().astype(np.float64) for values in body.bone_transforms(torch.from_numpy(pose), *rest))
        turns = turns @ alignments.numpy().astype(np.float64).transpose(0, 1, 3, 2)  # of the bones' poses alone
        for number, side in enumerate(SIDES):
            move_m = moves_m[start : start + BATCH_SIZE, number]
            for bone, changed in _leg(body, side, turns, places_m, move_m).items():
                found.setdefault(bone, []).append(changed.astype(np.float32))
    return {bone: np.concatenate(parts) for bone, parts in found.items()}


def _leg(body: "AnnyBody", side: str, turns: np.ndarray, places_m: np.ndarray, move_m: np.ndarray) -> dict[int, np.ndarray]:
    """Of one leg. turns: (T, 104, 3, 3) of bones against the camera; places_m: (T, 104, 3) where they begin; move_m: (T, 3)"""
    thigh, shin, foot = (body.bone_index(f"{name}.{side}") for name in ("upperleg01", "lowerleg01", "foot"))
    hip, knee, ankle = (places_m[:, bone] for bone in (thigh, shin, foot))
    swung, bend = swing_and_bend(knee - hip, ankle - knee, move_m, turns[:, thigh, :, 0])
    above = body.parents[thigh]
    new_thigh = swung @ turns[:, thigh]
    new_shin = swung @ bend @ turns[:, shin]
    thigh_above_shin = swung @ turns[:, body.parents[shin]]
    shin_above_foot = swung @ bend @ turns[:, body.parents[foot]]
    return {
        thigh: _transposed(turns[:, above]) @ new_thigh,
        shin: _transposed(thigh_above_shin) @ new_shin,
        foot: _transposed(shin_above_foot) @ turns[:, foot],
    }


def swing_and_bend(thigh_m: np.ndarray, shin_m: np.ndarray, move_m: np.ndarray, hinge: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3, 3) each: the turn of a leg about its hip and, before that, of its shin about the knee, which move the ankle by move_m (T, 3).

    thigh_m: (T, 3) from hip to knee; shin_m: (T, 3) from knee to ankle; hinge: (T, 3) about which the knee bends, by the right hand rule
    """
    lengths_m = np.linalg.norm(thigh_m, axis=1), np.linalg.norm(shin_m, axis=1)
    product = lengths_m[0] * lengths_m[1]
    cosine = np.clip((thigh_m * shin_m).sum(1) / product, -1, 1)
    wanted_m = thigh_m + shin_m + move_m
    longest_m = np.maximum(np.linalg.norm(thigh_m + shin_m, axis=1), LONGEST * (lengths_m[0] + lengths_m[1]))
    reach_m = np.clip(np.linalg.norm(wanted_m, axis=1), np.abs(lengths_m[0] - lengths_m[1]) + 1e-6, longest_m)
    new_cosine = np.clip((reach_m**2 - lengths_m[0] ** 2 - lengths_m[1] ** 2) / (2 * product), -1, 1)
    own, usual = np.cross(thigh_m, shin_m), unit(np.cross(thigh_m, np.cross(hinge, thigh_m)))
    forwards, sine = (own * usual).sum(1) / product, np.linalg.norm(own, axis=1) / product
    sure = np.where(sine > BACKWARDS_SINE, 1, np.clip((forwards - DOUBTFUL_SINE) / (SURE_SINE - DOUBTFUL_SINE), 0, 1))[:, None]
    axis = unit(sure * unit(own) + (1 - sure) * usual)
    bent = np.where((forwards > 0) | (sine > BACKWARDS_SINE), 1, -1) * np.arccos(cosine)
    bend = rotation(axis, np.degrees(np.arccos(new_cosine) - bent))
    return swing(unit(thigh_m + (bend @ shin_m[..., None])[..., 0]), unit(wanted_m)), bend


def _transposed(rotmats: np.ndarray) -> np.ndarray:
    return rotmats.transpose(0, 2, 1)
