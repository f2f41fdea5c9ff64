"""Fixtures of runs of launch.py."""

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
