"""Every module that is a command of its own (python -m MODULE) starts, and takes what README and docs/ give it."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
STARTED = re.compile(r"^ *(?:python -m|python|torchrun .* -m) (launch\.py|app\.\S+|core\.\S+)(.*)", re.MULTILINE)
PROGRAM = """
import argparse, contextlib, io, json, runpy, sys

def parse_args(*given, original=argparse.ArgumentParser.parse_args):
    original(*given)
    sys.exit(0)  # before there is any work

argparse.ArgumentParser.parse_args = parse_args
said = []
for module, *arguments in json.load(sys.stdin):
    sys.argv = [module, *arguments]
    for name in [name for name in sys.modules if name.split(".")[0] in ("app", "core")]:
        del sys.modules[name]  # as in a new process
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            end = "went on to work"
        except SystemExit as error:
            end = f"exit code {error.code or 0}"
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
    said.append(f"{end}\\n{printed.getvalue()}")
print(json.dumps(said))
"""


def modules() -> list[str]:
    """Those that are commands, found by the last lines of their files."""
    sources = [path for room in ("app", "core") for path in sorted((REPOSITORY / room).rglob("*.py"))]
    found = [path.relative_to(REPOSITORY) for path in sources if re.search(r'^if __name__ == "__main__":', path.read_text(), re.MULTILINE)]
    return [".".join(path.with_suffix("").parts).removesuffix(".__main__") for path in found]


def documented() -> list[str]:
    """What README and docs/ start them with: "MODULE ARGUMENTS"."""
    texts = [path.read_text() for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))]
    started = [match.groups() for text in texts for match in STARTED.finditer(text)]
    lines = (shlex.join([name.removesuffix(".py"), *shlex.split(rest.split(" &&")[0], comments=True)]) for name, rest in started)
    return [line for line in dict.fromkeys(lines) if "{" not in line]  # which only a shell understands


@pytest.fixture(scope="module")
def shipped() -> dict[Path, int]:
    """Path -> time of change in ns, before any command ran."""
    return {path: path.stat().st_mtime_ns for path in (REPOSITORY / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def said(shipped: dict[Path, int]) -> dict[str, str]:
    """Exit code and what was printed, by "MODULE ARGUMENTS"; all in one process, for importing PyTorch takes seconds."""
    lines = [*(f"{module} --help" for module in modules()), *documented()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps([shlex.split(line) for line in lines]), check=True, stdout=subprocess.PIPE,
        text=True, cwd=REPOSITORY,
    )  # fmt: skip
    return dict(zip(lines, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("module", modules())
def test_a_command_says_how_it_is_used(said: dict[str, str], module: str) -> None:
    assert said[f"{module} --help"].startswith("exit code 0\nusage:"), said[f"{module} --help"]


@pytest.mark.parametrize("line", documented())
def test_a_command_takes_what_is_documented(said: dict[str, str], line: str) -> None:
    assert said[line].startswith("exit code 0\n"), said[line]


def test_asking_how_a_shipped_file_is_made_does_not_make_it(said: dict[str, str], shipped: dict[Path, int]) -> None:
    assert all("--out" in said[f"{module} --help"] for module in ("core.bodies.anny_rig", "core.bodies.export_anny"))
    assert {path: path.stat().st_mtime_ns for path in shipped} == shipped
