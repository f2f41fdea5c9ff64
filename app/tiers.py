"""Two networks behind one name: the better one, and a quicker one for cameras that the better one would hold up.

A recording, a picture, the demo: the better one always. A camera: the better one on a GPU; on a processor for as many people at once as
it has time for, and the quicker one for more. Imports little, as app.engine.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app import engine
from app.config import LiveConfig

if TYPE_CHECKING:
    import numpy as np

    from app.pipeline import Estimator
    from core.bodies import Body
    from core.estimator import MeshEstimator
    from core.types import MeshEstimate, PersonCrop

log = logging.getLogger(__name__)

QUICKER = {"default": "default-live"}
"""Checkpoint -> what cameras get instead of it where it is too slow."""
COST = 1.65
"""Time of the better one over that of the quicker one, one crop in bf16: 1.57 to 1.65 on two machines."""
BUDGET_MS = 20.0
"""A camera's network has so long for one person, on all cores. The rest of a frame's 40 ms (25 frames a second) is for all else: two cores
that take 15 ms draw 29 frames a second in a window by software.
"""
NUM_TIMED = 7
CROWDED_S, CALM_S = 0.4, 2.0
"""After so long with too many people in every frame the quicker network takes over, and the better one after so long without. Not at once:
with the network everybody's mesh changes a little.
"""


class Tiered:
    """A camera's two networks, as one. Not to be called from two threads at once."""

    def __init__(self, better: "Estimator", quicker: "Estimator", most_people: int, clock: Callable[[], float] = time.monotonic) -> None:
        """most_people: at once, for whom the better one has time; clock: seconds"""
        self.body: Body = better.body
        self.warning = better.warning or quicker.warning
        self._networks, self._most_people, self._clock = (better, quicker), most_people, clock
        self._crowded, self._since_s = False, math.inf

    @property
    def checkpoint(self) -> str:
        """Name of the one that is at work."""
        return self._networks[self._crowded].checkpoint

    def crop(self, image: "np.ndarray", box_px: "np.ndarray", roll_rad: float = 0.0) -> "PersonCrop":
        """As either's."""
        return self._networks[self._crowded].crop(image, box_px, roll_rad)

    def from_crops(self, crops: "list[PersonCrop]") -> "list[MeshEstimate]":
        """All people of a frame at once; to be told of frames without any, too."""
        now_s = self._clock()
        if (len(crops) > self._most_people) == self._crowded:
            self._since_s = math.inf
        else:
            self._since_s = min(self._since_s, now_s)
        if now_s - self._since_s >= (CALM_S if self._crowded else CROWDED_S):
            self._crowded, self._since_s = not self._crowded, math.inf
            log.info("camera: %s from here on; people in the picture: %d", self.checkpoint, len(crops))
        return self._networks[self._crowded].from_crops(crops)


@dataclass(frozen=True)
class Tier:
    """What cameras get. checkpoint: a network's name; most_people: at once, None for any number; more get the quicker one"""

    checkpoint: str
    most_people: int | None = None

    def __str__(self) -> str:
        if self.most_people is None:
            return self.checkpoint
        people = "1 person" if self.most_people == 1 else f"{self.most_people} people"
        return f"{self.checkpoint} with {people} in the picture, {QUICKER[self.checkpoint]} with more"

    def open(self, config: LiveConfig, open_network: "Callable[[LiveConfig], Estimator]") -> "tuple[LiveConfig, Estimator]":
        """The settings with the network's name in them, and the network."""
        named = replace(config, checkpoint=self.checkpoint)
        network = open_network(named)
        if self.most_people is None:
            return named, network
        quicker = open_network(replace(config, checkpoint=QUICKER[self.checkpoint]))
        return named, Tiered(network, quicker, self.most_people)


def open_for_camera(
    config: LiveConfig, open_network: "Callable[[LiveConfig], MeshEstimator] | None" = None
) -> "tuple[LiveConfig, Estimator]":
    """The network of a camera, and the settings with its name in them.

    open_network: how one is loaded, by default app.engine.open_estimator. Raises InputError as that does.
    """
    once = loading_once(open_network or engine.open_estimator)
    return tier_for(config, once).open(config, once)


def loading_once(open_network: "Callable[[LiveConfig], MeshEstimator]") -> "Callable[[LiveConfig], MeshEstimator]":
    """The same, but what has been loaded once is given again."""
    loaded: dict[str, MeshEstimator] = {}

    def once(wanted: LiveConfig) -> "MeshEstimator":
        if wanted.checkpoint not in loaded:
            loaded[wanted.checkpoint] = open_network(wanted)
        return loaded[wanted.checkpoint]

    return once


def tier_for(config: LiveConfig, open_network: "Callable[[LiveConfig], MeshEstimator]") -> Tier:
    """What this machine has time for. Loads the quicker network to find that out, where there is one."""
    from core.estimator import choose_device

    quicker = QUICKER.get(config.checkpoint)
    if quicker is None or choose_device(config.device)[0] != "cpu":
        return Tier(config.checkpoint)
    needs_ms = COST * crop_ms(open_network(replace(config, checkpoint=quicker)))
    most_people = int(BUDGET_MS // needs_ms)
    tier = Tier(config.checkpoint, most_people) if most_people else Tier(quicker)
    log.info("camera: %s; %s would take about %.0f ms a person on this machine", tier, config.checkpoint, needs_ms)
    return tier


def crop_ms(estimator: "MeshEstimator") -> float:
    """Median time of one crop, milliseconds, with the threads that PyTorch has now."""
    import numpy as np

    from core.pixels import patchwork
    from core.timing import Spread, take_turns
    from core.types import PersonCrop

    crop = PersonCrop(patchwork(1).numpy()[0], np.eye(2, 3))
    times_ms = take_turns({"crop": lambda: estimator.from_crops([crop])}, NUM_TIMED, warm_up=1)["crop"]
    return Spread.of(times_ms).median_ms
