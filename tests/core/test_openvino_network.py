import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("checks", ["openvino_checks.py", "openvino_cache_checks.py"])
def test_in_a_process_of_its_own(checks: str) -> None:
    """OpenVINO's threads would stay in the tests' process, in which later tests fork; see conftest."""
    environment = os.environ | {"TEST_OPENVINO": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/core/{checks}"]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
