"""Shards: the files in which synthetic people are kept. One shard is one `shard-00000.npz` of some hundred people.

`python -m core.training.synthesize` writes them; features, training and evaluation read them here.
"""

import logging
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from core.arrays import check_array, check_finite
from core.crop import CROP_SCALE
from core.errors import InputError
from core.joints import JOINT_NAMES

log = logging.getLogger(__name__)

SHARD_PATTERN = "shard-*.npz"
NUM_JOINTS = len(JOINT_NAMES)
LABELS = ("group", "framing")
"""Age and weight group of the body, and how much of it the picture shows: arrays of indices beside `group_names`, `framing_names`."""
MAKE_SHARDS = "make some with `python -m core.training.synthesize`"


@dataclass(frozen=True)
class Truth:
    """What is known about n people. Camera axes x right, y down, z away; the pelvis is at 0.

    intermediate_m:   (n, V', 3) float16 metres, vertices of the intermediate mesh level
    joints_m:         (n, 14, 3) float32 metres
    joints_crop:      (n, 14, 2) float32 perspective projection in crop units, [-1, 1] inside the crop
    joint_visibility: (n, 14) float32, 1 visible, 0 hidden or outside the picture
    camera:           (n, 3) float32 scale, tx, ty: the weak-perspective camera that fits the projection best
    family:           (n,) uint8 index into the shard's family_names
    """

    intermediate_m: np.ndarray
    joints_m: np.ndarray
    joints_crop: np.ndarray
    joint_visibility: np.ndarray
    camera: np.ndarray
    family: np.ndarray

    def __post_init__(self) -> None:
        check_array("intermediate_m", self.intermediate_m, (None, None, 3), np.float16)
        count = len(self.intermediate_m)
        check_array("joints_m", self.joints_m, (count, NUM_JOINTS, 3), np.float32)
        check_array("joints_crop", self.joints_crop, (count, NUM_JOINTS, 2), np.float32)
        check_array("joint_visibility", self.joint_visibility, (count, NUM_JOINTS), np.float32)
        check_array("camera", self.camera, (count, 3), np.float32)
        check_array("family", self.family, (count,), np.uint8)
        for name in ("intermediate_m", "joints_m", "joints_crop", "joint_visibility", "camera"):
            check_finite(name, getattr(self, name))

    def __len__(self) -> int:
        return len(self.camera)

    def zoomed(self, by: float) -> "Truth":
        """That of the same people in crops with a scale `by` times smaller."""
        if by == 1:
            return self
        joints_crop = (by * self.joints_crop).astype(np.float32)
        inside = (np.abs(joints_crop) < 1).all(-1)
        camera = self.camera * np.array([by, 1, 1], np.float32)
        return replace(self, joints_crop=joints_crop, joint_visibility=self.joint_visibility * inside, camera=camera)


TRUTH_FIELDS = tuple(Truth.__dataclass_fields__)


@dataclass(frozen=True)
class Shard:
    """A shard without its pictures. body: name of the body model; family_names: (K,) names of the pose families.

    labels: what else is known of each person, (n,) names by LABELS; older shards have none
    crop_scale: side of the crops over the longer side of a person's box, as in ModelConfig; older shards do not say and have 1.35
    """

    path: Path
    truth: Truth
    family_names: tuple[str, ...]
    body: str
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    crop_scale: float = CROP_SCALE

    def __len__(self) -> int:
        return len(self.truth)

    def zoom(self, crop_scale: float) -> float:
        """By how much its pictures must be enlarged for a network with that scale. Raises InputError when they show too little."""
        if crop_scale > self.crop_scale + 1e-6:
            raise InputError(
                f"shards: {self.path.name} holds crops of {self.crop_scale:g} times the box, but the network wants {crop_scale:g}; make "
                f"others with `python -m core.training.synthesize --crop-scale {crop_scale:g}`"
            )
        return self.crop_scale / crop_scale


