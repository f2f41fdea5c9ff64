"""Imports without what a library brings along and never uses here: it is loaded only when somebody does use it."""

import importlib
import sys
from collections.abc import Callable, Iterator
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
    with _in_their_place(placed):
        yield


@contextmanager
def functions_later(module: str, *names: str) -> Iterator[None]:
    """What takes these functions from a module inside of the context gets others that load the module when they are called.

    For packages that offer a function of a heavy part of theirs beside their own.
    """
    stand_in = ModuleType(module)
    for name in names:
        setattr(stand_in, name, _called_later(module, name))
    with _in_their_place({} if module in sys.modules else {module: stand_in}):
        yield


def _called_later(module: str, name: str) -> Callable[..., Any]:
    def function(*arguments: Any, **options: Any) -> Any:
        package, _, part = module.rpartition(".")
        before = getattr(sys.modules.get(package), part, None)
        real = getattr(importlib.import_module(module), name)
        if before is not None:  # a function named like its module, which importing has put there
            setattr(sys.modules[package], part, before)
        return real(*arguments, **options)

    return function


@contextmanager
def _in_their_place(placed: dict[str, ModuleType]) -> Iterator[None]:
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name, module in placed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
