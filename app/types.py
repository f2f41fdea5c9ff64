"""What flows through the app: Frame -> Person -> (crop, estimate) -> SmoothedMesh -> Scene -> sinks."""

import math
from dataclasses import dataclass, field

import numpy as np

from core.arrays import check_array
from core.joints import JOINT_NAMES
from core.lens import default_focal_px
from core.types import check_parameters


@dataclass(frozen=True)
class Frame:
    """A picture of the input. image: (H, W, 3) uint8 RGB; time_s: presentation time; index: counts from 0.

    focal_px: focal length, where the file says it or the kind of the input tells
    """

    image: np.ndarray
    time_s: float
    index: int
    focal_px: float | None = None

    def __post_init__(self) -> None:
        check_array("Frame.image", self.image, (None, None, 3), np.uint8)
        if self.focal_px is not None and not 0 < self.focal_px < math.inf:
            raise ValueError(f"Frame.focal_px: got {self.focal_px}, expected a positive number or None")

    @property
    def size_px(self) -> tuple[int, int]:
        """Width, height."""
        return self.image.shape[1], self.image.shape[0]


@dataclass(frozen=True)
class Person:
    """Somebody in a frame.

    box_px: (4,) float32 x0, y0, x1, y1 in the frame; score: 0..1
    landmark_visibility: (14,) float32 0..1, the detector's evidence for each joint; None when it did not look
    """

    box_px: np.ndarray
    score: float
    track_id: int = -1
    landmark_visibility: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_array("Person.box_px", self.box_px, (4,), np.float32)
        if self.landmark_visibility is not None:
            check_array("Person.landmark_visibility", self.landmark_visibility, (len(JOINT_NAMES),), np.float32)


@dataclass(frozen=True)
class Posture:
    """What is smoothed of a person.

    vertices_m (V, 3) around the pelvis; translation_m (3,) with z > 0; rotmats (J, 3, 3) and shape (S,), or None
    """

    vertices_m: np.ndarray
    translation_m: np.ndarray
    rotmats: np.ndarray | None = None
    shape: np.ndarray | None = None


@dataclass(frozen=True)
class Sample:
    """A person at one time. joints_m: (14, 3) of the posture, pelvis at 0; soundness: 0 for a collapsed mesh to 1, see app.proportions."""

    track_id: int
    time_s: float
    posture: Posture
    joints_m: np.ndarray
    soundness: float = 1.0


@dataclass(frozen=True)
class SmoothedMesh:
    """A person's mesh after smoothing, placed in the camera's space. Its own type, so that no sink shows raw output.

    vertices_m (V, 3), joints_m (14, 3): float32 metres, pelvis at 0, x right, y down, z away
    translation_m: (3,) float32; vertices_m + translation_m projects with the scene's focal_px and principal_px
    joints_px: (14, 2) float32, that projection; joint_visibility: (14,) float32 0..1
    camera: (3,) float32 scale, tx, ty of the crop; box_px: (4,) float32; score: 0..1
    rotmats, shape: (J, 3, 3) and (S,) float32 body parameters in the same axes; None where they were not asked for
    raw_joints_m: (14, 3) float32, joints_m before smoothing, for those who measure what that did; None where it is not known
    """

    track_id: int
    score: float
    box_px: np.ndarray
    vertices_m: np.ndarray
    joints_m: np.ndarray
    joints_px: np.ndarray
    joint_visibility: np.ndarray
    camera: np.ndarray
    translation_m: np.ndarray
    rotmats: np.ndarray | None = None
    shape: np.ndarray | None = None
    raw_joints_m: np.ndarray | None = None

    def __post_init__(self) -> None:
        num_joints = len(JOINT_NAMES)
        shapes = {
            "box_px": (4,), "vertices_m": (None, 3), "joints_m": (num_joints, 3), "joints_px": (num_joints, 2),
            "joint_visibility": (num_joints,), "camera": (3,), "translation_m": (3,),
        }  # fmt: skip
        for name, shape in shapes.items():
            check_array(f"SmoothedMesh.{name}", getattr(self, name), shape, np.float32)
        if self.raw_joints_m is not None:
            check_array("SmoothedMesh.raw_joints_m", self.raw_joints_m, (num_joints, 3), np.float32)
        check_parameters("SmoothedMesh", self.rotmats, self.shape)


@dataclass(frozen=True)
class Intrinsics:
    """The frame's pinhole camera. principal_px: x, y."""

    focal_px: float
    principal_px: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """A frame and everybody in it; nobody there is an empty tuple.

    timings_ms: stage -> milliseconds; overlay: (H, W, 3) uint8 RGB, the frame with the meshes on it, once that is drawn
    cuts: the frame follows a cut, or nothing
    start_from_camera: (3, 3) rotation from the camera's axes to those that it had in the first frame of its view; None where nobody has
    looked       view: number of the view, from 0; each cut to another one begins one
    """

    frame: Frame
    intrinsics: Intrinsics
    meshes: tuple[SmoothedMesh, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
    overlay: np.ndarray | None = None
    cuts: bool = False
    start_from_camera: np.ndarray | None = None
    view: int = 0


def intrinsics_of(frame: Frame, focal_px: float | None) -> Intrinsics:
    """The frame's camera: its centre as the principal point; the focal length given, or else its own, or else the frame's diagonal."""
    width, height = frame.size_px
    return Intrinsics(focal_px or frame.focal_px or default_focal_px(width, height), (width / 2, height / 2))
