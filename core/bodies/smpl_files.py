"""The files of the SMPL body, read without executing anything in them.

mesh_downsampling.npz, J_regressor_h36m_correct.npy   from the official FastMETRO repository, src/modeling/data
smpl_1723_faces.npy                                   from there too: the triangles that the release's edge and normal losses use
basicModel_neutral_lbs_10_207_0_v1.0.0.pkl            the SMPL model, after registration; other names and ages are read as well
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.bodies.restricted_pickle import as_array, as_sparse, load_restricted, one_line, read_npz
from core.errors import InputError
from core.sparse import csr_matrix

DEFAULT_FOLDER = Path(__file__).parents[2] / "checkpoints" / "smpl"
MESH_FILE, REGRESSOR_FILE, FACES_FILE = "mesh_downsampling.npz", "J_regressor_h36m_correct.npy", "smpl_1723_faces.npy"
OFFICIAL_SOURCE = "https://github.com/postech-ami/FastMETRO, folder src/modeling/data"
SMPL_SOURCE = "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl from https://smplify.is.tue.mpg.de (registration, non-commercial)"

NUM_VERTICES, NUM_FACES, NUM_BONES, NUM_BETAS = 6890, 13776, 24, 10
LEVEL_SIZES = (431, 1723, NUM_VERTICES)
H36M_JOINTS = (
    "Pelvis", "R_Hip", "R_Knee", "R_Ankle", "L_Hip", "L_Knee", "L_Ankle", "Torso", "Neck", "Nose", "Head",
    "L_Shoulder", "L_Elbow", "L_Wrist", "R_Shoulder", "R_Elbow", "R_Wrist",
)  # fmt: skip
"""Rows of J_regressor_h36m_correct.npy."""
SMPL_JOINTS = (
    "Pelvis", "L_Hip", "R_Hip", "Spine1", "L_Knee", "R_Knee", "Spine2", "L_Ankle", "R_Ankle", "Spine3", "L_Foot", "R_Foot", "Neck",
    "L_Collar", "R_Collar", "Head", "L_Shoulder", "R_Shoulder", "L_Elbow", "R_Elbow", "L_Wrist", "R_Wrist", "L_Hand", "R_Hand",
)  # fmt: skip
"""SMPL's own joints, rows of its regressor."""

MODEL_NAME = re.compile(r"(basicmodel|smpl)[_-](?!mean_params).*\.(pkl|npz)", re.IGNORECASE)
GENDERS = {"neutral": "neutral|_n_", "male": "(?<!fe)male|_m_", "female": "female|_f_"}
UNNAMED = "its name states no gender"
VERSION = re.compile(r"v(\d+(?:\.\d+)+)")


@dataclass(frozen=True)
class SmplModel:
    """What poses and shapes SMPL, float64 as in the file; axes as SMPL's (y up when the root is not turned).

    template_m: (6890, 3)   shape_dirs: (6890, 3, 10)   pose_dirs: (6890, 3, 207)   skinning: (6890, 24)
    joint_regressor: (24, 6890) sparse   parents: (24,) int64, -1 for the root   faces: (13776, 3) int32
    """

    description: str
    template_m: np.ndarray
    shape_dirs: np.ndarray
    pose_dirs: np.ndarray
    skinning: np.ndarray
    joint_regressor: csr_matrix
    parents: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class MeshFile:
    """What mesh_downsampling.npz says. upsample: (1723 from 431, 6890 from 1723); template_m, faces: None where it does not hold them.

    adjacency: (431, 431) bool, True on the diagonal; intermediate_ids, coarse_ids: vertices of the full mesh
    """

    upsample: tuple[csr_matrix, csr_matrix]
    adjacency: np.ndarray
    intermediate_ids: np.ndarray
    coarse_ids: np.ndarray
    faces: np.ndarray | None
    intermediate_faces: np.ndarray | None
    template_m: np.ndarray | None


