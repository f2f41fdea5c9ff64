"""overlay.png: a picture with everybody's mesh on it."""

from pathlib import Path

import cv2
import numpy as np

from app.export.overlay import draw_or_plain
from app.export.sink import SINKS, ClosingSink, Recording, whole
from app.types import Scene


@SINKS.register("overlay.png")
class PictureSink(ClosingSink):
    """A picture of the input's size."""

    def __init__(self, recording: Recording) -> None:
        self.path = recording.folder / "overlay.png"
        self.warnings: list[str] = []
        self._recording = recording

    def write(self, scene: Scene) -> None:
        """Draw and save. Raises OSError when the file cannot be written."""
        image, problem = draw_or_plain(scene, self._recording)
        if problem:
            self.warnings.append(problem)
        write_picture(self.path, image)

    def close(self) -> None:
        """Nothing is open."""


def write_picture(path: Path, image: np.ndarray) -> None:
    """Save (H, W, 3) uint8 RGB; the format follows the suffix. Raises OSError."""
    encoded_well, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not encoded_well:
        raise OSError(f"{path}: the picture could not be encoded")
    with whole(path) as partial:
        partial.write_bytes(data.tobytes())  # not cv2.imwrite: that fails silently, and on non-ASCII names on Windows
