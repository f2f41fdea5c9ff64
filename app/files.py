"""Files that the user names, and names for what is made of them."""

import re
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


def distinct(names: Iterable[str]) -> list[str]:
    """The names in their order; those that are taken already get a number: a, a-2, a-3."""
    taken: dict[str, None] = {}
    for base in names:
        name, number = base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken[name] = None
    return list(taken)
