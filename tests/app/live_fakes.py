"""A camera, a network and a window for live loops in tests."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.camera import Camera
from app.config import LiveConfig
from app.hud import Hud
from app.live import LivePipeline
from app.liveloop import LiveLoop
from app.threads import Begun
from app.types import Scene
from app.webcam import LiveSession, Recorder
from tests.app.fakes import RectangleDetector, TubeEstimator

CONFIG = LiveConfig(headless=True)


def pictures(fps: float = 60.0) -> Iterator[tuple[np.ndarray, None]]:
    """A person in the middle, for ever."""
    image = np.zeros((120, 160, 3), np.uint8)
    image[20:100, 60:90] = 255
    while True:
        yield image, None
        time.sleep(1 / fps)


def open_fake(estimator: TubeEstimator | None = None) -> LivePipeline:
    return LivePipeline(estimator or TubeEstimator(), RectangleDetector(), CONFIG)


def begun(open_pipeline: Callable[[], LivePipeline] = open_fake) -> Begun[LivePipeline]:
    return Begun("live-load", open_pipeline)


def fake_camera(fps: float = 60.0) -> Camera:
    return Camera("0", connect=lambda _: pictures(fps))


def until(reached: object, limit_s: float = 60.0) -> None:
    end_s = time.perf_counter() + limit_s
    while not reached():
        assert time.perf_counter() < end_s, "never happened"
        time.sleep(0.01)


def somebody(loop: LiveLoop) -> list[int]:
    """Ids of those in the newest scene."""
    return [] if loop.newest is None else [mesh.track_id for mesh in loop.newest.scene.meshes]


class Kept:
    """A sink that remembers; fails at the frame `breaks_at`."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.scenes: list[Scene] = []
        self.breaks_at, self.closed = breaks_at, False

    def write(self, scene: Scene) -> None:
        if len(self.scenes) == self.breaks_at:
            raise OSError("disk full")
        self.scenes.append(scene)

    def close(self) -> None:
        self.closed = True


class FakeWindow:
    """Draws nothing; fails for ever from the drawing `breaks_at` on; closes after `closes_at` drawings."""

    paused = False

    def __init__(self, breaks_at: int | None = None, closes_at: int | None = None) -> None:
        self.breaks_at, self.closes_at = breaks_at, closes_at
        self.drawn: list[tuple[Scene, Hud, str]] = []
        self.tried, self.num_polls, self.closed, self.body = 0, 0, False, None

    def set_body(self, body: object, joint_weights: np.ndarray) -> None:
        assert joint_weights.shape == (30, 14)
        self.body = body

    def show(self, scene: Scene, hud: Hud, source_state: str) -> None:
        self.tried += 1
        if self.breaks_at is not None and self.tried > self.breaks_at:
            raise RuntimeError("the graphics driver gave up")
        self.drawn.append((scene, hud, source_state))

    def poll(self) -> bool:
        self.num_polls += 1
        return self.closes_at is None or len(self.drawn) < self.closes_at

    def close(self) -> None:
        self.closed = True


def session(loop: LiveLoop, camera: Camera, tmp_path: Path, **changes: object) -> tuple[LiveSession, threading.Event]:
    stop, config = threading.Event(), replace(CONFIG, **changes)
    return LiveSession(camera, loop, Recorder(loop, config, tmp_path), config, stop), stop