def find_model_file(folder: Path) -> Path | None:
    """The SMPL model in a folder or in its folder `smpl`, neutral ones first, then by name; None when there is none."""
    places = [place for place in (folder, folder / "smpl", folder / "SMPL") if place.is_dir()]
    found = [path for place in places for path in sorted(place.iterdir()) if MODEL_NAME.fullmatch(path.name) and path.is_file()]
    order = [*GENDERS, UNNAMED]
    return min(found, key=lambda path: order.index(_gender(path)), default=None)


def _gender(path: Path) -> str:
    return next((gender for gender, pattern in GENDERS.items() if re.search(pattern, path.name.lower())), UNNAMED)


def read_model_file(path: Path) -> SmplModel:
    """The SMPL model of a .pkl of any age or an .npz. Raises InputError when it is damaged, asks for code, or is no SMPL."""
    names = ("v_template", "shapedirs", "posedirs", "weights", "J_regressor", "kintree_table", "f")
    data = read_npz(path, names) if path.suffix.lower() == ".npz" else load_restricted(path.read_bytes(), path)
    if not isinstance(data, dict) or not set(names) <= data.keys():
        missing = sorted(set(names) - data.keys()) if isinstance(data, dict) else list(names)
        raise InputError(f"{path}: no SMPL model, it lacks {', '.join(missing)}; expected {SMPL_SOURCE}")
    version = VERSION.search(path.name)
    with _reading(path):
        parents = as_array(data["kintree_table"])[0].astype(np.int64)
        model = SmplModel(
            description=f"{path.name} ({_gender(path)}, {f'version {version[1]}' if version else 'its name states no version'})",
            template_m=as_array(data["v_template"]).astype(np.float64),
            shape_dirs=as_array(data["shapedirs"]).astype(np.float64)[:, :, :NUM_BETAS],
            pose_dirs=as_array(data["posedirs"]).astype(np.float64),
            skinning=as_array(data["weights"]).astype(np.float64),
            joint_regressor=as_sparse(data["J_regressor"]),
            parents=np.where((parents < 0) | (parents >= len(parents)), -1, parents),  # the root's is 2^32 - 1 in the file
            faces=as_array(data["f"]).astype(np.int64),
        )
        _check_model(model)
    return replace(model, faces=model.faces.astype(np.int32))


def _check_model(model: SmplModel) -> None:
    expected = {
        "template_m": (NUM_VERTICES, 3), "shape_dirs": (NUM_VERTICES, 3, NUM_BETAS), "pose_dirs": (NUM_VERTICES, 3, 9 * (NUM_BONES - 1)),
        "skinning": (NUM_VERTICES, NUM_BONES), "joint_regressor": (NUM_BONES, NUM_VERTICES), "parents": (NUM_BONES,),
        "faces": (NUM_FACES, 3),
    }  # fmt: skip
    for name, shape in expected.items():
        _check_shape(name, getattr(model, name).shape, shape)
    _check_faces("faces", model.faces, NUM_VERTICES)
    for name in ("template_m", "shape_dirs", "pose_dirs", "skinning"):
        _check_finite(name, getattr(model, name))
    _check_finite("joint_regressor", model.joint_regressor.data)
    if model.parents[0] != -1 or not all(0 <= parent < bone for bone, parent in enumerate(model.parents) if bone):
        raise ValueError("kintree_table: a bone that comes before its parent, expected SMPL's order")


def require_mesh_file(folder: Path) -> None:
    """Raise InputError, saying what to get and where, unless the official mesh levels lie in `folder`."""
    if not (folder / MESH_FILE).is_file():
        files = f"{MESH_FILE} and {REGRESSOR_FILE}"
        raise InputError(
            f"{folder / MESH_FILE}: not found; {files} come from {OFFICIAL_SOURCE}; put them there, or name their folder (--mesh-dir, "
            "in a training config model.mesh_dir)"
        )