@dataclass(frozen=True)
class JpegPictures:
    """The pictures of a shard, still compressed. data: uint8 bytes of all; offsets: (n + 1,) where each begins."""

    data: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        check_array("jpeg", self.data, (None,), np.uint8)
        check_array("jpeg_offsets", self.offsets, (None,), np.int64)
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.data) or (np.diff(self.offsets) <= 0).any():
            raise ValueError(f"jpeg_offsets do not divide the {len(self.data)} bytes of jpeg")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def decoded(self, index: int) -> np.ndarray:
        """(224, 224, 3) uint8 RGB of one picture; ValueError when the JPEG is damaged."""
        import cv2

        picture = cv2.imdecode(self.data[self.offsets[index] : self.offsets[index + 1]], cv2.IMREAD_COLOR_RGB)
        if picture is None:
            raise ValueError(f"picture {index} is no readable JPEG")
        return picture


def list_shards(folder: Path) -> list[Path]:
    """The shard files of a folder in the order of their names; InputError when there are none."""
    if not folder.is_dir():
        raise InputError(f"shards: got {folder}, which is no folder; {MAKE_SHARDS}")
    paths = sorted(folder.glob(SHARD_PATTERN))
    if not paths:
        raise InputError(f"shards: {folder} holds no {SHARD_PATTERN}; {MAKE_SHARDS}")
    return paths


def load_shard(path: Path) -> Shard:
    """The truth of a shard. Raises ValueError or OSError when the file is damaged or incomplete."""
    with _opened(path) as content:
        truth = Truth(**{name: content[name] for name in TRUTH_FIELDS})
        names = tuple(str(name) for name in content["family_names"])
        if len(truth) == 0:
            raise ValueError("holds no people")
        if truth.family.max() >= len(names):
            raise ValueError(f"family {truth.family.max()} has no name among {len(names)}")
        labels = {name: content[f"{name}_names"][content[name]] for name in LABELS if name in content}
        if any(len(label) != len(truth) for label in labels.values()):
            raise ValueError(f"{', '.join(labels)}: not one for each of {len(truth)} people")
        crop_scale = float(content["crop_scale"]) if "crop_scale" in content else CROP_SCALE
        return Shard(path, truth, names, str(content["body"]), labels, crop_scale)


def load_pictures(path: Path) -> JpegPictures:
    """The pictures of a shard. Raises ValueError or OSError when the file is damaged."""
    with _opened(path) as content:
        return JpegPictures(content["jpeg"], content["jpeg_offsets"].astype(np.int64))


def load_full_meshes(path: Path) -> np.ndarray | None:
    """(n, V, 3) float16 metres, pelvis at 0, of a shard that keeps all vertices; None for others. Raises ValueError or OSError."""
    with _opened(path) as content:
        return content.get("vertices_m")


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """numpy.load of a shard; whatever is wrong with the file becomes a ValueError that names it."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("a single array, expected an npz archive")
            yield content
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def load_good_shards(paths: list[Path]) -> list[Shard]:
    """The readable shards among `paths`; broken ones are left out with a warning and their count.

    Raises InputError when none is readable, or when they hold different bodies or pose families.
    """
    shards, broken = [], 0
    for path in paths:
        try:
            shards.append(load_shard(path))
        except (ValueError, OSError) as error:
            broken += 1
            log.warning("shard skipped: %s", error)
    if broken:
        log.warning("%d of %d shards are broken and were skipped", broken, len(paths))
    if not shards:
        raise InputError(f"shards: none of {len(paths)} files is readable; {MAKE_SHARDS}")
    check_same_kind(shards)
    return shards


def check_same_kind(shards: list[Shard]) -> None:
    """Raise InputError unless all shards hold the same body, mesh size and pose families."""
    first = shards[0]
    for shard in shards[1:]:
        for what, got, expected in (
            ("body", shard.body, first.body),
            ("number of vertices", shard.truth.intermediate_m.shape[1], first.truth.intermediate_m.shape[1]),
            ("pose families", shard.family_names, first.family_names),
            ("crop scale", shard.crop_scale, first.crop_scale),
        ):
            if got != expected:
                raise InputError(f"shards: {shard.path.name} has {what} {got}, {first.path.name} {expected}; keep them in separate folders")
