"""Which networks can be chosen, what each may be used for, as its own file says, and how cameras and jobs share them."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app.check import file_facts
from app.config import LiveConfig
from app.engine import check_fits, open_estimator
from app.pipeline import Estimator
from app.tiers import Tier, tier_for
from core.bodies import BODIES, Body
from core.checkpoint import find_checkpoint, known_checkpoints
from core.errors import InputError
from core.estimator import MeshEstimator
from core.types import MeshEstimate, PersonCrop

ANY_BODY, UNSMOOTHED = "auto", "none"
MAX_LOADED = 3
"""Networks that stay in memory: a camera may have two."""
BODY_LICENCES = {"anny": ("Anny body: CC0 and Apache-2.0", "yes"), "smpl": ("SMPL body: non-commercial research", "no")}


@dataclass(frozen=True)
class Model:
    """A network that can be chosen. commercial_use: yes, no, or "see licence"."""

    name: str
    variant: str
    body: str
    licence: str
    commercial_use: str


def known_models(config: LiveConfig) -> dict[str, Model]:
    """Name -> network: those in checkpoints/, and the one that --checkpoint names."""
    paths: dict[str, Path] = dict(known_checkpoints())
    if config.checkpoint not in paths:
        paths = {config.checkpoint: find_checkpoint(config.checkpoint)} | paths
    models = [_model(name, path) for name, path in paths.items()]
    models.sort(key=lambda model: model.name != config.checkpoint)
    return {model.name: model for model in models}


def bodies() -> tuple[str, ...]:
    """What may be chosen as the body."""
    return (ANY_BODY, *BODIES)


def models_for(models: Mapping[str, Model], body: str) -> list[str]:
    """Names of the networks that have this body."""
    return [model.name for model in models.values() if body in (ANY_BODY, model.body)]


def none_for(body: str) -> str:
    """What is said where no network has this body."""
    return f"no network for the body {body!r} is here; README says how to bring one: python -m core.convert"


def _model(name: str, path: Path) -> Model:
    """Read from the file's header. Raises InputError when the file is damaged."""
    try:
        facts, settings = file_facts(path), _header_config(path)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: {error}; copy or download it again") from error
    commercial = facts.get("commercial_use") or "see licence"
    if not settings:  # an official file: made with SMPL
        return Model(name, "official FastMETRO", "smpl", facts.get("licence") or "non-commercial research", "no")
    return Model(name, settings.get("name", "?"), settings.get("body", "?"), facts.get("licence") or "not stated", commercial)


def _header_config(path: Path) -> dict[str, str]:
    """The network's configuration in a .safetensors file; empty for other files."""
    if path.suffix != ".safetensors":
        return {}
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    config = header.get("__metadata__", {}).get("config")
    return json.loads(config) if config else {}


class SharedEstimator:
    """One network for several threads: they take turns."""

    def __init__(self, estimator: Estimator) -> None:
        self._estimator, self._turn = estimator, threading.Lock()
        self.body: Body = estimator.body
        self.checkpoint, self.warning = estimator.checkpoint, estimator.warning

    def crop(self, image: np.ndarray, box_px: np.ndarray, roll_rad: float = 0.0) -> PersonCrop:
        """As the estimator's; needs no turn."""
        return self._estimator.crop(image, box_px, roll_rad)

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        """As the estimator's, one caller at a time."""
        if not crops:
            return []
        with self._turn:
            return self._estimator.from_crops(crops)


class Networks:
    """Loads networks when they are first wanted and keeps the last few; jobs and cameras share them."""

    def __init__(self, config: LiveConfig) -> None:
        self.config = config
        self._loaded: dict[str, tuple[MeshEstimator, SharedEstimator]] = {}
        self._lock, self._choosing = threading.Lock(), threading.Lock()
        self._tiers: dict[str, Tier] = {}

    def config_for(
        self, model: str | None, body: str | None = None, smooth: bool | None = None, max_people: int | None = None
    ) -> LiveConfig:
        """The run's settings as the visitor chose them, None where the flags decide.

        Raises InputError for a network that is not among those to be chosen; model: None or "" when there were none.
        """
        flags = self.config
        body = body or flags.body
        if not model:
            raise InputError(none_for(body))
        if model not in known_models(flags):
            raise InputError(f"there is no network called {model!r} here")
        smoothed = LiveConfig.smoothing if flags.smoothing == UNSMOOTHED else flags.smoothing
        smoothing = {None: flags.smoothing, True: smoothed, False: UNSMOOTHED}[smooth]
        return replace(flags, checkpoint=model, body=body, smoothing=smoothing, max_people=max_people or flags.max_people, glb=True)

    def estimator(self, config: LiveConfig) -> MeshEstimator:
        """For a job. Raises InputError."""
        return self._get(config)[0]

    def for_camera(self, config: LiveConfig) -> tuple[LiveConfig, Estimator]:
        """For one camera, which takes turns with others: the settings with the network's name in them, and the network. Raises InputError.

        The first camera finds out which one this machine has time for; see app.tiers.
        """
        with self._choosing:
            if config.checkpoint not in self._tiers:
                self._tiers[config.checkpoint] = tier_for(config, self.estimator)
        return self._tiers[config.checkpoint].open(config, lambda wanted: self._get(wanted)[1])

    def _get(self, config: LiveConfig) -> tuple[MeshEstimator, SharedEstimator]:
        with self._lock:
            pair = self._loaded.pop(config.checkpoint, None)
            if pair is None:
                estimator = open_estimator(config)
                pair = estimator, SharedEstimator(estimator)
            check_fits(pair[0], config)
            self._loaded[config.checkpoint] = pair
            while len(self._loaded) > MAX_LOADED:
                del self._loaded[next(iter(self._loaded))]
            return pair
