"""Checks in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HUNG_S = 1200


def assert_openvino_checks_pass(name: str) -> None:
    """Of a file in tests/core. OpenVINO's threads would stay in the tests' process, in which later tests fork; see conftest."""
    environment = os.environ | {"TEST_OPENVINO": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/core/{name}"]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=HUNG_S, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
