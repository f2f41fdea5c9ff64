"""Reads arrays out of pickles without executing anything that a pickle asks for.

SMPL's files and the official mesh files are pickles, some by Python 2, of NumPy arrays, SciPy's sparse matrices and objects of
chumpy and psbody. Nothing of these packages runs here, NumPy's own unpickling included: a forged state makes it read memory that
is not its own. Stand-ins hold what the pickle says, and arrays are made from checked bytes. Every other name is refused.
"""

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.lib import format as npy_format

from core.errors import InputError
from core.sparse import csr_matrix

MAX_MESSAGE = 200
MAX_TUPLE_DEPTH = 8
DTYPE_CODE = re.compile(r"[<>|=]?([?biufc]\d{0,2}|[SU]\d{1,6}|O\d?)")


class Record:
    """What a pickled object of another package held. state: its attributes."""

    def __new__(cls, *_: object) -> "Record":
        """Arguments are not looked at."""
        record = super().__new__(cls)
        record.state = {}
        return record

    def __init__(self, *_: object) -> None:
        self.state: dict[str, Any]

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class DtypeRecord:
    """Stands for numpy.dtype: plain numbers, text and objects only."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not DTYPE_CODE.fullmatch(code):
            raise pickle.UnpicklingError("it holds an array of a type that such files do not need")
        self.dtype = np.dtype(object) if "O" in code else np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order, *structure = state[1:5]
        if order not in ("<", ">", "|", "=") or structure != [None, None, None]:
            raise pickle.UnpicklingError("it holds an array of structures, which such files do not need")
        self.dtype = self.dtype if order in "|=" else self.dtype.newbyteorder(order)


class ArrayRecord:
    """Stands for a NumPy array that is on its way. value: the array, None until its state came."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, column_major, data = state[-4:]
        self.value = _array(data, dtype, shape, "F" if column_major else "C")


def _array(data: object, dtype: object, shape: object, order: str) -> np.ndarray:
    """A new array of raw bytes, or of a list for objects, whose number must fit the shape."""
    if not isinstance(dtype, DtypeRecord) or not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise pickle.UnpicklingError("it holds an array without a proper type or shape")
    count = math.prod(shape)
    if dtype.dtype.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise pickle.UnpicklingError("it holds an array of objects whose number does not fit its shape")
        array = np.empty(count, object)
        for index, value in enumerate(data):
            array[index] = value
    else:
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2's bytes come as text
        if not isinstance(data, bytes | bytearray) or len(data) != count * dtype.dtype.itemsize:
            raise pickle.UnpicklingError("it holds an array whose bytes do not fit its shape")
        array = np.frombuffer(bytes(data), dtype.dtype).copy()
    return array.reshape(shape, order=order)


def _reconstruct(*_: object) -> ArrayRecord:
    """NumPy's way to begin an array."""
    return ArrayRecord()


def _from_buffer(data: object, dtype: object, shape: object, order: str = "C", *_: object) -> ArrayRecord:
    """NumPy's way to write an array in protocol 5. No array itself: a pickle could go on to write into it."""
    record = ArrayRecord()
    record.value = _array(data, dtype, shape, "F" if order == "F" else "C")
    return record


def _scalar(dtype: object, data: object) -> object:
    """NumPy's way to write a single number; a Python number or text."""
    return _array(data, dtype, (), "C").item()


def _reconstructor(kind: object, *_: object) -> Record:
    """Python 2's way to make an object of a plain class; only Records are made."""
    if kind is not Record:
        raise pickle.UnpicklingError("it makes an object of a class that such files do not need")
    return Record()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Python 3's way to write bytes in old protocols."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("it encodes text in another way than bytes are written")
    return text.encode("latin1")


class Sealed:
    """A function or a mark that a pickle may name, and call where it is a function, but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> Any:
        """What the function gives; UnpicklingError for a mark."""
        if self._function is None:
            raise pickle.UnpicklingError("it calls what such files only name")
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a function")


_NUMPY_FUNCTIONS = {"multiarray": {"_reconstruct": _reconstruct, "scalar": _scalar}, "numeric": {"_frombuffer": _from_buffer}}
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Sealed(),
    ("numpy", "dtype"): Sealed(DtypeRecord),
    **{
        (f"numpy.{core}.{module}", name): Sealed(function)
        for core in ("core", "_core")
        for module, functions in _NUMPY_FUNCTIONS.items()
        for name, function in functions.items()
    },
    **{(module, "_reconstructor"): Sealed(_reconstructor) for module in ("copy_reg", "copyreg")},
    **{
        (module, name): Sealed(function)
        for module in ("__builtin__", "builtins")
        for name, function in {"object": None, "set": set, "frozenset": frozenset}.items()
    },
    ("_codecs", "encode"): Sealed(_encode),
    ("collections", "OrderedDict"): Sealed(OrderedDict),
}
"""(module, name) in a pickle -> what is used for it."""
RECORD_PACKAGES = ("chumpy", "psbody", "scipy")
RECORD_CLASSES = (("__main__", "MyMesh"),)
"""Objects that become Records. MyMesh: mesh_downsampling.npz holds some, pickled in a script of METRO's authors."""


