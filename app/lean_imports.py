"""Imports without what a library brings along and never uses here: it is loaded only when somebody does use it."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """Stands in for a module until something of it is asked for, also by another thread."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # that one is asked for by who imports another part of it meanwhile
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def imported_later(*names: str) -> Iterator[None]:
    """What imports these modules inside of the context gets stand-ins; modules that are there already stay.

    names: in full, parents before their children
    """
    placed = {name: _Later(name) for name in names if name not in sys.modules}
    for name, module in placed.items():
        parent, _, child = name.rpartition(".")
        if parent in placed:
            setattr(placed[parent], child, module)
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name, module in placed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
