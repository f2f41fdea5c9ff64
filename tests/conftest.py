"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Two cores: one thread a library is quickest for nets this small, and keeps timings of neighbours honest."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "2")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds launch.py."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's folder of shared data beside the repository; tests that need it skip where it is missing."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the shared data folder ../shared, which this machine does not have")
    return folder
