"""Network and detector are loaded by two threads, which must not import the same modules at once."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import app.webcam
from app.config import LiveConfig
class Begins:
    def __init__(self, name, work):
        print([name for name in ("core.estimator", "core.person_finder", "core.checkpoint") if name not in sys.modules])
        raise SystemExit
app.webcam.Begun = Begins
app.webcam.open_pipeline(LiveConfig())
"""


def test_what_both_threads_import_is_there_before_the_second_one_begins(repository: Path) -> None:
    """core.backbones and its modules import each other; Python breaks off where two threads begin at different ends of such a circle."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, cwd=repository, timeout=120)
    assert done.stdout.splitlines() == ["[]"], done.stderr


def test_the_detector_needs_no_backbones(repository: Path) -> None:
    program = "import sys\nimport core.multipose\nprint('core.backbones' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=repository, timeout=120)
    assert done.stdout.splitlines() == ["False"]
