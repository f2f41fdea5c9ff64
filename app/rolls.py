"""How far each person's crop is turned, so that whoever lies or hangs stands upright in it: as far as their last mesh leaned."""

from core.levelling import wanted_roll_rad
from core.types import MeshEstimate


class Rolls:
    """Remembers it for each key: a track or its id."""

    def __init__(self) -> None:
        self._rolls_rad: dict[int, float] = {}

    def of(self, key: int) -> float:
        """Radians, clockwise; 0 for somebody new."""
        return self._rolls_rad.get(key, 0.0)

    def learn(self, key: int, estimate: MeshEstimate) -> None:
        """Somebody's newest mesh."""
        self._rolls_rad[key] = wanted_roll_rad(estimate.joints_m)

    def forget(self, key: int) -> None:
        """Somebody lost."""
        self._rolls_rad.pop(key, None)

    def clear(self) -> None:
        """A cut."""
        self._rolls_rad.clear()
