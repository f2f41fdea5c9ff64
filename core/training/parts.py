"""A network made ready for training: built, its trunk filled with its original weights."""

from dataclasses import dataclass
from pathlib import Path

from core.bodies import Body, load_body
from core.config import ModelConfig, variant
from core.errors import InputError
from core.model import FastMETRO, build_model


@dataclass(frozen=True)
class Parts:
    """A model, what it was built from, and where its first weights come from in words."""

    model: FastMETRO
    config: ModelConfig
    body: Body
    origin: str

    @property
    def backbone_name(self) -> str:
        """Name of the backbone in BACKBONES."""
        return self.config.backbone


def build_for_training(variant_name: str, trunk: Path | None = None, init: Path | None = None) -> Parts:
    """A model with a pretrained trunk and a random transformer, or, with `init`, all weights of a checkpoint.

    Raises InputError when neither is given or the files do not fit.
    """
    from core.checkpoint import load_backbone, load_checkpoint

    config = variant(variant_name)
    if init is not None:
        model, body, _ = load_checkpoint(init)
        if model.config != config:
            raise InputError(f"--init: {init} holds {model.config.name!r} ({model.config}), expected {config}; choose that --variant")
        return Parts(model, config, body, f"checkpoint {init.name}")
    if trunk is None:
        raise InputError("training: got neither --trunk nor --init; give the backbone's weights, or a checkpoint to start from")
    model = build_model(config)
    load_backbone(trunk, model.backbone, config.backbone)
    return Parts(model, config, load_body(config.body), f"trunk {trunk.name}, transformer from random weights")
