"""Files that the user names, and names for what is made of them."""

import os
import re
from argparse import ArgumentTypeError
from collections.abc import Iterable
from pathlib import Path

from core.errors import InputError


def check_file(path: Path, expected: str, of_folder: str = "") -> None:
    """Raise InputError where there is no file with something in it.

    expected: what was asked for, in words; of_folder: what to do with a folder of such files
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder, expected {expected}{of_folder and f'; {of_folder}'}")
    if not path.exists():
        scheme = re.match(r"(https?|rtsp|rtmp):/+", path.as_posix())
        raise InputError(f"{path}: no such file; expected {expected}" + "; --webcam takes addresses" * bool(scheme))
    if path.stat().st_size == 0:
        raise InputError(f"{path}: empty (0 bytes), expected {expected}; copy or download it again")


def named_path(text: str) -> Path:
    """A path from the command line. Raises ArgumentTypeError for an empty one, which would be the folder that one is in."""
    if not text:
        raise ArgumentTypeError("got an empty name, expected a path")
    return Path(text)


def folder_problem(path: Path) -> str | None:
    """Why nothing can be written into a folder that is there or has to be made; None where nothing speaks against it."""
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        return f"{path}: {'a file' if nearest == path else f'{nearest} is a file'}, expected a folder; one that is not there is made"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{path}: nothing can be written to {nearest}; expected a folder that may be written, choose another one"
    return None


def distinct(names: Iterable[str]) -> list[str]:
    """The names in their order; those that are taken already get a number: a, a-2, a-3."""
    taken: dict[str, None] = {}
    for base in names:
        name, number = base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken[name] = None
    return list(taken)
