"""Files in SMPL's and the release's formats with an invented body in them: the sizes are SMPL's, the shape is an egg on stilts."""

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

RINGS, SIDES = 84, 82
NUM_VERTICES, NUM_FACES, NUM_BONES = RINGS * SIDES + 2, 2 * RINGS * SIDES, 24
PARENTS = np.array([-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21])
NUM_INTERMEDIATE, NUM_COARSE = 1723, 431


def egg() -> tuple[np.ndarray, np.ndarray]:
    """A closed surface of SMPL's sizes, 1.7 m tall, y up: (6890, 3) vertices, (13776, 3) triangles."""
    height = np.linspace(0, np.pi, RINGS + 2)[1:-1, None]
    around = 2 * np.pi * np.arange(SIDES)[None] / SIDES
    across = [0.3 * np.sin(height) * np.cos(around), 0.2 * np.sin(height) * np.sin(around)]
    rings = np.stack([across[0], -0.85 * np.cos(height) + 0 * around, across[1]], -1)
    vertices = np.concatenate([rings.reshape(-1, 3), [[0, -0.85, 0], [0, 0.85, 0]]])
    ids = np.arange(RINGS * SIDES).reshape(RINGS, SIDES)
    right = np.roll(ids, -1, axis=1)
    halves = (ids[:-1], right[:-1], ids[1:]), (right[:-1], right[1:], ids[1:])
    sides = np.concatenate([np.stack(corners, -1).reshape(-1, 3) for corners in halves])
    bottom = np.stack([right[0], ids[0], np.full(SIDES, RINGS * SIDES)], -1)
    top = np.stack([ids[-1], right[-1], np.full(SIDES, RINGS * SIDES + 1)], -1)
    return vertices, np.concatenate([sides, bottom, top]).astype(np.uint32)


def smpl_data() -> dict[str, object]:
    """What an SMPL file holds: plain arrays and a sparse regressor."""
    random = np.random.default_rng(0)
    vertices, faces = egg()
    centres = vertices[random.choice(NUM_VERTICES, NUM_BONES, replace=False)]
    distances, near = cKDTree(centres).query(vertices, k=4)
    weights = np.zeros((NUM_VERTICES, NUM_BONES))
    np.put_along_axis(weights, near, np.exp(-distances / 0.1), axis=1)
    rows, columns = np.repeat(np.arange(NUM_BONES), 5), cKDTree(vertices).query(centres, k=5)[1].ravel()
    tree = np.stack([np.where(PARENTS < 0, 2**32 - 1, PARENTS), np.arange(NUM_BONES)]).astype(np.uint32)
    return {
        "v_template": vertices, "f": faces, "weights": weights / weights.sum(1, keepdims=True), "kintree_table": tree,
        "shapedirs": random.normal(0, 0.005, (NUM_VERTICES, 3, 10)), "posedirs": random.normal(0, 0.001, (NUM_VERTICES, 3, 207)),
        "J_regressor": sparse.csc_matrix((np.full(rows.size, 0.2), (rows, columns)), shape=(NUM_BONES, NUM_VERTICES)),
        "bs_type": "lrotmin", "bs_style": "lbs", "J": centres,
    }  # fmt: skip


@contextmanager
def pretend_modules(*classes: type) -> Iterator[None]:
    """The modules that these classes say they live in are there while something is pickled, and gone again."""
    names = {".".join(kind.__module__.split(".")[:length]) for kind in classes for length in (1, 2)}
    sys.modules.update({name: types.ModuleType(name) for name in names})
    for kind in classes:
        setattr(sys.modules[kind.__module__], kind.__name__, kind)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def made_up_class(module: str, name: str) -> type:
    """A plain class that says it lives in that module."""
    return type(name, (), {"__module__": module})


def instance(kind: type, **state: object) -> object:
    """An object of that class with these attributes."""
    made = kind()
    made.__dict__.update(state)
    return made


