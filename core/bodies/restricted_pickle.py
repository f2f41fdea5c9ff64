"""Reads arrays out of pickles without executing anything that a pickle asks for.

SMPL's files and the official mesh files are pickles, some by Python 2, of NumPy arrays, SciPy's sparse matrices and objects of
chumpy and psbody. NumPy's own constructors are let through; objects of the other packages become `Record`s that just hold
their state; every other class or function is refused.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from scipy import sparse

from core.errors import InputError


class Record:
    """What a pickled object of another package held. state: its attributes."""

    def __init__(self, *_: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


def _reconstructor(kind: type, base: type, state: object) -> Record:
    """Python 2's way to make an object of a plain class; only Records are made."""
    del base, state
    if kind is not Record:
        raise pickle.UnpicklingError(f"it makes an object of {kind}")
    return Record()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Python 3's way to write bytes in old protocols."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


_MULTIARRAY = np.ndarray(0).__reduce__()[0]  # numpy's _reconstruct, in whichever module this NumPy keeps it
_SCALAR = np.float64(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]

ALLOWED: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _MULTIARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _MULTIARRAY,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("_codecs", "encode"): _encode,
    **{(module, kind.__name__): kind for module in ("__builtin__", "builtins") for kind in (set, frozenset)},
    ("collections", "OrderedDict"): OrderedDict,
}
"""(module, name) in a pickle -> what is used for it."""
RECORD_PACKAGES = ("chumpy", "psbody", "scipy")
RECORD_CLASSES = (("__main__", "MyMesh"),)
"""Objects that become Records. MyMesh: mesh_downsampling.npz holds some, pickled in a script of METRO's authors."""

DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, OverflowError, MemoryError,
)  # fmt: skip
"""What NumPy and the pickle machine raise for data that is cut off or altered."""


class RestrictedUnpickler(pickle.Unpickler):
    """Finds only what ALLOWED and the RECORD tables name."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in; UnpicklingError for everything else."""
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module.partition(".")[0] in RECORD_PACKAGES or (module, name) in RECORD_CLASSES:
            return Record
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is none of the classes that such files need")


def load_restricted(data: bytes, path: Path) -> Any:
    """What a pickle holds. Raises InputError, naming `path`, when it is damaged or asks for anything else than arrays."""
    try:
        return RestrictedUnpickler(io.BytesIO(data), encoding="latin1").load()
    except DAMAGE as error:
        raise InputError(f"{path}: not read, nothing of it was executed: {_one_line(error)}; get the file again from its source") from error


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Those members of an .npz that are there, object arrays by the restricted way. Raises InputError for a damaged file."""
    try:
        with zipfile.ZipFile(path) as archive:
            present = {name.removesuffix(".npy") for name in archive.namelist()}
            members = {name: archive.read(f"{name}.npy") for name in names if name in present}
        return {name: _read_npy(data, path) for name, data in members.items()}
    except InputError:
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, *DAMAGE) as error:
        raise InputError(f"{path}: damaged or no .npz file ({_one_line(error)}); get the file again from its source") from error


def _read_npy(data: bytes, path: Path) -> np.ndarray:
    stream = io.BytesIO(data)
    version = npy_format.read_magic(stream)
    read_header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    dtype = read_header(stream)[2]
    if not dtype.hasobject:
        return np.load(io.BytesIO(data), allow_pickle=False)
    return load_restricted(data[stream.tell() :], path)


def as_array(value: object) -> np.ndarray:
    """A plain array of what a file holds: an array, a chumpy variable, or a chumpy selection of one. Raises ValueError for the rest.

    chumpy's `Ch` keeps its value as `x`; its `Select` keeps a source `a`, flat indices `idxs` and a `preferred_shape`.
    """
    if isinstance(value, Record):
        state = value.state
        if "x" in state:
            return as_array(state["x"])
        if {"a", "idxs"} <= state.keys():
            chosen = as_array(state["a"]).ravel()[as_array(state["idxs"])]
            return chosen.reshape(state["preferred_shape"]) if "preferred_shape" in state else chosen
        raise ValueError(f"an object with {', '.join(sorted(state)) or 'nothing'} in it, expected an array")
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise ValueError("an array of objects, expected numbers")
    return array


def as_sparse(value: object) -> sparse.csr_matrix:
    """A sparse matrix of what a file holds: SciPy's CSC, CSR or COO of any age, or a dense array. Raises ValueError for the rest."""
    if not isinstance(value, Record):
        return sparse.csr_matrix(as_array(value))
    state = value.state
    shape = tuple(int(size) for size in state.get("_shape", state.get("shape", ())))
    if len(shape) != 2 or "data" not in state:
        return sparse.csr_matrix(as_array(value))
    if "row" in state or "coords" in state:
        places = state["coords"] if "coords" in state else (state["row"], state["col"])
        return sparse.coo_matrix((state["data"], places), shape=shape).tocsr()
    columns_first = state.get("format", "csc") == "csc" and len(state["indptr"]) == shape[1] + 1
    make = sparse.csc_matrix if columns_first else sparse.csr_matrix
    matrix = make((state["data"], state["indices"], state["indptr"]), shape=shape)
    matrix.check_format(full_check=True)
    return matrix.tocsr()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
