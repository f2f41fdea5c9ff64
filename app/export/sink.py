"""What every file format has in common: a sink takes Scenes one by one and leaves a file when it is closed.

A sink is a context manager. It writes under a `.partial` name and renames when it is closed, so that a finished name always
means a finished file; closing early (Ctrl-C, an error further up) keeps what was written until then. Where something could not be
written, as on a full disk, the overlay keeps its `.partial` name and people.glb is not made: there may be no summary that says that
the run ended early.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from app.stages import Stage, each
from app.types import Intrinsics, Scene
from core.arrays import check_array
from core.errors import InputError
from core.joints import JOINT_NAMES
from core.registry import Registry
from core.stopping import orderly_end

if TYPE_CHECKING:
    from core.bodies import Body

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parameters:
    """The body parameters that are written: names of rotations and shape, their sizes, and labels of their axes."""

    names: tuple[str, str]
    num_bones: int
    num_shape: int
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, body: "Body") -> "Parameters":
        """A body's own."""
        return cls(body.parameter_names, body.num_bones, body.num_shape, body.parameter_labels)


@dataclass(frozen=True)
class Recording:
    """What the sinks know before the first scene.

    folder: where the files go; made when missing
    faces: (F, 3) int32, F = 0 where unknown    vertex_joint_weights: (V, 14) float32, see visibility.vertex_joint_weights
    body: "anny" or "smpl"
    size_px: width, height of the input        fps: its rate
    source: the input file (its sound goes into the overlay), None when there is none
    settings: what summary.json says about how the result was made (JSON values)
    parameters: of the body, where they are written as well
    show_hidden: draw what is hidden or out of the picture too
    camera_turns: scenes say how the camera turns, and that is written as well
    settle: gives a person's last shape to the rows of meshes.npz (n,) that were written before, as app.settling; None: rows stay
    """

    folder: Path
    faces: np.ndarray
    vertex_joint_weights: np.ndarray
    body: str
    size_px: tuple[int, int]
    fps: float
    source: Path | None = None
    expected_frames: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: Parameters | None = None
    show_hidden: bool = False
    camera_turns: bool = False
    settle: Callable[[np.ndarray, np.ndarray, Intrinsics], np.ndarray | None] | None = None

    def __post_init__(self) -> None:
        check_array("Recording.faces", self.faces, (None, 3), np.int32)
        check_array("Recording.vertex_joint_weights", self.vertex_joint_weights, (None, len(JOINT_NAMES)), np.float32)

    @property
    def num_vertices(self) -> int:
        """V."""
        return len(self.vertex_joint_weights)


class Sink(Protocol):
    """Takes scenes, leaves one file. `warnings`: what went wrong without stopping the run, in plain sentences. broken: see ClosingSink."""

    path: Path
    warnings: list[str]
    broken: bool

    def write(self, scene: Scene) -> None:
        """Add one frame."""

    def close(self) -> None:
        """Finish the file. Calling it twice does nothing."""


@runtime_checkable
class DrawingSink(Sink, Protocol):
    """A sink that has to draw before it writes, which may happen ahead and beside."""

    def draw(self, scene: Scene) -> Scene:
        """The scene with what `write` needs of it."""


AnySink = TypeVar("AnySink", bound="ClosingSink")


class ClosingSink:
    """The context manager part, shared by all sinks. broken: something of the run could not be written, so no file of it is whole."""

    broken = False

    def __enter__(self: AnySink) -> AnySink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except Exception as trouble:
            if error is None:
                raise
            same = isinstance(trouble, OSError) and isinstance(error, OSError) and trouble.errno == error.errno
            log.log(logging.DEBUG if same else logging.WARNING, "closing after an error: %s", trouble)  # the error itself says why

    def close(self) -> None:
        """Finish the file."""
        raise NotImplementedError


def named(error: OSError, path: Path) -> OSError:
    """The same error, naming the file: writing to an open file does not."""
    return error if error.filename else type(error)(error.errno, error.strerror or str(error), str(path))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what is called `path` once it is finished, so that a finished name means a finished file. Half a file is of no use,
    and takes the room of what comes after it: where something fails it is removed. Raises OSError that names the file.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise named(error, path) from error
        raise


UP_FROM_CAMERA = np.array([1, -1, -1], np.float32)
"""x right, y down, z away -> x right, y up, z towards the viewer, as 3D files want it. A half turn about x; faces keep their winding."""

SINKS: Registry[Callable[[Recording], Sink]] = Registry("output file")
"""File name -> class(recording) of the sink that writes it; a pattern where it writes a file for each person."""

OVERLAY_SINK = "overlay.mp4"
VIDEO_SINKS = (OVERLAY_SINK, "meshes.npz", "summary.json")
GLB_SINK = "people.glb"
"""Made from meshes.npz, so it is named after that one."""
PICTURE_SINKS = ("overlay.png", "meshes.npz", "summary.json")


