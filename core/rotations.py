"""Rotations in degrees, for posing by hand. Axes are the camera's: x right, y down, z away."""

import numpy as np


def rotation(axis: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Rodrigues' formula. axis: (..., 3) of unit length, degrees: (...) -> (..., 3, 3)."""
    degrees = np.asarray(degrees, np.float64)
    x, y, z = np.moveaxis(np.broadcast_to(axis, (*degrees.shape, 3)), -1, 0)
    zero = np.zeros_like(x)
    skew = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*degrees.shape, 3, 3)
    angle = np.radians(degrees)[..., None, None]
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * (skew @ skew)


def from_rotvecs(rotvecs: np.ndarray) -> np.ndarray:
    """(..., 3) axis times angle in radians -> (..., 3, 3)."""
    angle = np.linalg.norm(rotvecs, axis=-1)
    return rotation(rotvecs / np.maximum(angle, 1e-12)[..., None], np.degrees(angle))


def about_x(degrees: np.ndarray) -> np.ndarray:
    """Positive bends the upper body forward, and a hanging shin back."""
    return rotation(np.array([1.0, 0, 0]), degrees)


def about_y(degrees: np.ndarray) -> np.ndarray:
    """Turn about the vertical."""
    return rotation(np.array([0, 1.0, 0]), degrees)


def about_z(degrees: np.ndarray) -> np.ndarray:
    """Tilt within the picture."""
    return rotation(np.array([0, 0, 1.0]), degrees)


def swing(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest rotation from the unit vector start (3,) to the unit vectors end (B, 3) -> (B, 3, 3)."""
    start = np.broadcast_to(start, end.shape)
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis, axis=-1)
    degrees = np.degrees(np.arctan2(sine, (start * end).sum(-1)))
    return rotation(axis / np.maximum(sine, 1e-8)[:, None], degrees)


def unit(vector: np.ndarray) -> np.ndarray:
    """(..., 3) scaled to length 1; what has none stays."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)


def frame(direction: np.ndarray, hinge: np.ndarray) -> np.ndarray:
    """Right-handed frames (..., 3, 3) whose first column is the direction and whose second lies as near the hinge as can be."""
    side = unit(hinge - (hinge * direction).sum(-1, keepdims=True) * direction)
    return np.stack([direction, side, np.cross(direction, side)], -1)


def without_heading(rotmats: np.ndarray) -> np.ndarray:
    """(B, 3, 3) of bodies -> the same turned about the vertical so that they face -z; those that face up or down stay as they are."""
    forward = rotmats @ np.array([0, 0, -1.0])
    level = np.hypot(forward[:, 0], forward[:, 2]) > 0.3
    heading = np.degrees(np.arctan2(-forward[:, 0], -forward[:, 2]))
    return about_y(np.where(level, -heading, 0.0)) @ rotmats
