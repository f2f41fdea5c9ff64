"""A detector and a network that know the answer: people are white rectangles on black."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from app.types import Frame, Person
from core.crop import crop_person
from core.geometry import crop_px_from_unit
from core.types import MeshEstimate, PersonCrop
from tests.toy import ToyBody

WHITE_ABOVE = 128


class RectangleDetector:
    """Every connected white area is a person. blind_at_s: times at which it finds nobody; looks: how often it was asked."""

    def __init__(self, blind_at_s: tuple[float, float] = (1.0, 0.0)) -> None:
        self.blind_at_s, self.looks, self.closed = blind_at_s, 0, False
        self.time_s = 0.0

    def detect(self, image: np.ndarray, known_boxes_px: tuple[np.ndarray, ...] = (), thorough: bool = False) -> list[Person]:
        """Left to right."""
        del known_boxes_px, thorough
        self.looks += 1
        if self.blind_at_s[0] <= image[0, 0, 0] / 100 < self.blind_at_s[1]:  # the corner's brightness tells the time
            return []
        columns = np.flatnonzero((image[1:, :, 0] > WHITE_ABOVE).any(0))
        groups = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1) if len(columns) else []
        people = []
        for group in groups:
            rows = np.flatnonzero((image[1:, group, 0] > WHITE_ABOVE).any(1)) + 1
            box = np.array([group[0], rows[0], group[-1] + 1, rows[-1] + 1], np.float32)
            people.append(Person(box, 0.9, landmark_visibility=np.ones(14, np.float32)))
        return people

    def close(self) -> None:
        """Remembered."""
        self.closed = True


class Noting(RectangleDetector):
    """Notes of each look whether it searched tiles for small people."""

    def __init__(self) -> None:
        super().__init__()
        self.thorough: list[bool] = []

    def detect(self, image: np.ndarray, known_boxes_px: tuple[np.ndarray, ...] = (), thorough: bool = False) -> list[Person]:
        """Noted."""
        self.thorough.append(thorough)
        return super().detect(image, known_boxes_px, thorough)


@dataclass
class TubeEstimator:
    """Puts the toy body over the middle of the crop, as tall as 1 / 1.2 of it. noise_m: of the vertices."""

    body: ToyBody = field(default_factory=ToyBody)
    noise_m: float = 0.0
    batches: list[int] = field(default_factory=list)
    rolls_rad: list[float] = field(default_factory=list)
    description: str = "tube"
    device: str = "cpu"
    precision: str = "fp32"
    checkpoint: str = "default"
    warning: str = ""

    @property
    def faces(self) -> np.ndarray:
        """(F, 3)."""
        return self.body.faces

    def crop(self, image: np.ndarray, box_px: np.ndarray, roll_rad: float = 0.0) -> PersonCrop:
        """As training cuts them; turned by no more than it is told."""
        self.rolls_rad.append(roll_rad)
        return crop_person(image, box_px)

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        """One per crop."""
        self.batches.append(len(crops))
        random = np.random.default_rng(len(self.batches))
        estimates = []
        for crop in crops:
            vertices = self.body.levels.template_m + random.normal(0, self.noise_m, (30, 3)).astype(np.float32)
            joints = np.asarray(self.body.joint_regressor @ vertices, np.float32)
            pelvis = joints[2:4].mean(0)
            camera = np.array([2 / 1.2 / 1.5, *pelvis[:2]], np.float32)
            unit = camera[0] * joints[:, :2]
            joints_px = crop_px_from_unit(unit) @ crop.frame_from_crop[:, :2].T + crop.frame_from_crop[:, 2]
            estimates.append(MeshEstimate(vertices - pelvis, joints - pelvis, joints_px.astype(np.float32), camera, crop.frame_from_crop))
        return estimates


@dataclass
class ShrinkingEstimator(TubeEstimator):
    """Says that people have a share of the size that their box lets expect."""

    share: float = 0.9

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        """One per crop."""
        return [replace(estimate, camera=estimate.camera * np.float32([self.share, 1, 1])) for estimate in super().from_crops(crops)]


def rectangle_frame(index: int, time_s: float, *boxes: tuple[float, float, float, float], size_px: tuple[int, int] = (320, 240)) -> Frame:
    """White boxes x0, y0, x1, y1 on black; the top left pixel's brightness is 100 times the time."""
    image = np.zeros((size_px[1], size_px[0], 3), np.uint8)
    for x0, y0, x1, y1 in np.round(np.array(boxes)).astype(int).tolist():
        image[max(y0, 1) : max(y1, 0), max(x0, 0) : max(x1, 0)] = 255
    image[0, 0] = min(round(100 * time_s), 255)
    return Frame(image, time_s, index)


def walk(num_frames: int, fps: float = 30.0, speed_px_s: float = 60.0) -> Iterator[Frame]:
    """Somebody crosses the picture from the left."""
    for index in range(num_frames):
        x = 40 + speed_px_s * index / fps
        yield rectangle_frame(index, index / fps, (x, 60, x + 40, 180))