def read_mesh_file(path: Path) -> MeshFile:
    """The official mesh levels. Raises InputError when the file is missing, damaged, asks for code, or is of another topology."""
    require_mesh_file(path.parent)
    data = read_npz(path, ("A", "U", "D", "F", "M"))
    if not {"A", "U", "D"} <= data.keys():
        raise InputError(f"{path}: it holds {', '.join(data) or 'nothing of A, U, D'}, expected A, U and D; take it from {OFFICIAL_SOURCE}")
    with _reading(path):
        coarse, intermediate, full = LEVEL_SIZES
        fine_up, coarse_up = (as_sparse(matrix).astype(np.float32) for matrix in data["U"])
        sparse_adjacency = as_sparse(data["A"][2])
        _check_shape("U[0]", fine_up.shape, (full, intermediate))
        _check_shape("U[1]", coarse_up.shape, (intermediate, coarse))
        _check_shape("A[2]", sparse_adjacency.shape, (coarse, coarse))
        for name, matrix in (("U[0]", fine_up), ("U[1]", coarse_up)):
            _check_finite(name, matrix.data)
        adjacency = sparse_adjacency.toarray() != 0
        intermediate_ids = _selection(data["D"][0], (intermediate, full))
        faces = [as_array(level).astype(np.int64) for level in data.get("F", ())]
        for name, triangles, count in zip(("F[0]", "F[1]"), faces, (full, intermediate), strict=False):
            _check_faces(name, triangles, count)
        faces = [triangles.astype(np.int32) for triangles in faces]
        return MeshFile(
            upsample=(coarse_up, fine_up),
            adjacency=adjacency | np.eye(coarse, dtype=bool),
            intermediate_ids=intermediate_ids,
            coarse_ids=intermediate_ids[_selection(data["D"][1], (coarse, intermediate))],
            faces=faces[0] if faces else None,
            intermediate_faces=faces[1] if len(faces) > 1 else None,
            template_m=_template(data.get("M", ())),
        )


def _selection(value: Any, shape: tuple[int, int]) -> np.ndarray:
    """(rows,) the column that each row of a 0-1 matrix picks."""
    matrix = as_sparse(value)
    _check_shape("D", matrix.shape, shape)
    if (np.diff(matrix.indptr) != 1).any():
        raise ValueError("a down-sampling matrix that mixes vertices, expected one vertex a row")
    return matrix.indices.astype(np.int64)


def _template(meshes: Any) -> np.ndarray | None:
    """(6890, 3) the rest mesh, where the file has one."""
    if not len(meshes) or "v" not in getattr(meshes[0], "state", {}):
        return None
    template_m = as_array(meshes[0].state["v"])
    _check_shape("M[0].v", template_m.shape, (NUM_VERTICES, 3))
    _check_finite("M[0].v", template_m)
    return template_m


def read_regressor_file(path: Path) -> csr_matrix:
    """(17, 6890) float32, rows as H36M_JOINTS. Raises InputError when it is damaged or of another topology."""
    with _reading(path):
        matrix = np.load(path, allow_pickle=False)
        _check_shape("the regressor", np.shape(matrix), (len(H36M_JOINTS), NUM_VERTICES))
        _check_finite("the regressor", as_array(matrix))
        return csr_matrix(matrix.astype(np.float32))


def read_faces_file(path: Path, num_vertices: int = LEVEL_SIZES[1]) -> np.ndarray:
    """(F, 3) int32 triangles of the intermediate mesh. Raises InputError when the file is damaged or names vertices that are not there."""
    with _reading(path):
        faces = as_array(np.load(path, allow_pickle=False))
        _check_faces("triangles", faces, num_vertices)
        return faces.astype(np.int32)


def _check_faces(name: str, faces: np.ndarray, num_vertices: int) -> None:
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces) or not 0 <= faces.min() <= faces.max() < num_vertices:
        raise ValueError(f"{name} of shape {faces.shape}, expected (F, 3) that name vertices below {num_vertices}")


def _check_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(values)).sum())} values that are no numbers")


def _check_shape(name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if got != expected:
        raise ValueError(f"{name} of shape {got}, expected {expected}: another topology than SMPL's 6,890 vertices")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what is wrong with a file's content into an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # NumPy and SciPy raise another type for each kind of damage
        raise InputError(f"{path}: {one_line(error)}; take the file from its source again") from error
