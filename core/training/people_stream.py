"""Synthetic people as an endless data set of pictures: made when asked for, with no files."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from core.bodies import Body, load_body
from core.errors import InputError
from core.geometry import HALF_CROP_PX
from core.training.people import People
from core.training.people_config import VALIDATION_SEED, PeopleConfig, several
from core.training.pose_sources import FITTED
from core.training.posing import FAMILY_NAMES
from core.training.samples import BOX_UNIT_PX, DATASETS, Sample
from core.types import CROP_SIZE_PX


@DATASETS.register("synthetic")
class PeopleStream:
    """Person i of a seed is the same whatever the number of workers. Any index from 0 on is answered; `len` is only an epoch's."""

    endless = True

    def __init__(
        self, body: Body, seed: int = 0, epoch: int = 20_000, backgrounds: Sequence[str | Path] | str | Path = (),
        poses: Sequence[str] | str = (FITTED,), recorded_share: float = PeopleConfig.recorded_share, validation: bool = False,
        levelled_share: float = PeopleConfig.levelled_share, crop_scale: float = PeopleConfig.crop_scale,
    ) -> None:  # fmt: skip
        """epoch: people in one; backgrounds, poses: one or several; validation: people as training never sees them; see PeopleConfig.

        Raises InputError for another body than ours, a seed or share out of range, and folders or files that cannot be read.
        """
        if body.name != "anny":
            raise InputError(f"data set 'synthetic': shows the body 'anny', but the network has {body.name!r}; use data of that body")
        if epoch < 1:
            raise InputError(f"data set 'synthetic': got an epoch of {epoch} people, expected 1 or more")
        folders, names = tuple(map(Path, several(backgrounds))), tuple(map(str, several(poses)))
        first = seed + VALIDATION_SEED * validation
        self.config = PeopleConfig(first, folders, names, recorded_share, validation, levelled_share, crop_scale)
        self.config.check()
        self.epoch, self._people = epoch, None

    def __len__(self) -> int:
        return self.epoch

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_people": None}

    def __getitem__(self, index: int) -> Sample:
        if self._people is None:  # in each worker anew: the body, the backgrounds and the poses are read where they are used
            cv2.setNumThreads(1)
            self._people = People(load_body("anny"), self.config)
        people = self._people
        person = people.make(int(index))
        confidence = np.ones((len(person.joints_m), 1), np.float32)
        return Sample(
            image=person.image,
            centre_px=np.full(2, CROP_SIZE_PX / 2),
            scale=CROP_SIZE_PX / BOX_UNIT_PX,
            joints_2d_px=np.concatenate([(person.joints_crop + 1) * HALF_CROP_PX, person.joint_visibility[:, None]], 1),
            joints_3d_m=np.concatenate([person.joints_m, confidence], 1),
            vertices_m=person.vertices_m[people.body.levels.intermediate_ids],
            camera=person.camera,
            img_key=f"synthetic-{self.config.seed}/{index}",
            family=FAMILY_NAMES[person.family],
        )
