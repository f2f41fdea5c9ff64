import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from core.bodies.restricted_pickle import as_array, as_sparse, load_restricted, read_npz
from core.errors import InputError
from tests.smpl_files import instance, made_up_class, objects, pretend_modules

PATH = Path("some.pkl")


class Trap:
    """Asks whoever unpickles it to make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_come_back(protocol: int) -> None:
    data = {"a": np.arange(6.0).reshape(2, 3), "b": np.float64(3), "c": [1, "x", None], "d": OrderedDict(e={1, 2}), "f": b"bytes"}
    loaded = load_restricted(pickle.dumps(data, protocol=protocol), PATH)
    np.testing.assert_array_equal(loaded["a"], data["a"])
    assert loaded["b"] == 3
    assert (loaded["c"], loaded["d"]["e"], loaded["f"]) == (data["c"], {1, 2}, b"bytes")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_trap_is_not_sprung(tmp_path: Path, protocol: int) -> None:
    folder = tmp_path / "sprung"
    for data in (Trap(folder), {"v_template": Trap(folder)}, objects(Trap(folder))):
        with pytest.raises(InputError, match=r"nothing of it was executed.*mkdir") as caught:
            load_restricted(pickle.dumps(data, protocol=protocol), PATH)
        assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize(
    "code", [b"cbuiltins\neval\n(V1+1\ntR.", b"cbuiltins\ngetattr\n.", b"cos\nsystem\n(Vtrue\ntR.", b"cnumpy\nload\n."]
)
def test_functions_are_refused(code: bytes) -> None:
    with pytest.raises(InputError, match="it asks for"):
        load_restricted(code, PATH)


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: objects(data["a"], data["m"])])
def test_a_pickle_cut_anywhere_is_one_line(wrap: object) -> None:
    data = pickle.dumps(wrap({"a": np.arange(5), "m": sparse.eye(3, format="csc")}), protocol=2)
    for length in range(len(data)):
        with pytest.raises(InputError) as caught:
            load_restricted(data[:length], PATH)
        assert "\n" not in str(caught.value)


def test_an_npz_cut_anywhere_is_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez(whole, U=objects(sparse.eye(2, format="csc")), V=np.arange(3))
    data, cut = whole.read_bytes(), tmp_path / "cut.npz"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.npz"):
            read_npz(cut, ("U", "V"))
    assert set(read_npz(whole, ("U", "V", "W"))) == {"U", "V"}


@pytest.mark.parametrize("make", [sparse.csc_matrix, sparse.csr_matrix, sparse.coo_matrix, sparse.csc_array])
def test_sparse_matrices_of_every_kind_come_back(make: type) -> None:
    matrix = sparse.random(5, 7, 0.4, random_state=0, format="csc")
    loaded = load_restricted(pickle.dumps(make(matrix), protocol=2), PATH)
    np.testing.assert_allclose(as_sparse(loaded).toarray(), matrix.toarray())
    np.testing.assert_allclose(as_sparse(matrix.toarray()).toarray(), matrix.toarray())


def test_chumpy_variables_and_selections_come_back() -> None:
    variable, selection = made_up_class("chumpy.ch", "Ch"), made_up_class("chumpy.reordering", "Select")
    source = np.arange(12.0).reshape(3, 4)
    picked = instance(selection, a=instance(variable, x=source), idxs=np.array([0, 1, 4, 5]), preferred_shape=(2, 2))
    with pretend_modules(variable, selection):
        data = pickle.dumps(picked, protocol=2)
    np.testing.assert_array_equal(as_array(load_restricted(data, PATH)), source[:2, :2])
    with pretend_modules(variable), pytest.raises(ValueError, match="expected an array"):
        as_array(load_restricted(pickle.dumps(instance(variable, y=1), protocol=2), PATH))
    with pytest.raises(ValueError, match="objects"):
        as_array(objects(1, 2))
