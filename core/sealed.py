"""Files that tell when they are damaged or somebody else's: a sha256, then the content."""

import hashlib
import os
import tempfile
from pathlib import Path

DIGEST_BYTES = hashlib.sha256().digest_size
DRAFT = "draft-"
"""How folders begin in which files lie until they are whole; those of killed processes stay behind."""


def write_sealed(path: Path, content: bytes, word: str = "") -> None:
    """Whole or not at all. word: what the reader must know as well. Raises OSError."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=DRAFT) as draft:
        unfinished = Path(draft) / path.name
        with unfinished.open("wb") as file:
            file.write(_digest(content, word))
            file.write(content)
        os.replace(unfinished, path)


def read_sealed(path: Path, word: str = "") -> bytes:
    """The content. Raises OSError, and ValueError where the file is not what was written with this word."""
    with path.open("rb") as file:
        digest, content = file.read(DIGEST_BYTES), file.read()
    if _digest(content, word) != digest:
        raise ValueError(f"{path.name} is damaged")
    return content


def _digest(content: bytes, word: str) -> bytes:
    digest = hashlib.sha256(content)
    digest.update(word.encode())
    return digest.digest()
