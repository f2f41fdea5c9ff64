"""Fixtures that every test may use."""

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """On two cores two threads a library are quickest; of two workers (pytest -n 2) each has one of the cores.

    What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
    if "TEST_OPENVINO" not in os.environ:
        sys.modules["openvino"] = None  # its threads would outlive a test, and later tests fork; see tests.core.own_process


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted networks go to a folder of the tests, also those of programs that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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


@pytest.fixture(scope="session")
def official_rule(shared: Path) -> ModuleType:
    """What draws the weights and the pictures behind the official network's golden outputs."""
    spec = importlib.util.spec_from_file_location("weights_by_name", shared / "official" / "weights_by_name.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule
