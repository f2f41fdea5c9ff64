"""What crosses the border between the network and its users: checked, frozen, NumPy."""

from dataclasses import dataclass

import numpy as np

from core.arrays import check_array, check_finite
from core.joints import JOINT_NAMES

CROP_SIZE_PX = 224


def crop_center_px(frame_from_crop: np.ndarray) -> np.ndarray:
    """(2, 3) place of a crop in its frame -> (2,) the crop's centre in frame pixels."""
    return frame_from_crop @ np.array([CROP_SIZE_PX / 2, CROP_SIZE_PX / 2, 1.0])


def check_parameters(owner: str, rotmats: np.ndarray | None, shape: np.ndarray | None) -> None:
    """Raise ValueError unless both are None, or (J, 3, 3) and (S,) float32."""
    if (rotmats is None) != (shape is None):
        raise ValueError(f"{owner}: rotmats and shape come together, got one of them")
    if rotmats is not None:
        check_array(f"{owner}.rotmats", rotmats, (None, 3, 3), np.float32)
        check_array(f"{owner}.shape", shape, (None,), np.float32)


@dataclass(frozen=True)
class PersonCrop:
    """A person's square picture as the network wants it.

    image:           (224, 224, 3) uint8 RGB
    frame_from_crop: (2, 3) float64, maps crop pixels (x, y, 1) to pixels of the frame
    """

    image: np.ndarray
    frame_from_crop: np.ndarray

    def __post_init__(self) -> None:
        check_array("PersonCrop.image", self.image, (CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
        check_array("PersonCrop.frame_from_crop", self.frame_from_crop, (2, 3), np.float64)

    @property
    def side_px(self) -> float:
        """Length of the crop's side in frame pixels."""
        return float(np.hypot(*self.frame_from_crop[:, 0]) * CROP_SIZE_PX)

    @property
    def center_px(self) -> np.ndarray:
        """(2,) centre of the crop in frame pixels."""
        return crop_center_px(self.frame_from_crop)


@dataclass(frozen=True)
class MeshEstimate:
    """One person's mesh as the network sees it: pelvis at 0, x right, y down, z away.

    vertices_m: (V, 3) float32 metres        joints_m: (14, 3) float32 metres, regressed from the mesh
    joints_px:  (14, 2) float32, weak-perspective projection into the frame
    camera:     (3,) float32 scale, tx, ty of the crop: crop units = scale * (xy + t), in [-1, 1]
    frame_from_crop: (2, 3) float64, the crop's place in the frame
    rotmats, shape: (J, 3, 3) rotations of the body's bones and (S,) its shape, float32; None without a parameter regressor
    """

    vertices_m: np.ndarray
    joints_m: np.ndarray
    joints_px: np.ndarray
    camera: np.ndarray
    frame_from_crop: np.ndarray
    rotmats: np.ndarray | None = None
    shape: np.ndarray | None = None

    def __post_init__(self) -> None:
        num_joints = len(JOINT_NAMES)
        check_array("MeshEstimate.vertices_m", self.vertices_m, (None, 3), np.float32)
        check_array("MeshEstimate.joints_m", self.joints_m, (num_joints, 3), np.float32)
        check_array("MeshEstimate.joints_px", self.joints_px, (num_joints, 2), np.float32)
        check_array("MeshEstimate.camera", self.camera, (3,), np.float32)
        check_array("MeshEstimate.frame_from_crop", self.frame_from_crop, (2, 3), np.float64)
        check_parameters("MeshEstimate", self.rotmats, self.shape)
        check_finite("MeshEstimate.vertices_m", self.vertices_m)
        check_finite("MeshEstimate.camera", self.camera)
