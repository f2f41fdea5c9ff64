"""Run a module as a bare machine would: of all that is installed only PyTorch with its own needs, NumPy and OpenCV can be imported.

python bare.py MODULE ARGUMENTS...
"""

import importlib.metadata
import runpy
import sys

ALLOWED = {
    "torch", "torchgen", "functorch", "numpy", "cv2", "sympy", "mpmath", "jinja2", "markupsafe", "networkx", "filelock", "fsspec",
    "typing_extensions", "setuptools", "pkg_resources", "_distutils_hack", "triton", "isympy", "pip",
}  # fmt: skip


INSTALLED = set(importlib.metadata.packages_distributions()) - ALLOWED - {"core", "app", "tests"}


class Bare:
    """One of Python's finders, for which these packages do not exist."""

    def __init__(self, finder: object) -> None:
        self.finder = finder

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """As importlib asks; None for what is not there."""
        return None if name.partition(".")[0] in INSTALLED else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> object:
        return getattr(self.finder, name)


if __name__ == "__main__":
    sys.path[0] = ""
    sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
