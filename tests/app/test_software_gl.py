"""What is set for a software OpenGL: only where there is no graphics card, and never over what the user set."""

import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Mesa's software OpenGL is Linux's")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIBGL_ALWAYS_SOFTWARE", "DRI_NO_MSAA", "LP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_graphics_card_is_seen_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.viewer.software_gl import draws_in_software

    assert draws_in_software(tmp_path)
    (tmp_path / "dri").mkdir()
    (tmp_path / "dri" / "renderD128").touch()
    assert not draws_in_software(tmp_path)
    monkeypatch.setenv("LIBGL_ALWAYS_SOFTWARE", "1")
    assert draws_in_software(tmp_path)


@pytest.mark.parametrize(("cores", "wanted"), [
    (2, {"DRI_NO_MSAA": "1", "LP_NUM_THREADS": "0"}), (4, {"DRI_NO_MSAA": "1"}), (8, {}),
])  # fmt: skip
def test_few_cores_draw_plainer(cores: int, wanted: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from app.viewer import software_gl

    monkeypatch.setattr(software_gl, "draws_in_software", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    software_gl.settle_software_gl()
    assert {name: os.environ[name] for name in ("DRI_NO_MSAA", "LP_NUM_THREADS") if name in os.environ} == wanted


def test_what_the_user_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.viewer import software_gl

    monkeypatch.setattr(software_gl, "draws_in_software", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setenv("DRI_NO_MSAA", "0")
    software_gl.settle_software_gl()
    assert os.environ["DRI_NO_MSAA"] == "0"
