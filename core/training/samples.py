"""A person in a picture as every data set gives it, and the table DATASETS of data sets.

A data set is map-style, as torch.utils.data has it: `len(set)` and `set[index] -> Sample`. It is opened in the main process and
sent to worker processes, so it must pickle, and opens files where it first reads. A row that cannot be used raises BrokenSample:
training takes the next one and counts. A set with `endless = True` makes people instead of reading them; it is asked for
`index + epoch * len(set)`, so that every epoch shows new ones, and in turn, a batch from each worker.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from core.arrays import check_array, check_finite
from core.bodies import Body
from core.crop import check_image
from core.errors import InputError
from core.joints import JOINT_NAMES
from core.registry import Registry

BOX_UNIT_PX = 200
"""`scale` is the side of the square crop over this. Source: the annotations of MPII, which the METRO data sets keep."""

JOINTS_24: tuple[str, ...] = (
    "R_Ankle", "R_Knee", "R_Hip", "L_Hip", "L_Knee", "L_Ankle", "R_Wrist", "R_Elbow", "R_Shoulder", "L_Shoulder", "L_Elbow", "L_Wrist",
    "Neck", "Top_of_Head", "Pelvis", "Thorax", "Spine", "Jaw", "Head", "Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear",
)  # fmt: skip
"""Rows of `2d_joints` and `3d_joints` in the METRO data sets."""
FROM_24 = [JOINTS_24.index(name) for name in JOINT_NAMES]


class BrokenSample(Exception):  # noqa: N818  a state of the data, not of the program
    """A row that cannot be used; the text says which one, where, and why."""


@dataclass(frozen=True)
class Sample:
    """One person, before augmentation. Camera axes x right, y down, z away; pixels as in core.crop.

    image:        (H, W, 3) uint8 RGB        centre_px: (2,) of the square crop      scale: side of that square / 200
    joints_2d_px: (14, 3) x, y, confidence, in the order of JOINT_NAMES, or (24, 3) in that of JOINTS_24
    joints_3d_m:  (14, 4) or (24, 4) x, y, z, confidence
    pose, betas:  (3 * num_bones,) rotation vectors, root first, and (num_shape,) shape of the body; SMPL: (72,), (10,). None = unknown
    vertices_m:   (V', 3) of the intermediate mesh level or (V, 3) of the full one, for bodies that come as meshes; None = unknown
    camera:       (3,) scale, tx, ty of the crop where it is known
    has_2d, has_3d, has_smpl: whether joints_2d_px, joints_3d_m and pose with betas are to be believed
    family:       the kind of pose, for tables; "" = unknown
    labels:       what else is known, for tables: kind of label -> name, e.g. framing -> webcam
    """

    image: np.ndarray
    centre_px: np.ndarray
    scale: float
    joints_2d_px: np.ndarray
    joints_3d_m: np.ndarray
    pose: np.ndarray | None = None
    betas: np.ndarray | None = None
    vertices_m: np.ndarray | None = None
    camera: np.ndarray | None = None
    has_2d: bool = True
    has_3d: bool = True
    has_smpl: bool = False
    gender: str = ""
    img_key: str = ""
    family: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self._check()
        except (ValueError, InputError) as error:
            raise BrokenSample(f"sample {self.img_key or '(no key)'}: {error}") from error

    def _check(self) -> None:
        check_image(self.image)
        check_array("centre_px", self.centre_px, (2,))
        if not (np.isfinite(self.scale) and self.scale > 0 and np.isfinite(self.centre_px).all()):
            raise ValueError(f"got centre_px {self.centre_px.tolist()} and scale {self.scale}, expected numbers and a scale above 0")
        for name, columns, wanted in (("joints_2d_px", 3, self.has_2d), ("joints_3d_m", 4, self.has_3d)):
            joints = getattr(self, name)
            if len(joints) not in (len(JOINT_NAMES), len(JOINTS_24)):
                raise ValueError(f"{name}: got {len(joints)} joints, expected {len(JOINT_NAMES)} or {len(JOINTS_24)}")
            check_array(name, joints, (None, columns))
            if wanted:
                check_finite(name, joints)
        if self.has_smpl and (self.pose is None or self.betas is None):
            raise ValueError("has_smpl is set, but pose or betas are missing")
        for name, shape in (("pose", (None,)), ("betas", (None,)), ("vertices_m", (None, 3)), ("camera", (3,))):
            array = getattr(self, name)
            if array is not None:
                check_array(name, array, shape)
                check_finite(name, array)

    @property
    def side_px(self) -> float:
        """Side of the square crop."""
        return BOX_UNIT_PX * self.scale

    @property
    def joints_2d(self) -> np.ndarray:
        """(14, 3) in the order of JOINT_NAMES; confidence 0 where they are not to be believed."""
        return _fourteen(self.joints_2d_px, self.has_2d)

    @property
    def joints_3d(self) -> np.ndarray:
        """(14, 4) in the order of JOINT_NAMES; confidence 0 where they are not to be believed."""
        return _fourteen(self.joints_3d_m, self.has_3d)


def _fourteen(joints: np.ndarray, believed: bool) -> np.ndarray:
    chosen = joints[FROM_24] if len(joints) == len(JOINTS_24) else joints
    return chosen.astype(np.float32) if believed else np.zeros(chosen.shape, np.float32)


class SampleDataset(Protocol):
    """What training and evaluation ask of a data set; see the module's docstring."""

    def __len__(self) -> int:
        """Number of people, of one epoch where the set is endless."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """A person; raises BrokenSample for one that cannot be used."""
        ...


DATASETS: Registry[Callable[..., SampleDataset]] = Registry("kind of data set")
"""Name -> builder(body, **options); the options are those of a config file beside `kind`. A builder raises InputError for what is
missing (what it is, where to get it, where to put it) and refuses people of another body."""

MODULES = ("core.training.shard_people", "core.training.people_stream", "core.training.tsv_sets")
"""Where the rows of DATASETS are; imported when a set is first opened."""


def open_dataset(kind: str, body: Body, options: dict[str, Any]) -> SampleDataset:
    """The data set of a config. Raises InputError for an unknown kind, unknown or missing options, and an empty set."""
    for module in MODULES:
        importlib.import_module(module)
    builder = DATASETS[kind]
    signature = inspect.signature(builder)
    try:
        signature.bind(body, **options)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:])
        raise InputError(f"data set {kind!r}: {error}; its options are {known}") from error
    dataset = builder(body, **options)
    if len(dataset) == 0:
        raise InputError(f"data set {kind!r}: holds nobody ({', '.join(f'{k}: {v}' for k, v in options.items())})")
    return dataset
