"""A network made ready for training: built, its trunk filled with its original weights."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from core.bodies import Body, load_body
from core.checkpoint import file_of, load_backbone, load_checkpoint
from core.config import ModelConfig, variant
from core.errors import InputError
from core.model import FastMETRO, assemble
from core.training.sources import said_by

WHERE = {
    "resnet50": "get torchvision's ImageNet weights, https://download.pytorch.org/models/resnet50-0676ba61.pth, and give their path",
    "hrnet-w64": "get hrnetv2_w64_imagenet_pretrained.pth as the FastMETRO repository's docs/Download.md says, and give its path",
    "blazepose": "make it with `python -m core.backbones.convert_blazepose pose_landmark_full.tflite FILE.safetensors`",
    "blazepose-heavy": "make it with `python -m core.backbones.convert_blazepose pose_landmark_heavy.tflite FILE.safetensors`",
    "movenet-thunder": "default-live has it; or make it with `python -m core.backbones.convert_tfjs movenet-thunder.json FILE`",
    "blazepose-heavy+movenet-thunder": "default has it; or make it with `python -m core.backbones.make_pair FIRST SECOND FILE.safetensors`",
}
"""Where a backbone's first weights come from."""


@dataclass(frozen=True)
class Parts:
    """A model, what it was built from, and where its first weights come from in words.

    start: what the checkpoint said of itself that it begins with (core.training.sources.said_by); None = it begins with none
    """

    model: FastMETRO
    config: ModelConfig
    body: Body
    origin: str
    start: dict[str, Any] | None = None

    @property
    def backbone_name(self) -> str:
        """Name of the backbone in BACKBONES."""
        return self.config.backbone


def build_for_training(variant_name: str, trunk: str | Path | None = None, init: str | Path | None = None) -> Parts:
    """A model with a pretrained trunk and a random transformer, or, with `init`, all weights of a checkpoint.

    Raises InputError when neither is given or the files do not fit.
    """
    if trunk is None and init is None:
        raise InputError("training: got neither --trunk nor --init; give the backbone's weights, or a checkpoint to start from")
    return build_parts(variant(variant_name), trunk, init)


def build_parts(config: ModelConfig, trunk: str | Path | None, init: str | Path | None, mesh_dir: Path | None = None) -> Parts:
    """A network of this architecture with first weights: all of a checkpoint's, or a trunk's and random ones, or random ones alone.

    trunk: a backbone's file, or a network with that backbone, a file or a name in checkpoints/
    A checkpoint without regressor of body parameters may start a network that has one; that one is random then.
    mesh_dir: folder of the SMPL body's files. Raises InputError when files are missing or of another architecture.
    """
    if init is not None:
        return _continued(config, init, mesh_dir)
    body = load_body(config.body, mesh_dir)
    model = assemble(config, body)
    if trunk is None:
        return Parts(model, config, body, "random weights")
    file = file_of(trunk)
    if not file.is_file():
        raise InputError(f"backbone: no file {trunk}; {WHERE.get(config.backbone, 'give its weights')}")
    load_backbone(file, model.backbone, config.backbone)
    return Parts(model, config, body, f"trunk {file.name}, transformer from random weights")


def _continued(config: ModelConfig, init: str | Path, mesh_dir: Path | None) -> Parts:
    loaded = load_checkpoint(init, mesh_dir)
    found = loaded.model.config
    names = [entry.name for entry in fields(config) if _differs(config, found, entry.name)]
    if names:
        differing = "; ".join(f"{name} {getattr(found, name)}, expected {getattr(config, name)}" for name in names)
        raise InputError(f"init: {init} holds {found.name!r}, which is another architecture than {config.name!r}: {differing}")
    model = loaded.model
    model.config = replace(found, levelled=config.levelled)
    if config.parametric and not found.parametric:
        model = assemble(config, loaded.body)
        fresh = {f"body_regressor.{name}": value for name, value in model.body_regressor.state_dict().items()}
        model.load_state_dict(loaded.model.state_dict() | fresh)
    return Parts(model, config, loaded.body, f"checkpoint {Path(init).name}", said_by(found.to_dict(), loaded.metadata))


def _differs(config: ModelConfig, found: ModelConfig, name: str) -> bool:
    """Whether a field keeps the weights from fitting, or makes another network of them."""
    if name == "levelled":  # says what the training shows the network from now on
        return False
    if name == "parametric":
        return found.parametric and not config.parametric
    if name == "rotations":
        return found.parametric and found.rotations != config.rotations
    return getattr(found, name) != getattr(config, name)
