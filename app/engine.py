"""The two networks that everything starts with: what finds people, and what estimates their meshes. Imports little: it decides how soon
the first mesh is there.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import app.landmarker
import app.multipose
import app.nanodet  # noqa: F401  they register detectors
from app.config import LiveConfig
from app.detect import DETECTORS, Detector
from core.errors import InputError

if TYPE_CHECKING:
    from core.estimator import MeshEstimator

DETECTOR_MODELS = Path(__file__).resolve().parent.parent / "checkpoints"
"""Folder."""
DETECTOR_SPARE = 4
"""The detector may report this many more people than are shown, so that a stranger never displaces somebody known."""
NO_FACES = "the body's faces are not known, so skeletons are drawn instead of meshes; they come with an SMPL model"


def open_estimator(config: LiveConfig) -> "MeshEstimator":
    """Load the network. Raises InputError when it is missing, damaged or does not fit the flags."""
    from core import load_estimator

    estimator = load_estimator(config.checkpoint, config.device, config.precision, config.mesh_dir)
    check_fits(estimator, config)
    return estimator


def check_fits(estimator: "MeshEstimator", config: LiveConfig) -> None:
    """Raises InputError when the network does not fit the flags."""
    from app.parametric import chosen_fitter

    if config.body not in ("auto", estimator.body.name):
        raise InputError(f"--body {config.body}: the checkpoint {config.checkpoint!r} is for {estimator.body.name}; use --body auto")
    fitter = chosen_fitter(estimator.body, config)  # a missing rig file says so here, not at the first person
    if config.parametric and not estimator.config.parametric and fitter is None:
        asked = "--vmc" if config.vmc else "--parametric"
        raise InputError(
            f"{asked}: the checkpoint {config.checkpoint!r} has no parameter regressor, and the body {estimator.body.name!r} "
            "cannot be fitted; leave it out"
        )
    if config.mesh == "parametric" and fitter is None:
        raise InputError(f"--mesh parametric: the body {estimator.body.name!r} cannot be fitted; use --mesh auto")


def open_detector(config: LiveConfig) -> Detector:
    """Load the person detector; to be closed. Raises InputError when its model is missing or damaged."""
    return DETECTORS[config.detector](DETECTOR_MODELS, config.max_people + DETECTOR_SPARE)
