"""Stand-ins for modules: nothing is loaded until it is used, and then the real one is."""

import importlib
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from core.lean_imports import functions_later, imported_later


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


@pytest.mark.parametrize(("detector", "heavy"), [("nanodet", "mediapipe"), ("movenet", "mediapipe"), ("mediapipe", "torch")])
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


def test_a_function_is_there_before_its_module(library: None, tmp_path: Path) -> None:
    (tmp_path / "library_heavy" / "draw.py").write_text("def draw(*what, **how): return 'drawn', what, how\n")
    (tmp_path / "library_heavy" / "__init__.py").write_text("from .draw import draw\n")
    with functions_later("library_heavy.draw", "draw"):
        package = importlib.import_module("library_heavy")
    assert "library_heavy.draw" not in sys.modules
    for _ in range(2):  # importing a module puts it where the function of the same name was
        assert package.draw(1, two=3) == ("drawn", (1,), {"two": 3})
    assert importlib.import_module("library_heavy.draw").draw(4) == ("drawn", (4,), {})


def test_functions_of_a_module_that_is_there_are_its_own(library: None, tmp_path: Path) -> None:
    (tmp_path / "library_heavy" / "draw.py").write_text("def draw(): return 'drawn'\n")
    module = importlib.import_module("library_heavy.draw")
    with functions_later("library_heavy.draw", "draw"):
        assert importlib.import_module("library_heavy.draw") is module


def test_openvino_comes_without_its_conversion_tools_and_open3d_without_notebooks(repository: Path) -> None:
    if not list(distributions(name="openvino")):
        pytest.skip("OpenVINO is optional: `pip install openvino`")
    program = (
        "import sys\nfrom core.openvino_files import silent_openvino\nsilent_openvino()\n"
        "from app.viewer.lean_open3d import o3d\n"
        "print([name for name in ('openvino.tools.ovc', 'plotly', 'dash') if name in sys.modules])\n"
        "print(type(o3d.visualization.get_plotly_fig([o3d.geometry.TriangleMesh.create_box()])).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout.splitlines() == ["[]", "Figure"]


def test_a_camera_needs_no_linear_algebra_of_scipy_and_less_of_pytorch(repository: Path) -> None:
    program = (
        "import sys, warnings\nimport app.lean_torch, app.live\n"
        "print([name for name in ('torch._meta_registrations', 'scipy.linalg', 'scipy.optimize') if name in sys.modules])\n"
        "import torch\nprint(torch.nn.Conv2d(3, 2, 3)(torch.ones(1, 3, 4, 4)).shape[1])\n"
        "import torch._meta_registrations\n"  # whoever needs them gets the real ones
        "print(torch.nn.functional.conv2d(torch.ones(1, 3, 4, 4, device='meta'), torch.ones(2, 3, 3, 3, device='meta')).shape[1])\n"
        "import numpy\nfrom scipy.sparse.csgraph import laplacian\nprint(int(laplacian(numpy.array([[0, 1], [1, 0]]))[0, 0]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=repository)
    assert done.stdout.splitlines() == ["[]", "2", "2", "1"]
