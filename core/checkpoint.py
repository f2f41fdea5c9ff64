"""Weights on disk: safetensors with the config, the licence and the training's figures inside; loading needs that file alone.

The official release's files are read as well, see core.official.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.bodies import Body, body_from_tensors, load_body
from core.bodies.smpl_files import DEFAULT_FOLDER, MESH_FILE, require_mesh_file
from core.config import ModelConfig
from core.errors import InputError
from core.model import FastMETRO, assemble
from core.official import SUFFIXES, read_official, read_state_dict
from core.tensor_files import SafetensorError, safe_open, save

FORMAT = "fastmetro-live/2"
OLD_FORMAT = "fastmetro-live/1"
BACKBONE_FORMAT = "fastmetro-live/backbone/1"
FOLDER = Path(__file__).resolve().parent.parent / "checkpoints"
SUFFIX = ".safetensors"
CLASSIFIER = "fc."
"""What torchvision calls the layer behind ResNet's features."""
BODY_PREFIX, BACKBONE_PREFIX = "body.", "backbone."
"""Names of what a file holds of its body, where the body's own files do not ship with us, and of its backbone."""

OLD_NAMES = {
    "joint_tokens": "tokens.joints", "vertex_tokens": "tokens.vertices", "camera_token": "camera.token",
    "camera_predictor.weight": "camera.predictor.weight", "camera_predictor.bias": "camera.predictor.bias",
    "narrow_encoded.weight": "reduction.encoded.weight", "narrow_encoded.bias": "reduction.encoded.bias",
    "narrow_decoded.weight": "reduction.decoded.weight", "narrow_decoded.bias": "reduction.decoded.bias",
}  # fmt: skip
OLD_TOKENS = {"normal": "learned", "template": "fourier"}
"""What files of OLD_FORMAT call things."""


class Checkpoint(NamedTuple):
    """A loaded network (in evaluation mode; its config is model.config), its body, and what was written beside the weights."""

    model: FastMETRO
    body: Body
    metadata: dict[str, Any]


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    config: ModelConfig,
    metadata: dict[str, Any] | None = None,
    half: bool = False,
    body: Body | None = None,
) -> None:
    """Write weights, config and metadata (licence, origin, training figures: anything JSON) into one file, all or nothing.

    half: store float16, which halves the file and is read back as float32.
    body: keep in the file as well what the body's `tensors` are: its mesh levels where they do not ship with us
    """
    extra = {} if body is None else {f"{BODY_PREFIX}{name}": tensor for name, tensor in body.tensors().items()}
    header = {"format": FORMAT, "config": config.to_dict(), "metadata": metadata or {}}
    _write(path, _stored(model, half) | extra, header)


def save_backbone(path: str | Path, backbone: nn.Module, name: str, metadata: dict[str, Any] | None = None, half: bool = True) -> None:
    """Write a backbone's weights alone, for training to begin from; `name` is its name in BACKBONES."""
    _write(path, _stored(backbone, half), {"format": BACKBONE_FORMAT, "backbone": name, "metadata": metadata or {}})


