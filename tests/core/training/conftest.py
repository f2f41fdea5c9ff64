"""Fixtures of runs on toy pictures."""

from pathlib import Path

import pytest

from tests.core.training.toy_people import write_toy_shards
from tests.core.training.toy_run import register


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy bodies, networks and data sets are known."""
    register(monkeypatch.setitem)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """48 of them."""
    return write_toy_shards(tmp_path / "people", num_shards=2, count=24)


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    """12 others."""
    return write_toy_shards(tmp_path / "validation", num_shards=1, count=12, seed=90)
