"""Levelled crops: whoever leans, lies or hangs is turned upright before the network sees them, and what it says is turned back.

BlazePose does so with the line from the hips to the shoulders (Bazarevsky et al. 2020), and its trunk expects it. We take that line from
the mesh: the one of the frame before, or of a first look at the crop as it is.
"""

import math
from dataclasses import replace

import numpy as np

from core.crop import about_centre, composed, rotation_2d
from core.joints import HIPS, indices
from core.types import MeshEstimate

LEFT_LEANING_RAD = math.radians(20)
"""What of a lean stays: whoever leans less is seen as they are, so that crops of people who stand do not sway."""
LOOK_AGAIN_RAD = math.radians(30)
"""By how much the turn of a crop must be off for a second look at it."""
FORESHORTENED, SEEN_WHOLE = 0.3, 0.6
"""Length of the trunk in the picture over its length in space, up to which its direction says nothing and from which it says all."""
NECK = indices(("Neck",))[0]


def trunk_m(joints_m: np.ndarray) -> np.ndarray:
    """(..., 14, 3) joints -> (..., 3) from between the hips to the neck."""
    return joints_m[..., NECK, :] - joints_m[..., HIPS, :].mean(-2)


def lean_rad(joints_m: np.ndarray) -> np.ndarray:
    """(..., 14, 3) joints, x right, y down -> (...) how far people lean clockwise in the picture."""
    trunk = trunk_m(joints_m)
    return np.arctan2(trunk[..., 0], -trunk[..., 1])


def wanted_roll_rad(joints_m: np.ndarray) -> float:
    """How far the crop of somebody is to be turned clockwise: as far as they lean in the picture, less what may stay.

    joints_m: (14, 3) metres, x right, y down. 0 for somebody upright, and towards 0 where the trunk points at the camera.
    """
    trunk = trunk_m(joints_m)
    seen = math.hypot(trunk[0], trunk[1]) / max(float(np.linalg.norm(trunk)), 1e-9)
    certainty = min(max((seen - FORESHORTENED) / (SEEN_WHOLE - FORESHORTENED), 0.0), 1.0)
    lean = float(lean_rad(joints_m))
    return math.copysign(max(abs(lean) - LEFT_LEANING_RAD, 0.0), lean) * certainty


def roll_of_rad(frame_from_crop: np.ndarray) -> float:
    """How far a crop (2, 3) is turned clockwise in its frame."""
    return math.atan2(frame_from_crop[1, 0], frame_from_crop[0, 0])


def angle_between(start_rad: float, end_rad: float) -> float:
    """The shorter way from one direction to another, in [-pi, pi)."""
    return (end_rad - start_rad + math.pi) % (2 * math.pi) - math.pi


def in_upright_crop(estimate: MeshEstimate) -> MeshEstimate:
    """What the network says of a turned crop, as if it had said it of the same crop unturned: the same points in the frame."""
    roll = roll_of_rad(estimate.frame_from_crop)
    if not roll:
        return estimate
    turn = np.eye(3, dtype=np.float32)
    turn[:2, :2] = rotation_2d(roll)
    rotmats = estimate.rotmats
    return replace(
        estimate,
        vertices_m=estimate.vertices_m @ turn.T,
        joints_m=estimate.joints_m @ turn.T,
        camera=np.concatenate([estimate.camera[:1], turn[:2, :2] @ estimate.camera[1:]]),
        frame_from_crop=composed(estimate.frame_from_crop, about_centre(-roll)),
        rotmats=None if rotmats is None else np.concatenate([turn @ rotmats[:1], rotmats[1:]]),
    )
