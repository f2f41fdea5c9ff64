"""Rotations as three angles over time, for formats that have no quaternions."""

import warnings

import numpy as np


def continuous_angles(rotmats: np.ndarray, order: str) -> np.ndarray:
    """(T, ..., 3, 3) rotations -> (T, ..., 3) degrees, of all triples that mean a rotation the one nearest to the moment before.

    Programs that draw curves between frames would spin otherwise, and turn over where the middle angle passes 90 degrees.
    order: as scipy has it, three different axes, as "ZXY"
    """
    from scipy.spatial.transform import Rotation

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gimbal lock detected")  # one of the triples that mean the rotation is as good as another
        angles = Rotation.from_matrix(rotmats.reshape(-1, 3, 3)).as_euler(order, degrees=True).reshape(rotmats.shape[:-1])
    turned_over = angles * (1, -1, 1) + 180  # the same rotation
    straight, over = (np.abs((values[1:] - angles[:-1] + 180) % 360 - 180).sum(-1) for values in (angles, turned_over))
    is_over = np.zeros(angles.shape[:-1], bool)
    is_over[1:] = np.cumsum(over < straight, axis=0) % 2  # from one that is turned over the other one is as far
    return np.unwrap(np.where(is_over[..., None], turned_over, angles), period=360, axis=0)
