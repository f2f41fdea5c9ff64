"""What a network is made of: ModelConfig, and the table VARIANTS of those that have a name."""

from dataclasses import asdict, dataclass, fields, replace

from core.errors import InputError
from core.registry import Registry

GRID = 7
"""Side of the feature grid: a 224 px crop at stride 32."""


@dataclass(frozen=True)
class ModelConfig:
    """A FastMETRO.

    widths: of the first and the second transformer; num_layers: encoder = decoder layers in each
    attention_dropout: on attention weights; dropout: everywhere else
    token_init: "normal" as in the paper, or "template": near vertices begin with similar tokens
    release: "paper" has one reduction on the encoder's side and fixed up-sampling
    """

    name: str
    backbone: str
    body: str = "anny"
    num_layers: int = 1
    widths: tuple[int, int] = (512, 128)
    num_heads: int = 8
    feedforward_ratio: int = 4
    dropout: float = 0.1
    attention_dropout: float = 0.1
    token_init: str = "normal"
    release: str = "paper"

    def __post_init__(self) -> None:
        if len(self.widths) != 2 or any(width % self.num_heads or width % 4 for width in self.widths):
            raise InputError(f"model {self.name!r}: got widths {self.widths}, expected multiples of 4 and of its {self.num_heads} heads")
        if self.release != "paper":
            raise InputError(f"model {self.name!r}: got release {self.release!r}, expected 'paper'")
        if self.token_init not in ("normal", "template"):
            raise InputError(f"model {self.name!r}: got token_init {self.token_init!r}, expected 'normal' or 'template'")

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, object]) -> "ModelConfig":
        """The inverse of to_dict; raises InputError for unknown or missing fields."""
        known = {field.name for field in fields(ModelConfig)}
        if not isinstance(values, dict) or not {"name", "backbone", "widths"} <= set(values) <= known:
            raise InputError(f"model config: got {values}, expected the fields {', '.join(sorted(known))}")
        return ModelConfig(**{**values, "widths": tuple(values["widths"])})  # type: ignore[arg-type]


VARIANTS: Registry[ModelConfig] = Registry("model variant")
BACKBONE_NAMES = ("blazepose", "blazepose-heavy")


def _add_variants() -> None:
    for backbone in BACKBONE_NAMES:
        for size, num_layers in (("s", 1), ("m", 2), ("l", 3)):
            name = f"fastmetro-{size}-{backbone}"
            VARIANTS.register(name)(ModelConfig(name, backbone, num_layers=num_layers))
        # What two CPU cores can train to a million samples in hours: 123 samples a second and core at widths 128 -> 64, 65 at
        # 256 -> 128. Attention dropout would leave the quick attention of the training, and so small a network hardly overfits.
        name = f"fastmetro-xs-{backbone}"
        VARIANTS.register(name)(
            ModelConfig(
                name,
                backbone,
                widths=(128, 64),
                num_heads=4,
                feedforward_ratio=2,
                dropout=0.0,
                attention_dropout=0.0,
                token_init="template",
            )
        )


_add_variants()


def variant(name: str, body: str | None = None, release: str | None = None) -> ModelConfig:
    """The variant called `name`, on another body or in another release where given. Raises InputError that lists the known names."""
    config = VARIANTS[name]
    return replace(config, body=body or config.body, release=release or config.release)