def remove_results(folder: Path, names: Iterable[str]) -> None:
    """Remove what an earlier run has left in `folder`: its files called `names`, names of SINKS, in this order."""
    for name in names:
        for stale in folder.glob(name):
            stale.unlink(missing_ok=True)


class LateSink(ClosingSink):
    """Made from the meshes.npz beside it when that is finished, so it must come after that one in a SinkGroup."""

    def __init__(self, recording: Recording, name: str) -> None:
        self.path = recording.folder / name
        self.warnings: list[str] = []
        self._rows = recording.folder / "meshes.npz"
        self._closed = False

    def make(self, rows: Path) -> None:
        """Write it. rows: the meshes.npz. Raises InputError where there is nothing to write."""
        raise NotImplementedError

    def write(self, scene: Scene) -> None:
        """Nothing: the rows are in meshes.npz."""

    def close(self) -> None:
        """Write it; where there is nothing to write, or not all of it, a warning says so, and none is left."""
        if self._closed:
            return
        self._closed = True
        remove_results(self.path.parent, [self.path.name])
        if self.broken:
            self.warnings.append(f"no {self.path.name}: not all of the run could be written")
            return
        try:
            self.make(self._rows)
        except InputError as error:
            self.warnings.append(f"no {self.path.name}: {error}")


class SinkGroup(ClosingSink):
    """Several sinks written together.

    The time each takes per frame is added to the scene's timings; summary.json comes last and gets all warnings.

    num_scenes: written so far; busy_s: seconds that each thread of the run has worked, for summary.json, to be set before the end
    """

    def __init__(self, recording: Recording, names: tuple[str, ...] = VIDEO_SINKS) -> None:
        """Open the sinks called `names` in `recording.folder`, where files of the others are from an earlier run and go.

        Raises OSError when the folder cannot be written.
        """
        recording.folder.mkdir(parents=True, exist_ok=True)
        self._sinks: dict[str, Sink] = {}
        self._warnings: list[str] = []
        self.num_scenes = 0
        self.busy_s: Mapping[str, float] = {}
        try:
            for name in sorted(names, key=lambda name: name == "summary.json"):
                self._sinks[name] = SINKS[name](recording)
            remove_results(recording.folder, (name for name in SINKS if name not in names))
        except BaseException:
            self.close()
            raise

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, finished or to be."""
        return tuple(sink.path for sink in self._sinks.values())

    @property
    def warnings(self) -> list[str]:
        """Everything worth telling, of the run and of the sinks, each once."""
        return list(dict.fromkeys(self._warnings + [text for sink in self._sinks.values() for text in sink.warnings]))

    def warn(self, text: str) -> None:
        """Note something about the run that summary.json has to say."""
        self._warnings.append(text)

    @property
    def stages(self) -> dict[str, Stage]:
        """What is done to the scenes, name -> stage for app.stages."""
        return ({"draw": each(self._drawn)} if self._drawing else {}) | {"write": each(self._written)}

    @cached_property
    def _drawing(self) -> list[DrawingSink]:
        return [sink for sink in self._sinks.values() if isinstance(sink, DrawingSink)]

    def _drawn(self, scene: Scene) -> Scene:
        start_s = time.perf_counter()
        for sink in self._drawing:
            scene = sink.draw(scene)
        return replace(scene, timings_ms=scene.timings_ms | {"draw": (time.perf_counter() - start_s) * 1e3})

    def _written(self, scene: Scene) -> Scene:
        self.write(scene)
        return scene

    def write(self, scene: Scene) -> None:
        """Hand the scene to every sink in turn."""
        timings_ms = dict(scene.timings_ms)
        for name, sink in self._sinks.items():
            start_s = time.perf_counter()
            try:
                sink.write(replace(scene, timings_ms=dict(timings_ms)))
            except OSError:
                self._mark_broken()
                raise
            timings_ms[name] = (time.perf_counter() - start_s) * 1e3
        self.num_scenes += 1

    def close(self) -> None:
        """Close all, also when one fails or Ctrl-C comes; the first error is raised after the others are closed."""
        with orderly_end():
            self._close_all()

    def _mark_broken(self) -> None:
        for sink in self._sinks.values():
            sink.broken = True

    def _close_all(self) -> None:
        errors: list[Exception] = []
        for name, sink in self._sinks.items():
            if name == "summary.json":
                sink.warnings[:] = self.warnings + [f"{type(error).__name__}: {error}" for error in errors]
                sink.busy_s, sink.complete = self.busy_s, not errors
            try:
                sink.close()
            except Exception as error:  # each remaining sink must still be closed
                log.debug("closing %s failed", name, exc_info=True)
                errors.append(error)
                self._mark_broken()
        if errors:
            raise errors[0]
