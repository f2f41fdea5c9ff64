"""Checks that a frozen dataclass runs on its arrays when it is made, so that a bad array fails where it is born."""

import numpy as np


def check_array(name: str, array: np.ndarray, shape: tuple[int | None, ...], dtype: type | None = None) -> None:
    """Raise ValueError unless `array` has this shape (None matches any length) and dtype."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: got {type(array).__name__}, expected a NumPy array")
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = tuple("any" if want is None else want for want in shape)
        raise ValueError(f"{name}: got shape {array.shape}, expected {wanted}")
    if dtype is not None and array.dtype != dtype:
        raise ValueError(f"{name}: got dtype {array.dtype}, expected {np.dtype(dtype)}")


def check_finite(name: str, array: np.ndarray) -> None:
    """Raise ValueError when `array` holds NaN or infinity."""
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} values are not finite")
