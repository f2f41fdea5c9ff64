"""Settings of Mesa, for machines whose OpenGL is drawn by the processor. They must be made before the first window opens."""

import os
import sys
from pathlib import Path

from app.threads import usable_cores

FEW_CORES = 4
"""Up to this many, drawing competes with the network for each of them."""
TWO_CORES = 2
ONE_SAMPLE = {"DRI_NO_MSAA": "1"}
"""Open3D asks for four samples a pixel: smoother edges, at three times the work."""
NO_HELPERS = {"LP_NUM_THREADS": "0"}
"""Mesa's threads wait for one another without pause; where the network needs the other core, one alone is quicker."""


def settle_software_gl() -> None:
    """Let a software OpenGL leave something to the network. What the user set in the environment stands."""
    if not draws_in_software():
        return
    cores = usable_cores()
    wanted = (ONE_SAMPLE if cores <= FEW_CORES else {}) | (NO_HELPERS if cores <= TWO_CORES else {})
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def draws_in_software(devices: Path = Path("/dev")) -> bool:
    """Whether there is no graphics card: on Linux, one shows as a file. devices: where these lie."""
    if not sys.platform.startswith("linux"):
        return False
    if os.environ.get("LIBGL_ALWAYS_SOFTWARE", "0").lower() in ("1", "true", "yes", "y"):
        return True
    return not any(devices.glob("dri/renderD*")) and not any(devices.glob("nvidia[0-9]*"))
