"""Stand-ins for modules: nothing is loaded until it is used, and then the real one is."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from app.lean_imports import imported_later


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "library_used.py").write_text("import library_heavy.part as part\nimport library_heavy\ndef use(): return part.answer\n")
    (tmp_path / "library_heavy").mkdir()
    (tmp_path / "library_heavy" / "__init__.py").write_text("name = 'heavy'\n")
    (tmp_path / "library_heavy" / "part.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith("library_")]:
        del sys.modules[name]


def test_a_module_is_loaded_when_it_is_used(library: None) -> None:
    with imported_later("library_heavy", "library_heavy.part"):
        used = importlib.import_module("library_used")
    assert "library_heavy" not in sys.modules and "library_heavy.part" not in sys.modules
    assert used.use() == 42
    assert sys.modules["library_heavy.part"].answer == 42
    assert used.library_heavy.name == "heavy"
    assert importlib.import_module("library_heavy").name == "heavy"


def test_modules_that_are_there_stay(library: None) -> None:
    before = importlib.import_module("library_heavy")
    with imported_later("library_heavy"):
        assert importlib.import_module("library_heavy") is before
    assert sys.modules["library_heavy"] is before


@pytest.mark.parametrize(("detector", "heavy"), [("movenet", "mediapipe"), ("mediapipe", "torch")])
def test_a_detector_loads_no_plotting_and_not_what_the_other_needs(repository: Path, detector: str, heavy: str) -> None:
    program = (
        "import sys\nfrom app.config import LiveConfig\nfrom app.engine import open_detector\n"
        f"open_detector(LiveConfig(detector={detector!r})).close()\n"
        f"print([name for name in ('matplotlib', 'sounddevice', 'numba', {heavy!r}) if name in sys.modules])\n"
        "import matplotlib.pyplot as plt\nprint(plt.figure.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout.splitlines() == ["[]", "matplotlib.pyplot"]


def test_another_part_of_the_module_can_be_imported_meanwhile(library: None, tmp_path: Path) -> None:
    (tmp_path / "library_heavy" / "other.py").write_text("answer = 43\n")
    with imported_later("library_heavy", "library_heavy.part"):
        assert importlib.import_module("library_heavy.other").answer == 43
    assert importlib.import_module("library_heavy").other.answer == 43
