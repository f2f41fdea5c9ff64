"""Every module that is a command of its own (python -m MODULE) starts."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = """
import contextlib, io, json, runpy, sys
said = {}
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    for name in [name for name in sys.modules if name.split(".")[0] in ("app", "core")]:
        del sys.modules[name]  # as in a new process
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        said[module] = "went on to work"
    except SystemExit as end:
        said[module] = f"exit code {end.code or 0}: {printed.getvalue()}"
    except Exception as error:
        said[module] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


def commands() -> list[str]:
    """Their names, found by the last lines of their files."""
    sources = [path for room in ("app", "core") for path in sorted((REPOSITORY / room).rglob("*.py"))]
    found = [path.relative_to(REPOSITORY) for path in sources if re.search(r'^if __name__ == "__main__":', path.read_text(), re.MULTILINE)]
    return [".".join(path.with_suffix("").parts).removesuffix(".__main__") for path in found]


@pytest.fixture(scope="module")
def shipped() -> dict[Path, int]:
    """Path -> time of change in ns, before any command ran."""
    return {path: path.stat().st_mtime_ns for path in (REPOSITORY / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def said(shipped: dict[Path, int]) -> dict[str, str]:
    """Module -> how it answers --help; all in one process, for importing PyTorch takes seconds."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *commands()], check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", commands())
def test_a_command_says_how_it_is_used(said: dict[str, str], module: str) -> None:
    assert said[module].startswith("exit code 0: usage:"), said[module]


def test_asking_how_a_shipped_file_is_made_does_not_make_it(said: dict[str, str], shipped: dict[Path, int]) -> None:
    assert all("--out" in said[module] for module in ("core.bodies.anny_rig", "core.bodies.export_anny"))
    assert {path: path.stat().st_mtime_ns for path in shipped} == shipped