def load_checkpoint(name_or_path: str | Path = "default", mesh_dir: str | Path | None = None) -> Checkpoint:
    """The network of a file, or of a name in checkpoints/; an official .bin as well. Strict.

    mesh_dir: folder of the SMPL body's files, where the network is on SMPL; a file that holds its mesh levels needs none
    Raises InputError when there is no such file, when it is damaged or no checkpoint, and when weights and config differ.
    """
    path = find_checkpoint(name_or_path)
    if path.suffix in SUFFIXES:
        return _load_official(path, mesh_dir)
    header, tensors = _read(path, (FORMAT, OLD_FORMAT))
    config = ModelConfig.from_dict(header.get("config"))
    own = {name.removeprefix(BODY_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(BODY_PREFIX)}
    body = body_from_tensors(config.body, own, path, mesh_dir) if own else load_body(config.body, mesh_dir)
    model = assemble(config, body)
    _fill(model, {name: tensor for name, tensor in tensors.items() if not name.startswith(BODY_PREFIX)}, path)
    return Checkpoint(model.eval(), body, header.get("metadata", {}))


def load_official(path: str | Path, mesh_dir: str | Path | None = None) -> FastMETRO:
    """A network of the official release from its state dict, in evaluation mode; variant and options are found from the keys.

    mesh_dir: folder of the official mesh_downsampling.npz; by default the weights' own if it lies there, or checkpoints/smpl.
    An SMPL model is not needed.
    Strict, and nothing in the file is executed. Raises InputError when anything is missing, left over or of another shape, and for
    whole pickled models.
    """
    return _load_official(Path(path), mesh_dir).model


def _load_official(path: Path, mesh_dir: str | Path | None) -> Checkpoint:
    config, tensors, official_name = read_official(path)
    folder = Path(mesh_dir) if mesh_dir is not None else path.parent if (path.parent / MESH_FILE).is_file() else DEFAULT_FOLDER
    require_mesh_file(folder)  # levels of our own, which an SMPL model alone gives, are not those that the weights were trained on
    body = load_body(config.body, folder)
    model = assemble(config, body)
    _fill(model, tensors, path, official_name)
    metadata = {
        "origin": f"official FastMETRO release, {path.name}",
        "licence": "code MIT; trained with SMPL and research data sets: non-commercial research",
        "commercial_use": "no",
    }
    return Checkpoint(model.eval(), body, metadata)


def load_backbone(path: str | Path, backbone: nn.Module, name: str) -> dict[str, Any]:
    """Fill `backbone`, called `name` in BACKBONES, from a file of save_backbone; returns the file's metadata. Strict as load_checkpoint.

    A network of ours, a file or a name in checkpoints/, gives its own backbone.
    A .pth file holds ImageNet weights as torchvision's ResNet-50 or the official HRNet-W64 names them; a classifier that the backbone
    does not have is left out, and so are batch counters that old files lack.
    """
    path = file_of(path)
    if path.suffix in SUFFIXES:
        tensors = read_state_dict(path)
        counters = {key: value for key, value in backbone.state_dict().items() if key.endswith("num_batches_tracked")}
        _fill(backbone, counters | {key: value for key, value in tensors.items() if not key.startswith(CLASSIFIER)}, path)
        return {"origin": f"ImageNet weights, {path.name}"}
    header, tensors = _read(path, (BACKBONE_FORMAT, FORMAT))
    metadata = header.get("metadata", {})
    found = header.get("backbone")
    if header["format"] == FORMAT:
        found = ModelConfig.from_dict(header.get("config")).backbone
        tensors = {key.removeprefix(BACKBONE_PREFIX): value for key, value in tensors.items() if key.startswith(BACKBONE_PREFIX)}
        metadata = {"licence": metadata.get("licence", "not known"), "origin": f"the backbone of {path.name}"}
    if found != name:
        raise InputError(f"backbone file {path}: holds {found!r}, expected {name!r}")
    _fill(backbone, tensors, path)
    return metadata


def known_checkpoints() -> dict[str, Path]:
    """Name -> file of the networks in checkpoints/."""
    return {path.stem: path for path in sorted(FOLDER.glob(f"*{SUFFIX}")) if _format(path) in (FORMAT, OLD_FORMAT)}


def file_of(name_or_path: str | Path) -> Path:
    """The file of a name in checkpoints/; else the path itself, whether it exists or not."""
    path = Path(name_or_path)
    named = FOLDER / f"{name_or_path}{SUFFIX}"
    return named if path.name == str(name_or_path) and named.is_file() else path


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The file of a known name or path; raises InputError that lists the known names."""
    path = file_of(name_or_path)
    if path.is_file():
        return path
    known = ", ".join(known_checkpoints()) or "none"
    if path.suffix or path.name != str(name_or_path):
        problem = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"checkpoint {path}: {problem}; give a {SUFFIX} file, an official .bin, or a name in checkpoints/: {known}")
    raise InputError(f"unknown checkpoint {str(name_or_path)!r}; known: {known}; or give the path of a {SUFFIX} file")


def _stored(module: nn.Module, half: bool) -> dict[str, Tensor]:
    """A module's state as it is written. Raises InputError for weights that are no numbers, or too large for half precision."""
    dtype = torch.float16 if half else torch.float32
    stored = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype, copy=True).contiguous()
        for name, tensor in module.state_dict().items()
    }
    overflown = [name for name, tensor in stored.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if overflown:
        raise InputError(f"saving: {len(overflown)} weights do not fit {dtype} ({overflown[0]} ...); store them in full precision")
    return stored


def _write(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in header.items()}
    unfinished.write_bytes(save(tensors, texts))
    os.replace(unfinished, path)


def _read(path: Path, wanted_formats: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors, as they are stored, of one of our files, old names changed to the present ones."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        if header.get("format") in wanted_formats:
            header |= {key: json.loads(header[key]) for key in ("config", "metadata") if key in header}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: damaged or no safetensors file ({error}); copy it again from where it came from") from error
    if header.get("format") not in wanted_formats:
        raise InputError(f"{path}: got format {header.get('format')!r}, expected {wanted_formats[0]!r}; this file is not of that kind")
    if header["format"] == OLD_FORMAT:
        header["config"] = _renewed(header.get("config"))
        tensors = {OLD_NAMES.get(name, name): tensor for name, tensor in tensors.items()}
    return header, tensors


def _renewed(config: Any) -> Any:
    """A config of OLD_FORMAT in today's fields."""
    if not isinstance(config, dict):
        return config
    kept = {name: value for name, value in config.items() if name not in ("token_init", "release")}
    return kept | {"tokens": OLD_TOKENS.get(config.get("token_init", "normal"), config.get("token_init"))}


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path, name_in_file: Callable[[str], str] = str) -> None:
    """load_state_dict, strict, of any floating point as float32, with an error of one line that calls the weights as the file does."""
    wanted, got = module.state_dict(), {name: _facts(tensor) for name, tensor in tensors.items()}
    expected = {name: _facts(tensor) for name, tensor in wanted.items()}
    missing, extra = sorted(wanted.keys() - got.keys()), sorted(got.keys() - wanted.keys())
    others = sorted(name for name in wanted.keys() & got.keys() if expected[name] != got[name])
    groups = [group for group in (("missing", missing), ("unknown", extra)) if group[1]]
    problems = [f"{len(names)} {what} ({name_in_file(names[0])} ...)" for what, names in groups]
    if others:
        name = others[0]
        problems.append(f"{len(others)} of another shape or type ({name_in_file(name)} is {got[name]}, expected {expected[name]})")
    if problems:
        raise InputError(f"{path}: its weights are not those of the network that it is for: {'; '.join(problems)}")
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    broken = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        example = name_in_file(broken[0])
        raise InputError(f"{path}: {len(broken)} weights hold NaN or infinity ({example} ...); it is damaged or its training diverged")
    module.load_state_dict(tensors)


def _facts(tensor: Tensor) -> str:
    """What must agree between a file and a network: kind of numbers, kind of storage where it is unusual, shape."""
    kind = "real" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
    plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    return f"{kind} {tuple(tensor.shape)}" if plain else f"{kind} {tuple(tensor.shape)} in a special storage"


def _format(path: Path) -> str | None:
    """The format that a safetensors file claims; None for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format")
    except (SafetensorError, OSError):
        return None
