"""What a network is made of: ModelConfig, and the table VARIANTS of those that have a name."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from core.crop import CROP_SCALE
from core.errors import InputError
from core.registry import Registry

GRID = 7
"""Side of the feature grid: a 224 px crop at stride 32."""


@dataclass(frozen=True)
class ModelConfig:
    """A FastMETRO. Words name parts; their tables are TOKENS, POSITIONS, CAMERAS, REDUCTIONS, UPSAMPLINGS and ROTATIONS beside the parts.

    crop_scale: side of the crop over the longer side of a person's box
    levelled: trained on crops that are turned so that people stand upright in them; see core.levelling
    widths: of the first and the second transformer; num_layers: encoder = decoder layers in each
    attention_dropout: on attention weights; dropout: everywhere else
    tokens: "learned" as in the paper; "fourier": the same, but near vertices begin alike; "template": projected template coordinates
    positions: of the image tokens, "sine" or "learned"
    camera: predicted from a token in the "encoder" or in the "decoder", or from the estimated "mesh"
    reduction: from the first width to the second, camera and image "shared" or "separate"; "none" where the widths are the same
    upsampling: coarse -> intermediate and intermediate -> full, each "fixed" or "learned"
    masked: vertex tokens see only their neighbours
    parametric: with a regressor from the mesh to the body's parameters; rotations: how it makes rotations of matrices
    feedback: rounds in which mesh and camera are moved towards the keypoints that the backbone sees near them; see core.feedback
    """

    name: str
    backbone: str
    body: str = "anny"
    crop_scale: float = CROP_SCALE
    levelled: bool = False
    num_layers: int = 1
    widths: tuple[int, int] = (512, 128)
    num_heads: int = 8
    feedforward_ratio: int = 4
    dropout: float = 0.1
    attention_dropout: float = 0.1
    tokens: str = "learned"
    positions: str = "sine"
    camera: str = "encoder"
    reduction: str = "shared"
    upsampling: tuple[str, str] = ("fixed", "fixed")
    masked: bool = True
    parametric: bool = False
    rotations: str = "nearest"
    feedback: int = 0

    def __post_init__(self) -> None:
        if min(self.num_layers, self.num_heads, self.feedforward_ratio) < 1:
            raise InputError(f"model {self.name!r}: got num_layers, num_heads or feedforward_ratio below 1")
        if len(self.widths) != 2 or any(width % self.num_heads or width % 4 for width in self.widths):
            raise InputError(f"model {self.name!r}: got widths {self.widths}, expected multiples of 4 and of its {self.num_heads} heads")
        if len(self.upsampling) != 2:
            raise InputError(f"model {self.name!r}: got {len(self.upsampling)} up-samplings, expected 2")
        if (self.reduction == "none") != (self.widths[0] == self.widths[1]):
            raise InputError(f"model {self.name!r}: got reduction {self.reduction!r} for widths {self.widths}; 'none' is for equal widths")
        if self.feedback < 0:
            raise InputError(f"model {self.name!r}: got feedback {self.feedback}, expected 0 or more rounds")
        if not 1 <= self.crop_scale < 10:
            raise InputError(f"model {self.name!r}: got crop_scale {self.crop_scale}, expected 1 or more (the crop holds the person)")

    @property
    def release(self) -> str | None:
        """Which of RELEASES this is; None for an ablation that is neither."""
        return next((name for name, parts in RELEASES.items() if all(getattr(self, part) == value for part, value in parts.items())), None)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "ModelConfig":
        """The inverse of to_dict; raises InputError for unknown or missing fields."""
        known = {field.name for field in fields(ModelConfig)}
        if not isinstance(values, dict) or not {"name", "backbone", "widths"} <= set(values) <= known:
            raise InputError(f"model config: got {values}, expected the fields {', '.join(sorted(known))}")
        pairs = {name: tuple(values[name]) for name in ("widths", "upsampling") if isinstance(values.get(name), list)}
        try:
            return ModelConfig(**{**values, **pairs})
        except (TypeError, ZeroDivisionError) as error:
            raise InputError(f"model config: got {values}, in which something is of the wrong type ({error})") from error


RELEASES: dict[str, dict[str, Any]] = {
    "paper": {"reduction": "shared", "upsampling": ("fixed", "fixed"), "rotations": "nearest"},
    "released": {"reduction": "separate", "upsampling": ("learned", "fixed"), "rotations": "released"},
}
"""The two architectures of the official code: the one that the paper counts, and the one of the released weights.

