"""Name -> builder (or any value), with an error that lists the known names."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from core.errors import InputError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named things of one kind; `kind` ("backbone", "body", ...) is what its errors call them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: put what follows into the table under `name`. Raises ValueError for a name that is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """The entry; raises InputError that lists the known names when there is none."""
        if name not in self._entries:
            raise InputError(f"unknown {self.kind} {name!r}; known: {', '.join(self._entries) or 'none'}")
        return self._entries[name]

    get = __getitem__

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
