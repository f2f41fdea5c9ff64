"""Two networks behind one name: the better one, and a quicker one for cameras on machines that the better one would hold up.

A recording, a picture, the demo: the better one always. A camera: the better one on a GPU, and on a processor that has time for it.
Imports little, as app.engine.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from app import engine
from app.config import LiveConfig

if TYPE_CHECKING:
    from core.estimator import MeshEstimator

log = logging.getLogger(__name__)

QUICKER = {"default": "default-live"}
"""Checkpoint -> what cameras get instead of it where it is too slow."""
COST = 2.0
"""Time of the better one over that of the quicker one, rounded up."""
BUDGET_MS = 15.0
"""A camera's network has so long for one person. The rest of a frame's 40 ms (25 frames a second) is for all else."""
NUM_TIMED = 7


def open_for_camera(
    config: LiveConfig, open_network: "Callable[[LiveConfig], MeshEstimator] | None" = None
) -> "tuple[LiveConfig, MeshEstimator]":
    """The network of a camera, and the settings with its name in them.

    open_network: how one is loaded, by default app.engine.open_estimator. Raises InputError as that does.
    """
    from core.estimator import choose_device

    open_network = open_network or engine.open_estimator
    quicker = QUICKER.get(config.checkpoint)
    if quicker is None or choose_device(config.device)[0] != "cpu":
        return config, open_network(config)
    modest = replace(config, checkpoint=quicker)
    estimator = open_network(modest)
    needs_ms = COST * crop_ms(estimator)
    if needs_ms > BUDGET_MS:
        log.info("camera: %s, since %s would take about %.0f ms a person on this machine", quicker, config.checkpoint, needs_ms)
        return modest, estimator
    log.info("camera: %s, which takes about %.0f ms a person on this machine", config.checkpoint, needs_ms)
    return config, open_network(config)


def crop_ms(estimator: "MeshEstimator") -> float:
    """Median time of one crop, milliseconds, with the threads that PyTorch has now."""
    import numpy as np

    from core.pixels import patchwork
    from core.timing import Spread, take_turns
    from core.types import PersonCrop

    crop = PersonCrop(patchwork(1).numpy()[0], np.eye(2, 3))
    times_ms = take_turns({"crop": lambda: estimator.from_crops([crop])}, NUM_TIMED, warm_up=1)["crop"]
    return Spread.of(times_ms).median_ms
