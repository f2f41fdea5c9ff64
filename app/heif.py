"""Photographs of iPhones (HEIC): Pillow reads them once libheif has been made known to it."""

import functools
from pathlib import Path

import numpy as np

from core.errors import InputError

SUFFIXES = (".heic", ".heif")
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1")
"""How such files call themselves in bytes 8 to 12, behind `ftyp`."""


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is one, whatever its name."""
    return head[4:8] == b"ftyp" and head[8:12] in BRANDS


@functools.cache
def make_known() -> bool:
    """Whether Pillow reads such files from now on."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener()
    return True


def read_heif(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned upright. Raises InputError."""
    from PIL import Image

    if not make_known():
        raise InputError(f"{path}: reading it needs the package pi-heif; pip install pi-heif, or save it as .jpg")
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has too many pixels") from error
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError) as error:
        raise InputError(f"{path}: damaged, or no picture ({' '.join(str(error).split())}); save it as .jpg") from error
