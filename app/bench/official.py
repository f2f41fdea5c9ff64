"""An estimator whose network runs as the release lays it out, eagerly in float32: what the app's own is compared with, on the same work."""

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch

from core.errors import InputError
from core.estimator import MeshEstimator
from core.model import FastMETRO
from core.runtimes import MAX_BATCH, RUNTIMES, Runtime, on_cpu
from core.ways import official_layout

if TYPE_CHECKING:
    from core.checkpoint import Checkpoint
    from core.model import Prediction

OFFICIAL = "official layout"


class OfficialRuntime:
    """See core.reference."""

    words, precision, max_batch = f"{OFFICIAL}, run eagerly", "fp32", MAX_BATCH

    def __init__(self, model: FastMETRO, device: str) -> None:
        """Raises InputError for a network that the release has no layout for."""
        self._runner = official_layout(model, device)

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> "Prediction":
        """As Runtime's."""
        return on_cpu(self._runner.whole(self._runner.prepare(torch.from_numpy(crops))))


@RUNTIMES.register(OFFICIAL)
def _official(model: FastMETRO, device: str, precision: str) -> Runtime:
    del precision
    return OfficialRuntime(model.to(device), device)


def official_estimator(checkpoint: "Checkpoint", device: str) -> MeshEstimator | None:
    """None for a network that the release has no layout for. `checkpoint` stays as it is."""
    try:
        return MeshEstimator(copy.deepcopy(checkpoint.model), checkpoint.body, device, runtimes=(OFFICIAL,))
    except InputError:
        return None
