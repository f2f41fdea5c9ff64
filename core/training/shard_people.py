"""Shards of synthetic people as a data set of pictures."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from core.bodies import Body
from core.errors import InputError
from core.geometry import HALF_CROP_PX
from core.training.samples import BOX_UNIT_PX, DATASETS, BrokenSample, Sample
from core.training.shards import JpegPictures, list_shards, load_full_meshes, load_good_shards, load_pictures
from core.types import CROP_SIZE_PX

NUM_OPEN_SHARDS = 8
"""Shards whose pictures a worker keeps in memory."""


@DATASETS.register("shards")
class ShardPeople:
    """The people of a folder of shard-*.npz. Their pictures are crops already; truth lies in memory."""

    def __init__(self, body: Body, path: str | Path, full_mesh: bool = False, crop_scale: float | None = None) -> None:
        """full_mesh: give all vertices where a shard holds them, as those for validation do, else those of the intermediate level.

        crop_scale: of the network, which is shown the middle of wider crops; None = crops as they are. Raises InputError for narrower ones.
        """
        self.full_mesh = full_mesh
        self.shards = load_good_shards(list_shards(Path(path)))
        self.zoom = 1.0 if crop_scale is None else self.shards[0].zoom(crop_scale)
        if self.shards[0].body != body.name:
            raise InputError(f"shards: those in {path} show the body {self.shards[0].body!r}, but the network has {body.name!r}")
        self.starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self.shards])])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Sample:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        shard, row = self.shards[number], int(index - self.starts[number])
        truth, key = shard.truth, f"{shard.path.stem}/{row}"
        try:
            image = _pictures(shard.path).decoded(row)
            full_m = _full_meshes(shard.path) if self.full_mesh else None
        except (ValueError, OSError) as error:
            raise BrokenSample(f"{key}: {error}") from error
        seen = truth.joint_visibility[row] * (np.abs(self.zoom * truth.joints_crop[row]) < 1).all(-1)
        ones = np.ones((len(truth.joints_m[row]), 1), np.float32)
        return Sample(
            image=image,
            centre_px=np.full(2, CROP_SIZE_PX / 2),
            scale=CROP_SIZE_PX / BOX_UNIT_PX / self.zoom,
            joints_2d_px=np.concatenate([(truth.joints_crop[row] + 1) * HALF_CROP_PX, seen[:, None]], 1),
            joints_3d_m=np.concatenate([truth.joints_m[row], ones], 1),
            vertices_m=(truth.intermediate_m if full_m is None else full_m)[row].astype(np.float32),
            camera=truth.camera[row] * np.array([self.zoom, 1, 1], np.float32),
            img_key=key,
            family=shard.family_names[truth.family[row]],
            labels={kind: str(names[row]) for kind, names in shard.labels.items()},
        )


@lru_cache(NUM_OPEN_SHARDS)
def _pictures(path: Path) -> JpegPictures:
    return load_pictures(path)


@lru_cache(2)
def _full_meshes(path: Path) -> np.ndarray | None:
    return load_full_meshes(path)
