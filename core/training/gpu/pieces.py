"""Files in pieces that go through a narrow door: split with checksums, and joined again."""

import hashlib
import json
import os
from pathlib import Path

from core.errors import InputError

PIECE_BYTES = 15 * 2**20
SUFFIX = ".pieces.json"


def split(path: Path, folder: Path, piece_bytes: int = PIECE_BYTES) -> list[Path]:
    """Write `path` into `folder` as NAME.000, NAME.001, ... and last NAME.pieces.json, which says what belongs together; all paths.

    Pieces of an earlier file of that name are replaced; what is read between is noticed by its checksum.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes()
    parts = [content[start : start + piece_bytes] for start in range(0, len(content), piece_bytes)] or [b""]
    pieces = []
    for number, part in enumerate(parts):
        piece = folder / f"{path.name}.{number:03d}"
        _replace(piece, part)
        pieces.append({"name": piece.name, "bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()})
    facts = {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pieces": pieces}
    manifest = folder / f"{path.name}{SUFFIX}"
    _replace(manifest, json.dumps(facts, indent=1).encode())
    known = {piece["name"] for piece in pieces}
    for old in folder.glob(f"{path.name}.[0-9][0-9][0-9]"):
        if old.name not in known:
            old.unlink()
    return [*(folder / piece["name"] for piece in pieces), manifest]


def join(folder: Path, target: Path | None = None, name: str | None = None) -> Path:
    """Put the pieces in a folder together, as `target` or under their own name there. Raises InputError for what is missing or damaged.

    name: of the file to join, where the folder holds the pieces of several
    """
    manifests = sorted(folder.glob(f"*{SUFFIX}")) if name is None else [folder / f"{name}{SUFFIX}"]
    if len(manifests) != 1 or not manifests[0].is_file():
        found = ", ".join(path.name.removesuffix(SUFFIX) for path in manifests if path.is_file()) or "none"
        raise InputError(
            f"pieces in {folder}: expected those of one file (NAME{SUFFIX}), found {found}; give the folder that the run wrote"
        )
    try:
        facts = json.loads(manifests[0].read_text(encoding="utf-8"))
        pieces = [(piece["name"], piece["sha256"]) for piece in facts["pieces"]]
        whole = facts["sha256"], facts["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"pieces: {manifests[0]} is damaged ({error}); fetch it again") from error
    content = b"".join(_read_piece(folder / Path(piece).name, checksum) for piece, checksum in pieces)
    if hashlib.sha256(content).hexdigest() != whole[0]:
        raise InputError(f"pieces: those in {folder} are whole, but not of one file; fetch all of them again")
    target = folder / Path(whole[1]).name if target is None else target
    target.parent.mkdir(parents=True, exist_ok=True)
    _replace(target, content)
    return target


def _read_piece(path: Path, checksum: str) -> bytes:
    if not path.is_file():
        raise InputError(f"pieces: {path} is missing; fetch it as well")
    part = path.read_bytes()
    if hashlib.sha256(part).hexdigest() != checksum:
        raise InputError(f"pieces: {path} is damaged, its sha256 is not the one that was written; fetch it again")
    return part


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
