"""What synthetic people to make: the settings that both renderers share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.crop import CROP_SCALE
from core.errors import InputError
from core.training.pose_sources import FITTED, check_names
from core.training.scenery import check_folders

VALIDATION_SEED = 1_000_000_000
"""Seeds from here on are for validation: training refuses them."""


def several(names: str | Path | Sequence[str | Path]) -> tuple[str | Path, ...]:
    """One name, or several: a config may say either."""
    return (names,) if isinstance(names, str | Path) else tuple(names)


@dataclass(frozen=True)
class PeopleConfig:
    """What people to make. recorded_share of the poses come from `poses`, names for core.training.pose_sources.

    backgrounds: folders; held_out: shapes, outfits and backgrounds that training never sees
    levelled_share: of the people are turned in the picture until they stand upright, see core.levelling; of those held out nobody
    crop_scale: side of the crops over the longer side of what the picture shows of a person, as in ModelConfig
    """

    seed: int = 0
    backgrounds: tuple[Path, ...] = ()
    poses: tuple[str, ...] = (FITTED,)
    recorded_share: float = 0.35
    held_out: bool = False
    levelled_share: float = 0.6
    crop_scale: float = CROP_SCALE

    @property
    def share_to_level(self) -> float:
        """levelled_share in training, 0 for those held out: an estimator levels these itself."""
        return 0.0 if self.held_out else self.levelled_share

    def check(self) -> None:
        """Raise InputError for numbers out of range, and for folders and files that are not there."""
        low = VALIDATION_SEED if self.held_out else 0
        if not low <= self.seed < low + VALIDATION_SEED:
            raise InputError(f"synthetic people: got seed {self.seed - low}, expected 0 to {VALIDATION_SEED - 1}")
        if not 0 <= self.recorded_share <= 1:
            raise InputError(f"synthetic people: got a share of recorded poses (recorded_share) of {self.recorded_share}, expected 0 to 1")
        if not 0 <= self.levelled_share <= 1:
            raise InputError(f"synthetic people: got a share of levelled people (levelled_share) of {self.levelled_share}, expected 0 to 1")
        if not 1 <= self.crop_scale < 10:
            raise InputError(f"synthetic people: got crops of {self.crop_scale} times the box (crop_scale), expected 1 or more")
        check_folders(self.backgrounds)
        check_names(self.poses)
