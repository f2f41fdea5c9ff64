"""People of sticks, who stand or walk on a floor before a camera that looks down and is held askew: all is known of them."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from app.export.sink import UP_FROM_CAMERA
from core.joints import JOINT_NAMES

FPS = 30.0
ANKLE_M, HIP_M, NECK_M = 0.1, 0.9, 1.45


@dataclass(frozen=True)
class Seen:
    """joints_m: (T, 14, 3) before the camera, x right, y down, z away; world_m: the same joints where they are, y up, floor at 0."""

    joints_m: np.ndarray
    world_m: np.ndarray
    times_s: np.ndarray

    @property
    def pelvis_m(self) -> np.ndarray:
        """(T, 3) before the camera."""
        return self.joints_m[:, [2, 3]].mean(1)


def camera_from_world(pitch_deg: float, roll_deg: float = 0.0) -> np.ndarray:
    """(3, 3) of a camera that looks down and is turned clockwise, from a world with y up and z towards the viewer."""
    level = np.diag(UP_FROM_CAMERA.astype(float))
    return Rotation.from_euler("xz", [pitch_deg, -roll_deg], degrees=True).as_matrix() @ level


def walker(
    speed_m_s: float = 1.2, heading_deg: float = 0.0, seconds: float = 4.0, at_m: tuple[float, float] = (0.0, -6.0), height_m: float = 1.6,
    pitch_deg: float = 0.0, roll_deg: float = 0.0, lean_deg: float = 0.0,
) -> Seen:  # fmt: skip
    """Somebody who walks through at_m (x, z) in the middle of their time, towards the camera with a heading of 0, or stands with a speed
    of 0. height_m: of the camera; lean_deg: of the trunk and the legs to the front
    """
    times_s = np.arange(round(seconds * FPS)) / FPS
    along = speed_m_s * (times_s - seconds / 2)
    joints = np.zeros((len(times_s), len(JOINT_NAMES), 3))

    def put(name: str, x: float, y: float | np.ndarray, z: np.ndarray) -> None:
        joints[:, JOINT_NAMES.index(name)] = np.stack([np.full(len(times_s), x), np.broadcast_to(y, len(times_s)), z], 1)

    forward = np.tan(np.radians(lean_deg))
    for side, x, phase in (("R", -0.1, 0.0), ("L", 0.1, 0.5)):
        steps, share = np.divmod(times_s + phase, 1.0)
        swing = np.clip(share / 0.5 - 1, 0, 1)
        foot = speed_m_s * (steps - phase + 0.25 + swing**2 * (3 - 2 * swing) - seconds / 2)
        lift = 0.12 * np.sin(np.pi * swing) * bool(speed_m_s)
        hip = along + forward * (HIP_M - ANKLE_M)
        put(f"{side}_Ankle", x, ANKLE_M + lift, foot)
        put(f"{side}_Knee", x, (ANKLE_M + HIP_M + lift) / 2, (foot + hip) / 2)
        put(f"{side}_Hip", x, HIP_M, hip)
        for name, y in (("Shoulder", 1.4), ("Elbow", 1.1), ("Wrist", 0.85)):
            put(f"{side}_{name}", 2 * x, y, along + forward * (y - ANKLE_M))
    put("Neck", 0.0, NECK_M, along + forward * (NECK_M - ANKLE_M))
    put("Head", 0.0, 1.65, along + forward * 1.55)
    world = joints @ Rotation.from_euler("y", heading_deg, degrees=True).as_matrix().T + (at_m[0], 0, at_m[1])
    return Seen((world - (0, height_m, 0)) @ camera_from_world(pitch_deg, roll_deg).T, world, times_s)
