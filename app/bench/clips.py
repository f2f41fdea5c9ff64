"""The clips that benchmarks run on: the demo's walker, rendered once, then cut into pictures of any size with any number of people."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from app.export.mp4 import Mp4Writer
from app.types import Frame
from app.walker import Walker
from core.bodies import load_body
from core.geometry import default_focal_px

MASTER_PX = (854, 480)
FPS = 30.0
CELLS = {1: (1, 1), 2: (2, 1), 4: (4, 1), 8: (4, 2)}
"""People -> columns and rows of a picture that shows each in a cell of their own."""
PHASE_FRAMES = 11
"""How far each walker is ahead of the one before."""


@dataclass(frozen=True)
class Scenery:
    """What the clips are cut from. pictures: (T, H, W, 3) uint8 of the walker; centers_x_px: (T,) where he is; room: (H, W, 3) uint8."""

    pictures: np.ndarray
    centers_x_px: np.ndarray
    room: np.ndarray

    @classmethod
    def render(cls, num_frames: int) -> "Scenery":
        """Takes about 0.1 s a frame."""
        walker = Walker(load_body("anny"), MASTER_PX, default_focal_px(640, 480))
        frames = [walker.frame(index / FPS) for index in range(num_frames)]
        focal_px, (middle_px, _) = walker.intrinsics.focal_px, walker.intrinsics.principal_px
        centers = [middle_px + focal_px * frame.translation_m[0] / frame.translation_m[2] for frame in frames]
        return cls(np.stack([frame.image for frame in frames]), np.array(centers), walker.empty_room)

    def picture(self, index: int, clip: "Clip") -> np.ndarray:
        """(H, W, 3) uint8. The walker goes forth and back, so that a clip may be of any length."""
        columns, rows = clip.cells
        width, height = clip.size_px[0] // columns, clip.size_px[1] // rows
        image = np.empty((clip.size_px[1], clip.size_px[0], 3), np.uint8)
        for cell in range(columns * rows):
            x, y = cell % columns * width, cell // columns * height
            right = clip.size_px[0] if (cell + 1) % columns == 0 else x + width
            bottom = clip.size_px[1] if cell >= columns * (rows - 1) else y + height
            here = self._there_and_back(index + cell * PHASE_FRAMES) if cell < clip.num_people else None
            image[y:bottom, x:right] = self._window(here, right - x, bottom - y)
        return image

    def _there_and_back(self, index: int) -> int:
        count = len(self.pictures)
        index %= max(1, 2 * (count - 1))
        return index if index < count else 2 * (count - 1) - index

    def _window(self, index: int | None, width: int, height: int) -> np.ndarray:
        """A part of the full height and of this aspect around the walker, or of the empty room, in this size."""
        source, center = (self.room, MASTER_PX[0] / 2) if index is None else (self.pictures[index], self.centers_x_px[index])
        part = min(MASTER_PX[0], round(MASTER_PX[1] * width / height))
        x0 = int(np.clip(round(center - part / 2), 0, MASTER_PX[0] - part))
        shrinks = height < MASTER_PX[1]
        return cv2.resize(source[:, x0 : x0 + part], (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Clip:
    """size_px: width, height; num_people: in it at all times; cells: columns and rows of the picture, by default as few as hold them."""

    size_px: tuple[int, int]
    num_people: int
    num_frames: int
    grid: tuple[int, int] | None = None

    @property
    def cells(self) -> tuple[int, int]:
        """Columns, rows."""
        return self.grid or CELLS[min(count for count in CELLS if count >= self.num_people)]

    @cached_property
    def name(self) -> str:
        """For tables."""
        return f"{self.size_px[0]}x{self.size_px[1]}, {self.num_people} {'person' if self.num_people == 1 else 'people'}"

    def frames(self, scenery: Scenery) -> list[Frame]:
        """All of it in memory."""
        return [Frame(scenery.picture(index, self), index / FPS, index) for index in range(self.num_frames)]

    def write(self, scenery: Scenery, path: Path, fps: float = FPS) -> Path:
        """As an MP4 file; returns its path."""
        writer = Mp4Writer(path, self.size_px, fps)
        try:
            for index in range(self.num_frames):
                writer.write(scenery.picture(index, self), index / fps)
        finally:
            writer.close()
        return path
