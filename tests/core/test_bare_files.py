"""The stand-ins for SciPy's sparse matrices and for safetensors do what the originals do."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.sparse import random as random_sparse

from core.sparse import SmallCsrMatrix
from core.tensor_files import SmallReader, SmallSafetensorError, small_save


def test_small_sparse_matrix_as_scipy() -> None:
    original = random_sparse(7, 5, 0.4, "csr", np.float32, rng=np.random.default_rng(0))
    small = SmallCsrMatrix((original.data, original.indices, original.indptr), original.shape)
    dense = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(small.toarray(), original.toarray())
    np.testing.assert_allclose(small @ dense, original @ dense, rtol=1e-6)
    np.testing.assert_allclose(small.T @ np.ones((7, 2)), original.T @ np.ones((7, 2)), rtol=1e-6)
    np.testing.assert_array_equal(small.T.toarray(), original.T.toarray())
    small.check_format()
    assert SmallCsrMatrix((4, 2)).toarray().shape == (4, 2)
    broken = SmallCsrMatrix((original.data, original.indices + 9, original.indptr), original.shape)
    with pytest.raises(ValueError, match="beyond"):
        broken.check_format()


def test_tensor_files_both_ways(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 2).half(), "ids": torch.arange(4), "flag": torch.tensor([True, False]), "brain": torch.randn(2).bfloat16(),
        "none": torch.zeros(0, 3), "one": torch.tensor(2.5),
    }  # fmt: skip
    ours, theirs = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    ours.write_bytes(small_save(tensors, {"format": "x"}))
    safetensors.torch.save_file(tensors, theirs, {"format": "x"})
    for found in (safetensors.torch.load_file(ours), {name: SmallReader(theirs, "pt").get_tensor(name) for name in tensors}):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
    assert SmallReader(theirs, "np").metadata() == {"format": "x"}
    assert isinstance(SmallReader(theirs, "np").get_tensor("ids"), np.ndarray)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, (8).to_bytes(8, "little") + b"no json!"])
def test_damaged_tensor_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(SmallSafetensorError):
        SmallReader(path, "pt")
