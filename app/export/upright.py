"""Which way is up in a recording, as its people tell: cameras look up and down, and some are held askew.

Two things tell it. Who stands or walks is upright on average. And who walks about stays on one level, so that the heights of their feet
must not change along their way. Both are right to a few degrees, and where they disagree the answer lies between.
"""

from collections.abc import Sequence

import numpy as np

from app.export.tracks import some_of
from app.visibility import SHOWN_ABOVE
from core.joints import ANKLES, HIPS, JOINT_NAMES, indices
from core.rotations import unit

LEGS = tuple(indices((f"{side}_Hip", f"{side}_Knee", f"{side}_Ankle")) for side in "RL")
NECK = JOINT_NAMES.index("Neck")
ASKED = [*LEGS[0], *LEGS[1], NECK]
"""Joints that must be seen of somebody who is asked."""
STRAIGHTER_DEG, STRAIGHT_DEG, BOWED_DEG, TILTED_DEG = 150, 100, 35, 60
"""Who is upright: the angle of the straighter knee and of the other one at least, and at most that between legs and trunk, and that between
the whole body and the picture's up, for those who lie are straight, too.
"""
LONG_ENOUGH_S = 0.5
"""Who is upright for a shorter time is not asked."""
ROWS = 64
"""Of each person, spread over their time."""
PERSON_DEG = 5.0
"""How far people lean on average, and the network with them: deviation, of one person."""
PITCH_DEG, ROLL_DEG, ASKEW_DEG = 40.0, 5.0, 10.0
"""How far cameras look up and down, and are held askew: deviations. From the last one on a camera is held askew, and it hardly matters
how far.
"""
FROM_LEAN_DEG = 15.0
"""Feet that stay on one level change by at most so much what the people's own direction says: some climb."""
HEIGHT_M, HEIGHT_SHARE = 0.05, 0.05
"""Deviation of a foot's height: of the feet themselves, and as a share of the camera's height above them, for distances err along the
ray."""
MEDIAN_ROUNDS = 20
PER_S = 2
"""So many heights in a second count as independent."""


def up_in_camera(people: Sequence[tuple[np.ndarray, np.ndarray]], frame_s: float) -> np.ndarray:
    """(3,) unit vector, x right, y down, z away; (0, -1, 0), the camera's own, where nobody is upright for long enough.

    people: of each their joints before the camera (T, 14, 3), metres, and how well these are seen (T, 14)
    """
    from scipy.optimize import least_squares

    asked = [joints_m[upright(joints_m, visibility)] for joints_m, visibility in people]
    asked = [joints_m for joints_m in asked if len(joints_m) * frame_s >= LONG_ENOUGH_S]
    if not asked:
        return np.array([0.0, -1, 0])
    weights = np.array([min(1.0, PER_S * len(joints_m) * frame_s / min(len(joints_m), ROWS)) for joints_m in asked])
    asked = [joints_m[some_of(np.arange(len(joints_m)), ROWS)] for joints_m in asked]
    leaning = np.stack([most_common(unit(joints_m[:, NECK] - joints_m[:, ANKLES].mean(1))) for joints_m in asked])
    start = most_common(leaning)
    feet_m = [_lower(joints_m[:, ANKLES], start) for joints_m in asked]
    middles_m = np.stack([np.median(places_m, axis=0) for places_m in feet_m])
    deviations_m = np.hypot(HEIGHT_M, HEIGHT_SHARE * (middles_m @ start))
    around_m = np.concatenate([places_m - middle_m for places_m, middle_m in zip(feet_m, middles_m, strict=True)])
    around = around_m * np.repeat(weights**0.5 / deviations_m, [len(places_m) for places_m in feet_m])[:, None]

    def misfit(guess: np.ndarray) -> np.ndarray:
        """guess: pitch and roll in degrees."""
        up, (pitch, roll) = _up(*np.radians(guess)), guess
        usual = np.array([pitch / PITCH_DEG, roll / ROLL_DEG / np.hypot(1, roll / ASKEW_DEG)])
        return np.concatenate([((leaning - up) / np.radians(PERSON_DEG)).ravel(), usual, around @ up])

    first = np.array(pitch_roll_deg(start))
    within = first - FROM_LEAN_DEG, first + FROM_LEAN_DEG
    return _up(*np.radians(least_squares(misfit, first, bounds=within, loss="soft_l1", ftol=1e-12, xtol=1e-12).x))


def most_common(directions: np.ndarray) -> np.ndarray:
    """(N, 3) unit vectors -> (3,) the one in their middle, which some that are quite different do not move: the geometric median, by
    Weiszfeld's algorithm (1937).
    """
    found = unit(directions.mean(0))
    for _ in range(MEDIAN_ROUNDS):
        weights = 1 / np.maximum(np.linalg.norm(directions - found, axis=1), 1e-3)
        found = unit(weights @ directions)
    return found


def upright(joints_m: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """(T,) bool: stands or walks, and is seen from the neck to the feet. joints_m: (T, 14, 3); visibility: (T, 14)"""
    hips, neck, ankles = joints_m[:, HIPS].mean(1), joints_m[:, NECK], joints_m[:, ANKLES].mean(1)
    knees = np.stack([180 - _angle_deg(joints_m[:, knee] - joints_m[:, hip], joints_m[:, ankle] - joints_m[:, knee])
                      for hip, knee, ankle in LEGS])  # fmt: skip
    straight = (knees.max(0) > STRAIGHTER_DEG) & (knees.min(0) > STRAIGHT_DEG)
    bowed_deg, tilted_deg = _angle_deg(neck - hips, hips - ankles), _angle_deg(neck - ankles, np.array([0.0, -1, 0]))
    return straight & (bowed_deg < BOWED_DEG) & (tilted_deg < TILTED_DEG) & (visibility[:, ASKED].min(1) >= SHOWN_ABOVE)


def pitch_roll_deg(up: np.ndarray) -> tuple[float, float]:
    """How far a camera with this `up` looks down, and how far it is turned clockwise, so that all in its picture leans to the left."""
    return float(np.degrees(np.arcsin(np.clip(-up[2], -1, 1)))), float(np.degrees(np.arctan2(-up[0], -up[1])))


def _up(pitch: float, roll: float) -> np.ndarray:
    """(3,) for a camera that looks down by `pitch` and is turned clockwise by `roll`, radians."""
    return np.array([-np.sin(roll) * np.cos(pitch), -np.cos(roll) * np.cos(pitch), -np.sin(pitch)])


def _lower(feet_m: np.ndarray, up: np.ndarray) -> np.ndarray:
    """(T, 2, 3) -> (T, 3)."""
    return feet_m[np.arange(len(feet_m)), (feet_m @ up).argmin(1)]


def _angle_deg(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(T, 3), the second may be (3,) -> (T,)."""
    return np.degrees(np.arccos(np.clip((unit(ones) * unit(others)).sum(-1), -1, 1)))
