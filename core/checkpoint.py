"""Weights on disk: safetensors with the config, the licence and the training's figures inside; loading needs that file alone."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from core.config import ModelConfig
from core.errors import InputError
from core.model import FastMETRO, build_model

FORMAT = "fastmetro-live/1"
BACKBONE_FORMAT = "fastmetro-live/backbone/1"
FOLDER = Path(__file__).resolve().parent.parent / "checkpoints"
SUFFIX = ".safetensors"


class Checkpoint(NamedTuple):
    """A loaded network (in evaluation mode; its config is model.config), and what was written beside the weights."""

    model: FastMETRO
    metadata: dict[str, Any]


def save_checkpoint(
    path: str | Path, model: nn.Module, config: ModelConfig, metadata: dict[str, Any] | None = None, half: bool = False
) -> None:
    """Write weights, config and metadata (licence, origin, training figures: anything JSON) into one file, all or nothing.

    half: store float16, which halves the file and is read back as float32.
    Fixed matrices are not in it: the body's file has them.
    """
    _write(path, model, {"format": FORMAT, "config": config.to_dict(), "metadata": metadata or {}}, half)


def save_backbone(path: str | Path, backbone: nn.Module, name: str, metadata: dict[str, Any] | None = None, half: bool = True) -> None:
    """Write a backbone's weights alone, for training to begin from; `name` is its name in BACKBONES."""
    _write(path, backbone, {"format": BACKBONE_FORMAT, "backbone": name, "metadata": metadata or {}}, half)


def load_checkpoint(name_or_path: str | Path = "default") -> Checkpoint:
    """The network of a file, or of a name in checkpoints/. Strict.

    Raises InputError when there is no such file, when it is damaged or no checkpoint of ours, and when weights and config differ.
    """
    path = find_checkpoint(name_or_path)
    header, tensors = _read(path, FORMAT)
    config = ModelConfig.from_dict(header.get("config"))
    model = build_model(config)
    _fill(model, tensors, path)
    return Checkpoint(model.eval(), header.get("metadata", {}))


def load_backbone(path: str | Path, backbone: nn.Module, name: str) -> dict[str, Any]:
    """Fill `backbone`, called `name` in BACKBONES, from a file of save_backbone; returns the file's metadata. Strict as load_checkpoint."""
    header, tensors = _read(Path(path), BACKBONE_FORMAT)
    if header.get("backbone") != name:
        raise InputError(f"backbone file {path}: holds {header.get('backbone')!r}, expected {name!r}")
    _fill(backbone, tensors, Path(path))
    return header.get("metadata", {})


def known_checkpoints() -> dict[str, Path]:
    """Name -> file of the networks in checkpoints/."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{SUFFIX}")) if _format(path) == FORMAT}


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The file of a known name or path; raises InputError that lists the known names."""
    path = Path(name_or_path)
    named = FOLDER / f"{name_or_path}{SUFFIX}"
    if path.name == str(name_or_path) and named.is_file():
        return named
    if path.is_file():
        return path
    known = ", ".join(known_checkpoints()) or "none"
    if path.suffix or path.name != str(name_or_path):
        raise InputError(f"checkpoint {path}: no such file; give a {SUFFIX} file or one of the names in checkpoints/: {known}")
    raise InputError(f"unknown checkpoint {str(name_or_path)!r}; known: {known}; or give the path of a {SUFFIX} file")


def _write(path: str | Path, module: nn.Module, header: dict[str, Any], half: bool) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if half else torch.float32
    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
        for name, tensor in module.state_dict().items()
    }
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(save(tensors, {key: value if isinstance(value, str) else json.dumps(value) for key, value in header.items()}))
    os.replace(unfinished, path)


def _read(path: Path, wanted_format: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors (floating point ones as float32) of one of our files."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        if header.get("format") == wanted_format:
            header |= {key: json.loads(header[key]) for key in ("config", "metadata") if key in header}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: damaged or no safetensors file ({error}); copy it again from where it came from") from error
    if header.get("format") != wanted_format:
        raise InputError(f"{path}: got format {header.get('format')!r}, expected {wanted_format!r}; this file is not of that kind")
    return header, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """load_state_dict, strict, with an error of one line."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != got:
        missing, extra = sorted(wanted.keys() - got.keys()), sorted(got.keys() - wanted.keys())
        shapes = [f"{name} is {got[name]}, expected {wanted[name]}" for name in wanted.keys() & got.keys() if wanted[name] != got[name]]
        problems = [f"{len(group)} {what} ({group[0]} ...)" for what, group in (("missing", missing), ("unknown", extra)) if group]
        problems += [f"{len(shapes)} of another shape ({sorted(shapes)[0]})"] if shapes else []
        raise InputError(f"{path}: its weights do not fit its config: {'; '.join(problems)}")
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise InputError(f"{path}: {len(broken)} weights hold NaN or infinity ({broken[0]} ...); it is damaged or its training diverged")
    module.load_state_dict(tensors)


def _format(path: Path) -> str | None:
    """The format that a safetensors file claims; None for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format")
    except (SafetensorError, OSError):
        return None