def old_pickle(data: dict[str, object]) -> bytes:
    """As the SMPL release has it: protocol 2, chumpy variables and selections, SciPy's old module names."""
    variable, selection = made_up_class("chumpy.ch", "Ch"), made_up_class("chumpy.reordering", "Select")
    wrapped = dict(data)
    for name in ("v_template", "weights", "posedirs"):
        wrapped[name] = instance(variable, x=data[name], _dirty_vars=set(), _itr=None)
    wider = np.concatenate([data["shapedirs"], np.ones((NUM_VERTICES, 3, 2))], axis=2)
    picked = np.arange(wider.size).reshape(wider.shape)[..., :10].ravel()
    wrapped["shapedirs"] = instance(selection, a=instance(variable, x=wider), idxs=picked, preferred_shape=(NUM_VERTICES, 3, 10))
    with pretend_modules(variable, selection):
        pickled = pickle.dumps(wrapped, protocol=2)
    return pickled.replace(b"scipy.sparse._csc\n", b"scipy.sparse.csc\n")


def write_smpl(folder: Path, name: str = "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl") -> Path:
    """An SMPL file: chumpy-style for basicModel_*.pkl, plain arrays for other .pkl, and .npz."""
    data, path = smpl_data(), folder / name
    if path.suffix == ".npz":
        np.savez(path, **{key: value.toarray() if sparse.issparse(value) else value for key, value in data.items()})
    else:
        path.write_bytes(old_pickle(data) if name.lower().startswith("basicmodel") else pickle.dumps(data, protocol=4))
    return path


def objects(*values: object) -> np.ndarray:
    """(n,) array of objects, as NumPy pickles them."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def nested_ids() -> tuple[np.ndarray, np.ndarray]:
    """Intermediate vertices of the full mesh, and coarse ones as rows of the intermediate mesh; in no particular order."""
    random = np.random.default_rng(1)
    return random.permutation(NUM_VERTICES)[:NUM_INTERMEDIATE], random.permutation(NUM_INTERMEDIATE)[:NUM_COARSE]


def write_mesh_files(folder: Path, with_mesh: bool = True) -> None:
    """mesh_downsampling.npz and J_regressor_h36m_correct.npy. with_mesh: the mesh file holds faces and rest meshes, as the official one."""
    vertices, faces = egg()
    middle, coarse = nested_ids()
    levels = [vertices, vertices[middle], vertices[middle][coarse]]
    ups = [_mix(fine, rough) for fine, rough in pairwise(levels)]
    downs = [_pick(ids, count) for ids, count in ((middle, NUM_VERTICES), (coarse, NUM_INTERMEDIATE))]
    adjacencies = [*(sparse.eye(len(points), format="csc") for points in levels[:2]), sparse.csc_matrix(_neighbours(levels[2]))]
    members = {"A": objects(*adjacencies), "U": objects(*ups), "D": objects(*downs)}
    mesh_class = made_up_class("__main__", "MyMesh")
    if with_mesh:
        members["F"] = objects(faces, faces[:50] % NUM_INTERMEDIATE, faces[:50] % NUM_COARSE)
        members["M"] = objects(instance(mesh_class, v=vertices, f=faces))
    main = sys.modules["__main__"]
    main.MyMesh = mesh_class
    try:
        np.savez(folder / "mesh_downsampling.npz", **members)
    finally:
        del main.MyMesh
    rows = np.zeros((17, NUM_VERTICES), np.float32)
    for row, start in zip(rows, np.linspace(0, NUM_VERTICES - 8, 17).astype(int), strict=True):
        row[start : start + 4] = 0.25
    np.save(folder / "J_regressor_h36m_correct.npy", rows)


def _mix(fine: np.ndarray, rough: np.ndarray) -> sparse.csc_matrix:
    near = cKDTree(rough).query(fine, k=3)[1]
    rows = np.repeat(np.arange(len(fine)), 3)
    return sparse.csc_matrix((np.tile([0.5, 0.25, 0.25], len(fine)), (rows, near.ravel())), shape=(len(fine), len(rough)))


def _pick(ids: np.ndarray, count: int) -> sparse.csc_matrix:
    return sparse.csc_matrix((np.ones(len(ids)), (np.arange(len(ids)), ids)), shape=(len(ids), count))


def _neighbours(points: np.ndarray) -> np.ndarray:
    near = cKDTree(points).query(points, k=6)[1]
    adjacency = np.zeros((len(points), len(points)), bool)
    np.put_along_axis(adjacency, near, True, axis=1)
    adjacency |= adjacency.T
    np.fill_diagonal(adjacency, False)
    return adjacency
