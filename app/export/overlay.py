"""overlay.mp4: the input with everybody's mesh on it."""

import logging
from dataclasses import replace

import av
import numpy as np

from app.export.mp4 import Mp4Writer, Soundtrack
from app.export.sink import SINKS, ClosingSink, Recording
from app.render import draw_overlay, draw_skeletons
from app.types import Scene

log = logging.getLogger(__name__)


def draw_or_plain(scene: Scene, recording: Recording) -> tuple[np.ndarray, str | None]:
    """The drawn picture, or the plain one and a sentence about why: what draws may fail without stopping what infers.

    Skeletons are drawn where the body's faces are not known.
    """
    try:
        if not len(recording.faces):
            return draw_skeletons(scene.frame.image, scene.meshes, recording.show_hidden), None
        weights = None if recording.show_hidden else recording.vertex_joint_weights
        return draw_overlay(scene, recording.faces, weights), None
    except Exception as error:
        log.debug("drawing failed", exc_info=True)
        return scene.frame.image, f"the overlay could not be drawn at frame {scene.frame.index}: {error}"


@SINKS.register("overlay.mp4")
class OverlaySink(ClosingSink):
    """The input's size (odd sides grow by one pixel, see Mp4Writer), rate, timestamps and sound; H.264, upright.

    When drawing fails the plain picture is written instead and `warnings` says so, once.
    """

    def __init__(self, recording: Recording) -> None:
        """Raises OSError when the folder cannot be written."""
        self.path = recording.folder / "overlay.mp4"
        self.warnings: list[str] = []
        self._recording = recording
        self._partial = recording.folder / "overlay.partial.mp4"
        self._drawing_failed = False
        self._sound = self._open_sound()
        self._writer: Mp4Writer | None = Mp4Writer(self._partial, recording.size_px, recording.fps, self._sound)

    def draw(self, scene: Scene) -> Scene:
        """The scene with its overlay. May run in another thread than `write`, for the frames to come."""
        image, problem = draw_or_plain(scene, self._recording)
        if problem and not self._drawing_failed:
            self._drawing_failed = True
            self.warnings.append(problem)
            log.warning("%s; plain pictures are written where it fails", problem)
        return replace(scene, overlay=image)

    def write(self, scene: Scene) -> None:
        """Encode one frame, drawn now if it is not yet."""
        if self._writer is None:
            raise ValueError("overlay.mp4 is closed already")
        image = scene.overlay if scene.overlay is not None else self.draw(scene).overlay
        self._writer.write(image, scene.frame.time_s)

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            writer.close()
        except OSError:
            self.warnings.append(f"{self._partial.name} is not finished; it holds the frames that were written")
            raise
        if self._sound is not None and self._sound.warning:
            self.warnings.append(self._sound.warning)
        if self.broken:
            self.warnings.append(f"{self._partial.name} ends early")
        elif self._partial.exists():  # it does when a frame was written
            self._partial.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)  # an earlier run's

    def _open_sound(self) -> Soundtrack | None:
        if self._recording.source is None:
            return None
        try:
            return Soundtrack(self._recording.source)
        except LookupError:
            return None
        except (av.FFmpegError, OSError) as error:
            self.warnings.append(f"the sound of {self._recording.source.name} cannot be read: {error}")
            log.warning("%s", self.warnings[-1])
            return None
