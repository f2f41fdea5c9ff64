"""--check: what is said of packages and files that are there, missing, or others than expected."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import app.check
from app.check import check, file_facts, origin_of
from app.config import LiveConfig


def test_every_requirement_is_named_with_its_version(repository: Path) -> None:
    report, usable = check(LiveConfig())
    assert usable
    for line in (repository / "requirements.txt").read_text().splitlines():
        name = re.match(r"[\w-]*", line)[0]
        if name and not name.startswith("open3d"):
            assert f"  {name:24} {importlib.metadata.version(name)}\n" in report
    assert "anny_poses.safetensors: poses of synthetic people" in report
    assert "commercial use allowed" not in report  # "commercial use: yes" says it


def test_a_package_that_is_too_old_or_missing_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "requirements.txt"
    listed.write_text("numpy>=99  # far ahead\nno-such-package>=1\nno-such-either; sys_platform == 'plan9'\nopenvino>=1\n")
    monkeypatch.setattr(app.check, "REQUIREMENTS", listed)
    monkeypatch.setattr(app.check, "OPTIONAL", {"no-such-package": "nobody needs it"})
    report, usable = check(LiveConfig())
    assert not usable
    assert f"numpy                    {importlib.metadata.version('numpy')}, expected >=99" in report
    assert "missing: the Python package numpy >=99; pip install -r requirements.txt" in report
    assert "no-such-package          not installed; nobody needs it" in report
    assert report.count("missing: the Python") == 1
    assert "plan9" not in report
    assert "no-such-either" not in report


def test_without_any_package_there_is_still_a_report(repository: Path) -> None:
    program = "import sys, launch\nsys.exit(launch.main(['--check']))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(repository)!r})\n{program}"],
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "missing: the Python packages; pip install -r requirements.txt" in done.stdout
    assert "default.safetensors: network" in done.stdout


def test_a_missing_file_is_a_problem_unless_only_training_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for asset in app.check.ASSETS:
        if not asset.spare:
            (tmp_path / asset.name).symlink_to(app.check.CHECKPOINTS / asset.name)
    monkeypatch.setattr(app.check, "CHECKPOINTS", tmp_path)
    report, usable = check(LiveConfig())
    assert usable
    assert "anny_poses.safetensors: missing; only training on synthetic people needs it" in report
    (tmp_path / "default.safetensors").unlink()
    report, usable = check(LiveConfig())
    assert not usable
    assert "missing: default.safetensors (network); it belongs to the repository" in report


def test_a_blend_says_where_its_first_weights_come_from(repository: Path) -> None:
    facts = file_facts(repository / "checkpoints" / "default.safetensors")
    assert facts["origin"].startswith("BlazePose heavy landmark network (npm @mediapipe/pose")
    assert "MoveNet SinglePose Thunder" in facts["origin"]
    assert "0.75 of" in facts["origin"]
    assert origin_of({"origin": "random weights"}) == "random weights"
    assert origin_of({}) == ""