def _shallow(load: Callable[["RestrictedUnpickler"], None]) -> Callable[["RestrictedUnpickler"], None]:
    """The same opcode, refusing deep tuples: hashing one, as a dictionary's key, never ends or overruns the interpreter's stack."""

    def checked(unpickler: "RestrictedUnpickler") -> None:
        load(unpickler)
        level = [unpickler.stack[-1]]
        for _ in range(MAX_TUPLE_DEPTH):
            level = [inner for outer in level for inner in outer if isinstance(inner, tuple)]
        if level:
            raise pickle.UnpicklingError("it holds tuples in tuples in tuples, which such files do not need")

    return checked


class RestrictedUnpickler(pickle._Unpickler):
    """Finds only what ALLOWED and the RECORD tables name. Python's own unpickler, because C's offers no hold on single opcodes."""

    dispatch: ClassVar[dict] = {
        **pickle._Unpickler.dispatch,
        **{code[0]: _shallow(pickle._Unpickler.dispatch[code[0]]) for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)},
    }

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
        loaded = RestrictedUnpickler(io.BytesIO(data), encoding="latin1").load()
        return {name: _value(value) for name, value in loaded.items()} if isinstance(loaded, dict) else _value(loaded)
    except Exception as error:  # the pickle machine raises another type for each kind of damage
        raise InputError(f"{path}: not read, nothing of it was executed: {one_line(error)}; get the file again from its source") from error


def _value(value: object) -> object:
    if not isinstance(value, ArrayRecord):
        return value
    if value.value is None:
        raise pickle.UnpicklingError("it holds an array without content")
    return value.value


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Those members of an .npz that are there, object arrays by the restricted way. Raises InputError for a damaged file."""
    try:
        with zipfile.ZipFile(path) as archive:
            present = {name.removesuffix(".npy") for name in archive.namelist()}
            members = {name: archive.read(f"{name}.npy") for name in names if name in present}
        return {name: _read_npy(data, path) for name, data in members.items()}
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise another type for each kind of damage
        raise InputError(f"{path}: damaged or no .npz file ({one_line(error)}); get the file again from its source") from error


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
    value = _unwrapped(value)
    if isinstance(value, Record):
        state = value.state
        if "x" in state:
            return as_array(state["x"])
        if {"a", "idxs"} <= state.keys():
            chosen = as_array(state["a"]).ravel()[as_array(state["idxs"])]
            return chosen.reshape(state["preferred_shape"]) if "preferred_shape" in state else chosen
        raise ValueError("an object of another package, expected an array")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise ValueError(f"{type(value).__name__}, expected an array of real numbers")
    return value


def as_sparse(value: object) -> csr_matrix:
    """A sparse matrix of what a file holds: SciPy's CSC, CSR or COO of any age, or a dense array. Raises ValueError for the rest."""
    from scipy import sparse

    value = _unwrapped(value)
    if not isinstance(value, Record) or "data" not in value.state:
        return sparse.csr_matrix(as_array(value))
    state = value.state
    shape = tuple(int(size) for size in state.get("_shape", state.get("shape", ())))
    if len(shape) != 2:
        raise ValueError("a sparse array without two dimensions")
    numbers = as_array(state["data"])
    if "row" in state or "coords" in state:
        places = state["coords"] if "coords" in state else (state["row"], state["col"])
        return sparse.coo_matrix((numbers, tuple(as_array(place) for place in places)), shape=shape).tocsr()
    starts = as_array(state["indptr"])
    columns_first = state.get("format", "csc") == "csc" and len(starts) == shape[1] + 1
    make = sparse.csc_matrix if columns_first else sparse.csr_matrix
    matrix = make((numbers, as_array(state["indices"]), starts), shape=shape)
    matrix.check_format(full_check=True)
    return matrix.tocsr()


def _unwrapped(value: object) -> object:
    """Without the stand-in, and without the 0-d array of objects that numpy.savez makes of a single object."""
    value = _value(value)
    return value.item() if isinstance(value, np.ndarray) and value.dtype.hasobject and value.ndim == 0 else value


def one_line(error: BaseException) -> str:
    """What an error says, short and without line breaks."""
    return " ".join(str(error).split())[:MAX_MESSAGE] or type(error).__name__
