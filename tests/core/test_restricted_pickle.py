import os
import pickle
from collections import OrderedDict
from contextlib import suppress
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
    with pytest.raises(ValueError, match="expected an array of real numbers"):
        as_array(objects(1, 2))


FORGED_DTYPE = b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntb"  # an object type that says it holds no objects
EIGHT_BYTES = b"c_codecs\nencode\n(VAAAAAAAA\nVlatin1\ntR"
BREAKOUTS = {
    "a scalar of a forged type": b"cnumpy._core.multiarray\nscalar\n(" + FORGED_DTYPE + b"S'AAAAAAAA'\ntR.",
    "an array of a forged type": b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
    + FORGED_DTYPE
    + b"I00\nS'AAAAAAAA'\ntb.",
    "the array type called": b"cnumpy\nndarray\n((I1\nt" + FORGED_DTYPE + EIGHT_BYTES + b"tR.",
    "a buffer of a forged type": b"cnumpy._core.numeric\n_frombuffer\n(" + EIGHT_BYTES + FORGED_DTYPE + b"(I1\ntS'C'\ntR.",
    "a function changed": b"c_codecs\nencode\n(N(dV__defaults__\n(Vutf8\ntstb.",
    "a stand-in changed": b"c_codecs\nencode\n(N(dV_function\nNstb.",
    "a class changed": b"cscipy.sparse\ncsc_matrix\n(N(dVstate\nNstb.",
    "a deep tuple as a key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "a wide and deep tuple as a key": b"\x80\x02})" + b"q\x00h\x00\x86" * 60 + b"Ns.",
    "an array that is written into": b"cnumpy._core.numeric\n_frombuffer\n((lNacnumpy\ndtype\n(VO8\nI00\nI01\ntR(I1\ntS'C'\ntR"
    b"N(lp2\ng2\nag2\nas.",
    "an array without content": b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
}
"""Pickles that made NumPy read memory that is not its own, or changed this module, when its own classes were let through."""


@pytest.mark.parametrize("name", list(BREAKOUTS))
def test_forged_arrays_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="nothing of it was executed"):
        load_restricted(BREAKOUTS[name], PATH)
    assert load_restricted(pickle.dumps(b"still works", protocol=2), PATH) == b"still works"


def test_a_flipped_bit_is_an_input_error_at_most() -> None:
    data = pickle.dumps({"a": objects(1.5, 2.5), "b": np.arange(7, dtype=np.int16)}, protocol=2)
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with suppress(InputError):  # every other error, or a crash, fails the test; some flips do no harm
            load_restricted(flipped, PATH)


def test_damage_inside_a_compressed_npz_is_an_input_error_at_most(tmp_path: Path) -> None:
    whole, hurt = tmp_path / "whole.npz", tmp_path / "hurt.npz"
    np.savez_compressed(whole, U=objects(sparse.random(9, 9, 0.5, random_state=0, format="csc")), V=np.arange(40))
    data = whole.read_bytes()
    for place in range(len(data)):
        hurt.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        with suppress(InputError):
            read_npz(hurt, ("U", "V"))


def test_a_ring_of_objects_is_an_error() -> None:
    variable = made_up_class("chumpy.ch", "Ch")
    ring = instance(variable)
    ring.x = ring
    with pretend_modules(variable):
        data = pickle.dumps(ring, protocol=2)
    with pytest.raises(RecursionError):
        as_array(load_restricted(data, PATH))
    with pytest.raises(ValueError, match="list"):
        as_array([[1.0]])
