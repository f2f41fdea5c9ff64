"""The official release's weights: what their names say about the network, and their names in ours.

Source of the names: postech-ami/FastMETRO; its files are `torch.save(model.state_dict())`
"""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import SIZES, ModelConfig, variant
from core.errors import InputError

SUFFIXES = (".bin", ".pt", ".pth")
"""What official files are called; ours are .safetensors."""

BACKBONE_KEYS = {"r50": "backbone.4.0.conv1.weight", "h64": "backbone.incre_modules.0.0.conv1.weight"}
"""Short name of a backbone -> a key that only it has."""
TOKEN_COUNTS = {"joint_token_embed.weight": 14, "vertex_token_embed.weight": 431}
RELEASED_KEY = "dim_reduce_enc_cam.weight"
PARAMETRIC_PREFIX = "smpl_parameter_regressor."

PREFIXES = {
    "transformer_1.": "stages.0.", "transformer_2.": "stages.1.",
    "dim_reduce_enc_cam.": "reduction.camera.", "dim_reduce_enc_img.": "reduction.image.", "dim_reduce_dec.": "reduction.tokens.",
    "cam_token_embed.weight": "camera.token", "cam_predictor.": "camera.predictor.",
    "joint_token_embed.weight": "tokens.joints", "vertex_token_embed.weight": "tokens.vertices",
    "coarse2intermediate_upsample.": "upsampling.0.",
    "smpl_parameter_regressor.regressor.0.fc_block.": "body_regressor.entry.",
    "smpl_parameter_regressor.regressor.1.fc_block.": "body_regressor.blocks.0.",
    "smpl_parameter_regressor.regressor.2.fc_block.": "body_regressor.blocks.1.",
    "smpl_parameter_regressor.regressor.3.": "body_regressor.exit.",
}  # fmt: skip
"""How names begin in the release -> in ours. What begins otherwise keeps its name."""
BACKBONE_PREFIXES = {
    "r50": {
        "backbone.0.": "backbone.conv1.", "backbone.1.": "backbone.bn1.", "backbone.4.": "backbone.layer1.",
        "backbone.5.": "backbone.layer2.", "backbone.6.": "backbone.layer3.", "backbone.7.": "backbone.layer4.",
    },
    "h64": {},
}  # fmt: skip
"""The same for backbones: the release cuts torchvision's ResNet into a Sequential, which numbers its parts."""


class OfficialWeights(NamedTuple):
    """A network of the release: its config, its weights under our names, and what the release calls each of ours."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    official_name: Callable[[str], str]


def read_official(path: Path) -> OfficialWeights:
    """Read a state dict of the release. Executes nothing (weights_only).

    Raises InputError for a file that is damaged, a whole pickled model, or no body network of the release.
    """
    state = _without_wrapper(read_state_dict(path))
    config, backbone = config_of(state, path)
    to_ours = PREFIXES | BACKBONE_PREFIXES[backbone]
    to_official = {ours: official for official, ours in to_ours.items()}
    strangers = [name for name in state if renamed(name, to_official) != name]
    if strangers:
        raise InputError(f"{path}: {len(strangers)} unknown weights ({strangers[0]} ...), expected the release's names only")
    tensors = {renamed(name, to_ours): tensor for name, tensor in state.items()}
    return OfficialWeights(config, tensors, lambda name: renamed(name, to_official))


def renamed(name: str, prefixes: Mapping[str, str]) -> str:
    """`name` with the beginning that `prefixes` knows changed."""
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a file by torch.save. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, expected a file by torch.save' if path.is_dir() else 'no such file'}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path}: {_refusal(error)}") from error
    except Exception as error:  # PyTorch raises another type for each place at which a file may be cut
        raise InputError(f"{path}: damaged or no PyTorch file ({type(error).__name__}); get it again from where it came from") from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: got {_kind(state)}, expected a state dict: names and tensors, from torch.save(model.state_dict(), ...)")
    if any(tensor.is_nested for tensor in state.values()):
        raise InputError(f"{path}: it holds nested tensors, expected plain ones; get it again from where it came from")
    return {str(name): tensor for name, tensor in state.items()}


def _refusal(error: pickle.UnpicklingError) -> str:
    """What to say about a pickle with more than tensors in it. PyTorch's own text is not quoted: it advises to switch the safety off."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"class(?:es)?:? \W*([\w.]+)", str(error))
    if found is None:
        return "damaged or no PyTorch file; get it again from where it came from"
    return (
        f"it holds objects of {found[1]}, not only tensors: a whole pickled model, which could run code; nothing was executed. "
        "Where the official code runs, convert it: "
        'torch.save(torch.load("model.bin", map_location="cpu", weights_only=False).state_dict(), "state_dict.bin")'
    )


def _without_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the `module.` that DistributedDataParallel puts before all names."""
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def config_of(state: Mapping[str, Tensor], path: Path) -> tuple[ModelConfig, str]:
    """What names and shapes say: size, backbone, regressor; and the backbone's short name. InputError when they are not the release's."""
    backbone = next((short for short, key in BACKBONE_KEYS.items() if key in state), None)
    layers = {int(found[1]) for name in state if (found := re.match(r"transformer_1\.encoder\.layers\.(\d+)\.", name))}
    size = next((size for size, num_layers in SIZES.items() if layers == set(range(num_layers))), None)
    found = {"a ResNet-50 or HRNet-W64": backbone, "1, 2 or 3 layers a transformer": size, RELEASED_KEY: RELEASED_KEY in state or None}
    missing = [what for what, value in found.items() if value is None]
    if missing:
        raise InputError(
            f"{path}: no official FastMETRO weights: {len(state)} tensors ({next(iter(state))} ...), "
            f"but without {' and without '.join(missing)}; give a FastMETRO-*_state_dict.bin of the release"
        )
    for name, count in TOKEN_COUNTS.items():
        if name in state and state[name].shape[:1] != (count,):
            rows = " x ".join(map(str, state[name].shape))
            raise InputError(f"{path}: {name} is {rows}, expected {count} rows: not a network of bodies (FreiHAND's is one of hands)")
    parametric = any(name.startswith(PARAMETRIC_PREFIX) for name in state)
    return variant(f"fastmetro-{size}-{backbone}", body="smpl", release="released", parametric=parametric), backbone


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary with {', '.join(map(str, list(value)[:3])) or 'nothing'} in it"
    return f"an object of type {type(value).__name__}"
