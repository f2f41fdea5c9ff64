"""SMPL behind the body contract, for those who have its files. Non-commercial; nothing of it ships with us.

With the official mesh files the levels, the mask and the up-sampling are the official ones. With an SMPL model alone the levels
come from our own hierarchy, for training one's own. A forward pass needs no SMPL model; posing needs one, and smplx.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.bodies.smpl_files import (
    DEFAULT_FOLDER,
    FACES_FILE,
    H36M_JOINTS,
    LEVEL_SIZES,
    MESH_FILE,
    NUM_BETAS,
    NUM_BONES,
    NUM_VERTICES,
    OFFICIAL_SOURCE,
    REGRESSOR_FILE,
    SMPL_JOINTS,
    SMPL_SOURCE,
    MeshFile,
    SmplModel,
    find_model_file,
    read_faces_file,
    read_mesh_file,
    read_model_file,
    read_regressor_file,
)
from core.bodies.storage import pack_levels, pack_sparse, unpack_levels, unpack_sparse
from core.errors import InputError
from core.geometry import rotmats_from_rotvecs
from core.joints import JOINT_NAMES, indices
from core.mesh import MeshLevels, blank_levels
from core.sparse import csr_matrix

log = logging.getLogger(__name__)

CAMERA_FROM_SMPL = np.array([1.0, -1.0, -1.0])
"""SMPL rests with y up, facing +z; a half turn about x brings its rest mesh into camera axes."""
NUM_FITTED_POSES = 300
POSE_SPREAD_RAD, SHAPE_SPREAD = 0.35, 1.0
"""Of the random poses and betas that our own hierarchy is fitted on."""
NO_FACES = np.zeros((0, 3), np.int32)


class SmplBody:
    """SMPL. 6,890 vertices, 24 bones, 10 betas; what is not known without an SMPL model is empty or asks for it.

    description: which files it was read from
    """

    name = "smpl"
    joint_names = JOINT_NAMES
    num_bones, num_shape = NUM_BONES, NUM_BETAS
    parameter_names = ("rotmats", "betas")
    parameter_labels: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, levels: MeshLevels, regressor: csr_matrix | None, model: SmplModel | None, description: str) -> None:
        """regressor: (15, 6890) float32, the 14 joints and the pelvis; None where no file gives one."""
        self.levels, self.faces, self.description = levels, levels.faces, description
        self._regressor, self._model = regressor, model

    @classmethod
    def from_folder(cls, folder: Path | None) -> "SmplBody":
        """From the files in a folder, checkpoints/smpl by default. Says which it read and what is missing.

        Raises InputError when there is neither a mesh file nor an SMPL model, and when one is damaged.
        """
        folder = folder or DEFAULT_FOLDER
        model_file, mesh_file, regressor_file = find_model_file(folder), folder / MESH_FILE, folder / REGRESSOR_FILE
        model = read_model_file(model_file) if model_file else None
        if mesh_file.is_file() or model is None:
            mesh, read = read_mesh_file(mesh_file), [MESH_FILE]
            if (folder / FACES_FILE).is_file():
                mesh, read = replace(mesh, intermediate_faces=read_faces_file(folder / FACES_FILE)), [*read, FACES_FILE]
        else:
            mesh, read = None, []
        regressor = _h36m_regressor(regressor_file) if regressor_file.is_file() else model and _own_regressor(model)
        read += [REGRESSOR_FILE] if regressor_file.is_file() else []
        read += [model.description] if model else []
        description = f"SMPL body from {folder}: {', '.join(read)}"
        log.info("%s", description)
        levels = _official_levels(mesh, model) if mesh else _own_levels(model)
        if model is None:
            known = "faces and rest mesh are those of the mesh file" if mesh.faces is not None else "so no faces to draw either"
            level = logging.INFO if mesh.faces is not None else logging.WARNING
            log.log(level, "SMPL body: no SMPL model in %s, so no posing; %s. To have one put %s there", folder, known, SMPL_SOURCE)
        elif not regressor_file.is_file():
            log.warning(
                "SMPL body: no %s in %s; joints come from SMPL's own regressor, so scores do not compare with published ones. It is in %s",
                REGRESSOR_FILE, folder, OFFICIAL_SOURCE,
            )  # fmt: skip
        return cls(levels, regressor, model, description)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], description: str, folder: Path | None = None) -> "SmplBody":
        """The inverse of `tensors`. An SMPL model in `folder`, checkpoints/smpl by default, poses it and gives faces where they lack.

        Raises InputError for a damaged model in a folder that was asked for; KeyError or ValueError when the tensors are not whole.
        """
        model_file = find_model_file(folder or DEFAULT_FOLDER)
        model = read_model_file(model_file) if model_file else None
        levels = unpack_levels(tensors)
        if model is not None:
            levels = replace(levels, faces=model.faces, template_m=_in_camera_axes(model.template_m))
        shape = (len(JOINT_NAMES) + 1, levels.sizes[2])
        regressor = unpack_sparse(tensors, "regressor", shape) if "regressor.data" in tensors else None
        return cls(levels, regressor, model, description)

    def tensors(self) -> dict[str, Tensor]:
        """Levels and joint regressor, so that a checkpoint runs without mesh files; not the SMPL model."""
        packed = pack_levels(self.levels)
        return packed if self._regressor is None else packed | pack_sparse("regressor", self._regressor)

    @property
    def joint_regressor(self) -> csr_matrix:
        """(14, 6890) float32; raises InputError without a file that gives one."""
        return self._checked_regressor[: len(JOINT_NAMES)]

    @property
    def _checked_regressor(self) -> csr_matrix:
        if self._regressor is None:
            raise InputError(f"SMPL body: joints need {REGRESSOR_FILE} from {OFFICIAL_SOURCE}, beside {MESH_FILE}; or an SMPL model there")
        return self._regressor

    @cached_property
    def _dense_regressor(self) -> Tensor:
        return torch.from_numpy(self._checked_regressor.toarray())

    def joints(self, vertices: Tensor) -> Tensor:
        """(B, 6890, 3) -> (B, 14, 3), as Human3.6M has them."""
        return self._dense_regressor[:-1].to(vertices) @ vertices

    def pelvis(self, vertices: Tensor) -> Tensor:
        """(B, 6890, 3) -> (B, 3), the regressor's own pelvis."""
        return self._dense_regressor[-1].to(vertices) @ vertices

    def to(self, device: torch.device | str) -> "SmplBody":
        """Nothing is moved: what posing needs follows its arguments."""
        del device
        return self

    def vertices(self, pose: Tensor, shape: Tensor) -> Tensor:
        """pose: (B, 24, 3, 3) rotations, root first, in camera axes; shape: (B, 10) betas -> (B, 6890, 3) metres.

        Raises InputError without an SMPL model or without smplx.
        """
        try:
            from smplx.lbs import lbs
        except ImportError as error:
            raise InputError("posing SMPL needs the package smplx (non-commercial): pip install -r requirements-smpl.txt") from error
        return lbs(shape, pose, **self._posing_as(shape), parents=self._parents, pose2rot=False)[0]

    def _posing_as(self, like: Tensor) -> dict[str, Tensor]:
        """The posing data in the precision and on the device of `like`; kept, for training asks at every step."""
        key = (like.device, like.dtype)
        if key not in self._posing_copies:
            with torch.inference_mode(False):  # or those made in evaluation could not serve training
                self._posing_copies[key] = {name: value.to(like) for name, value in self._posing.items()}
        return self._posing_copies[key]

    @cached_property
    def _posing_copies(self) -> dict[tuple[torch.device, torch.dtype], dict[str, Tensor]]:
        return {}

    @cached_property
    def _posing(self) -> dict[str, Tensor]:
        model = self._checked_model
        arrays = {
            "v_template": model.template_m, "shapedirs": model.shape_dirs, "J_regressor": model.joint_regressor.toarray(),
            "posedirs": model.pose_dirs.reshape(-1, model.pose_dirs.shape[2]).T, "lbs_weights": model.skinning,
        }  # fmt: skip
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    @cached_property
    def _parents(self) -> Tensor:
        return torch.from_numpy(self._checked_model.parents)

    @property
    def _checked_model(self) -> SmplModel:
        if self._model is None:
            raise InputError(f"SMPL body: posing needs an SMPL model, {SMPL_SOURCE}; put it beside {MESH_FILE}, or into {DEFAULT_FOLDER}")
        return self._model


