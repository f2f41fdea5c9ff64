"""SciPy's csr_matrix, or where SciPy is not installed a small stand-in with all that networks and bodies ask of it.

A bare machine that only trains has PyTorch and NumPy alone; the numbers are the same either way.
"""

import numpy as np


class SmallCsrMatrix:
    """A sparse matrix by rows: `data`, `indices`, `indptr` and `shape` as in SciPy; products with dense arrays only."""

    def __init__(self, arrays: tuple[np.ndarray, np.ndarray, np.ndarray] | tuple[int, int], shape: tuple[int, int] | None = None,
                 dtype: type = np.float32) -> None:  # fmt: skip
        """arrays: (data, indices, indptr), or a shape for a matrix without entries."""
        if shape is None:
            shape, arrays = arrays, (np.zeros(0, dtype), np.zeros(0, np.int32), np.zeros(arrays[0] + 1, np.int32))
        self.data, self.indices, self.indptr = arrays
        self.shape = (int(shape[0]), int(shape[1]))

    def check_format(self, full_check: bool = True) -> None:
        """Raise ValueError when the arrays do not describe a matrix of this shape."""
        rows, columns = self.shape
        count = len(self.indices)
        if len(self.indptr) != rows + 1 or self.indptr[0] != 0 or self.indptr[-1] != count or len(self.data) != count:
            raise ValueError(f"sparse matrix: lengths {len(self.data)}, {count}, {len(self.indptr)} do not fit {self.shape}")
        outside = count and (self.indices.min() < 0 or self.indices.max() >= columns)
        if full_check and (outside or (np.diff(self.indptr) < 0).any()):
            raise ValueError(f"sparse matrix: indices beyond {self.shape}")

    def toarray(self) -> np.ndarray:
        """(rows, columns) dense."""
        dense = np.zeros(self.shape, self.data.dtype)
        np.add.at(dense, (np.repeat(np.arange(self.shape[0]), np.diff(self.indptr)), self.indices), self.data)
        return dense

    @property
    def T(self) -> "SmallCsrMatrix":  # noqa: N802  its usual name
        """Transposed."""
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.indptr))
        order = np.argsort(self.indices, kind="stable")
        counts = np.bincount(self.indices, minlength=self.shape[1])
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return SmallCsrMatrix((self.data[order], rows[order].astype(np.int32), indptr), (self.shape[1], self.shape[0]))

    def __matmul__(self, dense: np.ndarray) -> np.ndarray:
        """(columns, ...) -> (rows, ...)."""
        result = np.zeros((self.shape[0], *dense.shape[1:]), np.result_type(self.data, dense))
        weights = self.data.reshape(-1, *[1] * (dense.ndim - 1))
        np.add.at(result, np.repeat(np.arange(self.shape[0]), np.diff(self.indptr)), weights * dense[self.indices])
        return result


try:
    from scipy.sparse import csr_matrix
except ImportError:
    csr_matrix = SmallCsrMatrix
