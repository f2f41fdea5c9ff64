"""FastMETRO: the network, the bodies, the training. `load_estimator` and `build_model` are the way in."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.estimator import load_estimator
    from core.model import build_model

__all__ = ["build_model", "load_estimator"]


def __getattr__(name: str) -> Callable[..., object]:  # torch is imported only by those who ask for a network
    if name == "load_estimator":
        from core.estimator import load_estimator

        return load_estimator
    if name == "build_model":
        from core.model import build_model

        return build_model
    raise AttributeError(f"module 'core' has no attribute {name!r}")