def _h36m_regressor(path: Path) -> csr_matrix:
    return read_regressor_file(path)[indices((*JOINT_NAMES, "Pelvis"), among=H36M_JOINTS)]


def _own_regressor(model: SmplModel) -> csr_matrix:
    return model.joint_regressor[indices((*JOINT_NAMES, "Pelvis"), among=SMPL_JOINTS)].astype(np.float32)


def _in_camera_axes(points_m: np.ndarray) -> np.ndarray:
    return (points_m * CAMERA_FROM_SMPL).astype(np.float32)


def _official_levels(mesh: MeshFile, model: SmplModel | None) -> MeshLevels:
    template_m = model.template_m if model else mesh.template_m
    faces = model.faces if model else mesh.faces
    return MeshLevels(
        template_m=None if template_m is None else _in_camera_axes(template_m),
        faces=NO_FACES if faces is None else faces,
        intermediate_faces=NO_FACES if mesh.intermediate_faces is None else mesh.intermediate_faces,
        coarse_ids=mesh.coarse_ids,
        intermediate_ids=mesh.intermediate_ids,
        coarse_adjacency=mesh.adjacency,
        upsample=mesh.upsample,
    )


def _own_levels(model: SmplModel) -> MeshLevels:
    from core.hierarchy import build_levels

    log.info("SMPL body: no %s, so the mesh levels are computed; that takes some seconds", MESH_FILE)
    random = torch.Generator().manual_seed(0)
    rotvecs = POSE_SPREAD_RAD * torch.randn(NUM_FITTED_POSES, NUM_BONES, 3, generator=random, dtype=torch.float64)
    betas = SHAPE_SPREAD * torch.randn(NUM_FITTED_POSES, NUM_BETAS, generator=random, dtype=torch.float64)
    poser = SmplBody(blank_levels((3, 3, NUM_VERTICES), model.faces), None, model, model.description)
    batches = zip(rotmats_from_rotvecs(rotvecs).split(20), betas.split(20), strict=True)
    posed_m = torch.cat([poser.vertices(rotmats, shape) for rotmats, shape in batches])
    posed_m = _in_camera_axes((posed_m - posed_m.mean(1, keepdim=True)).numpy())
    return build_levels(_in_camera_axes(model.template_m), model.faces, posed_m)


class SmplSizes(SmplBody):
    """A body of SMPL's sizes without its data, to build architectures for counting their parameters. It poses and draws nothing."""

    def __init__(self) -> None:
        regressor = csr_matrix((len(JOINT_NAMES) + 1, NUM_VERTICES), dtype=np.float32)
        super().__init__(blank_levels(LEVEL_SIZES, NO_FACES), regressor, None, "sizes of SMPL")
