"""What a network in PyTorch says to a few pictures, kept beside what was converted from it: to ask it anew takes a part of each start.

Kept answers hold for the network that their file is named after, and for the code that computed them.
"""

import hashlib
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.sealed import read_sealed, write_sealed

SUFFIX = ".answers"


def write_answers(path: Path, answers: Sequence[Tensor]) -> None:
    """Keep them beside the converted network in `path`. Raises OSError."""
    content = io.BytesIO()
    np.savez(content, *(answer.numpy() for answer in answers))
    write_sealed(path.with_suffix(SUFFIX), content.getvalue(), _word(path))


def known_answers(path: Path) -> list[Tensor] | None:
    """Those kept beside the network in `path`; None where there are none that hold."""
    try:
        content = read_sealed(path.with_suffix(SUFFIX), _word(path))
    except (OSError, ValueError):
        return None
    with np.load(io.BytesIO(content)) as arrays:
        return [torch.from_numpy(arrays[name]) for name in arrays.files]


def _word(path: Path) -> str:
    return f"{path.stem} {code_digest()}"


@cache
def code_digest() -> str:
    """sha256 of the code that a network may consist of."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted((*folder.glob("*.py"), *(folder / "backbones").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()