Source: fastmetro.py before and after the release (postech-ami/FastMETRO)
"""

VARIANTS: Registry[ModelConfig] = Registry("model variant")

SIZES = {"s": 1, "m": 2, "l": 3}
"""FastMETRO-S, -M, -L: layers of encoder and decoder in each transformer."""

PAPER_CROP_SCALE = 1.2
"""What METRO prepared its data with."""

BACKBONE_ROWS: dict[str, dict[str, Any]] = {
    "r50": {"backbone": "resnet50", "crop_scale": PAPER_CROP_SCALE},
    "h64": {"backbone": "hrnet-w64", "crop_scale": PAPER_CROP_SCALE},
    "blazepose": {"backbone": "blazepose", "levelled": True},
    "blazepose-heavy": {"backbone": "blazepose-heavy", "levelled": True},
    "movenet-thunder": {"backbone": "movenet-thunder", "levelled": True, "crop_scale": PAPER_CROP_SCALE, "feedback": 2},
    "blazepose-heavy+movenet-thunder": {
        "backbone": "blazepose-heavy+movenet-thunder", "levelled": True, "crop_scale": PAPER_CROP_SCALE, "feedback": 2,
    },
}  # fmt: skip
"""Short name -> what a backbone brings into a config."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "baseline": {
        "widths": (512, 512), "tokens": "template", "reduction": "none", "upsampling": ("learned", "learned"), "masked": False,
    },
    "learnable-pe": {"positions": "learned"},
    "camera-token-in-decoder": {"camera": "decoder"},
    "camera-from-mesh": {"camera": "mesh"},
}  # fmt: skip
"""Table B1 of the supplement, on FastMETRO-S-R50: what each changes."""

NARROW: dict[str, Any] = {
    "widths": (128, 64), "num_heads": 4, "feedforward_ratio": 2, "dropout": 0.0, "attention_dropout": 0.0, "tokens": "fourier",
}  # fmt: skip
"""What two CPU cores can train to a million samples in hours: 123 samples a second and core at widths 128 -> 64, 65 at 256 -> 128.
Attention dropout would leave the quick attention of the training, and so small a network hardly overfits."""


def _add(name: str, **parts: Any) -> None:
    VARIANTS.register(name)(ModelConfig(name, **parts))


def _add_variants() -> None:
    for short, parts in BACKBONE_ROWS.items():
        for size, num_layers in SIZES.items():
            _add(f"fastmetro-{size}-{short}", num_layers=num_layers, **parts)
    for short in ("blazepose", "blazepose-heavy", "movenet-thunder", "blazepose-heavy+movenet-thunder"):
        _add(f"fastmetro-xs-{short}", **BACKBONE_ROWS[short], **NARROW)
    for ablation, changes in ABLATIONS.items():
        _add(f"fastmetro-s-r50/{ablation}", num_layers=SIZES["s"], **BACKBONE_ROWS["r50"], **changes)


_add_variants()


def variant(name: str, body: str | None = None, release: str | None = None, parametric: bool | None = None) -> ModelConfig:
    """The variant called `name`, on another body, in another release, with or without parameter regressor where given.

    Raises InputError that lists the known names.
    """
    return adapted(VARIANTS[name], body, release, parametric)


def adapted(config: ModelConfig, body: str | None = None, release: str | None = None, parametric: bool | None = None) -> ModelConfig:
    """`config` on another body, in another release, with or without parameter regressor, where given. Raises InputError."""
    config = replace(config, body=body or config.body, parametric=config.parametric if parametric is None else parametric)
    if release is None:
        return config
    if release not in RELEASES:
        raise InputError(f"model {config.name!r}: got release {release!r}, expected one of {', '.join(RELEASES)}")
    if is_ablation(config.name):
        if release == "paper":
            return config
        raise InputError(f"model {config.name!r}: got release {release!r}, but ablations are the paper's only; leave release out")
    return replace(config, **RELEASES[release])


def is_ablation(name: str) -> bool:
    """Whether a variant is one of ABLATIONS: they are named after what they change, behind a slash."""
    return "/" in name
