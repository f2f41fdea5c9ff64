"""Fixtures of runs of launch.py."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import app.jobs
from app.config import LiveConfig
from app.jobs import Engine
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.media import write_video


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> RectangleDetector:
    """Runs of launch.main use a detector and a network that know the answer."""
    detector = RectangleDetector()

    @contextmanager
    def opened(config: LiveConfig) -> Iterator[Engine]:
        yield Engine(TubeEstimator(), detector, config)

    monkeypatch.setattr(app.jobs, "open_engine", opened)
    return detector


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """30 frames with somebody in the middle (write_video draws a red quarter, which is bright in the red channel)."""
    return write_video(tmp_path / "clip.mp4", (96, 64), [index / 30 for index in range(30)])


@pytest.fixture
def receivers() -> Iterator[list[socket.socket]]:
    """Three that listen at ports in a row."""
    for port in range(41000, 42000, 3):
        found = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        try:
            for number, one in enumerate(found):
                one.bind(("127.0.0.1", port + number))
                one.settimeout(0.2)
        except OSError:
            for one in found:
                one.close()
            continue
        break
    yield found
    for one in found:
        one.close()
