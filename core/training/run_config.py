"""A training run as a file: core/training/configs/*.yaml, read, checked and written into every checkpoint of the run.

A file may stand on another one: `base: paper-s-r50` takes that file's settings and changes those that it names itself. Paths are
relative to the working directory. A state or a checkpoint of a run is a config too: the one that it was made with.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from core.config import ModelConfig, variant
from core.errors import InputError
from core.training.augmentation import Augmentation
from core.training.config import TrainConfig
from core.training.losses import LossWeights
from core.training.parametric import ParametricWeights
from core.training.settings import from_mapping, setting

FOLDER = Path(__file__).parent / "configs"
SUFFIXES = (".yaml", ".yml", ".toml")
MAX_BASES = 10


@dataclass(frozen=True)
class ModelSettings:
    """The network, and where its first weights come from."""

    variant: str = setting("", "name of the architecture, as in core.variants")
    body: str = setting("", "smpl or anny; empty = the variant's own")
    release: str = setting("", "paper or released; empty = the variant's own")
    parametric: bool = setting(False, "with a regressor of the body's parameters")
    mesh_dir: str = setting("", "folder of SMPL's files; empty = checkpoints/smpl")
    backbone: str = setting("", "the backbone's first weights: a .safetensors or .pth file, a network that has it (default), or random")
    init: str = setting("", "checkpoint to start from: ours (a file or a name) or an official .bin; instead of backbone")

    def config(self) -> ModelConfig:
        """The architecture. Raises InputError for unknown names."""
        return variant(self.variant, self.body or None, self.release or None, self.parametric)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    train, validation: {kind: one of DATASETS, or "features" for cached ones; then the options of that kind}; validation may be empty
    num_workers: processes that read pictures, for each training process; licence: of the weights, written into checkpoints
    """

    model: ModelSettings
    train: dict[str, Any]
    validation: dict[str, Any]
    num_workers: int
    coco: str
    augmentation: Augmentation
    training: TrainConfig
    loss: LossWeights
    regressor: ParametricWeights
    out: str = ""
    licence: str = ""

    @property
    def uses_features(self) -> bool:
        """Whether it trains on cached features instead of pictures."""
        return self.train["kind"] == "features"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a file has them."""
        sections = {name: _plain(asdict(getattr(self, name))) for name in SECTIONS}
        data = {"train": self.train, "validation": self.validation, "workers": self.num_workers, "coco": self.coco}
        return {**sections, "data": data, "out": self.out, "licence": self.licence}


SECTIONS = {
    "model": ModelSettings, "augmentation": Augmentation, "training": TrainConfig, "loss": LossWeights, "regressor": ParametricWeights,
}  # fmt: skip


@dataclass(frozen=True)
class _Data:
    train: dict[str, Any]
    validation: dict[str, Any]
    workers: int = setting(2, "processes that read pictures")
    coco: str = setting("", "folder of COCO pictures with keypoints to measure PCK on; for cached features")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def read_run_config(place: str, changes: list[str]) -> RunConfig:
    """The config of a file, of a name in core/training/configs, or in a state or checkpoint of a run.

    changes: "section.name=value" each, the value as YAML has it. Raises InputError for whatever is wrong in it.
    """
    content = _content(find_config(place), 0)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: expected KEY=VALUE, e.g. training.lr=2e-5")
        _change(content, key.split("."), _parsed_yaml(text, f"--set {change}"), change)
    return run_config(content, place)


def find_config(place: str) -> Path:
    """The file of a path or of a shipped name; raises InputError that lists the names."""
    path = Path(place)
    shipped = FOLDER / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.is_file():
        return path
    if path.parent == Path() and shipped.is_file():
        return shipped
    raise InputError(f"config {place}: no such file; give a .yaml or .toml file, or one of {', '.join(shipped_configs())}")


def shipped_configs() -> list[str]:
    """Names of the configs that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _content(path: Path, depth: int) -> dict[str, Any]:
    """What a file says, with what it stands on."""
    content = _read(path)
    if not isinstance(content, dict):
        raise InputError(f"config {path}: got {type(content).__name__}, expected sections: {', '.join([*SECTIONS, 'data', 'out', 'base'])}")
    base = content.pop("base", None)
    if base is None:
        return content
    if depth >= MAX_BASES:
        raise InputError(f"config {path}: its bases go round in a circle")
    beside = path.parent / (base if Path(str(base)).suffix else f"{base}.yaml")
    return _merged(_content(beside if beside.is_file() else find_config(str(base)), depth + 1), content)


def _read(path: Path) -> Any:
    if path.suffix in SUFFIXES:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"config {path}: is no text ({error.reason})") from error
        return _parsed_toml(text, path) if path.suffix == ".toml" else _parsed_yaml(text, str(path))
    return _recorded(path)


def _parsed_yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"config {where}: is no YAML ({' '.join(str(error).split())})") from error


def _parsed_toml(text: str, path: Path) -> Any:
    try:
        import tomllib
    except ImportError as error:
        raise InputError(f"config {path}: TOML needs Python 3.11 or newer; write it as YAML") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"config {path}: is no TOML ({error})") from error


def _recorded(path: Path) -> Any:
    """The config inside a state or a checkpoint."""
    import torch

    from core.tensor_files import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                found = json.loads((file.metadata() or {}).get("metadata", "{}")).get("run")
        else:
            found = torch.load(path, weights_only=True, map_location="cpu").get("run")
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        raise InputError(f"config {path}: is neither a {', '.join(SUFFIXES)} file nor a readable state or checkpoint") from error
    except Exception as error:  # torch.load raises a different kind for each way a file can be broken
        raise InputError(f"config {path}: is no readable state ({type(error).__name__})") from error
    if not found:
        raise InputError(f"config {path}: holds no config; only runs that were started from a config file record theirs")
    return found


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, section by section. A data set is replaced as a whole when its kind changes."""
    merged = dict(base)
    for name, value in changes.items():
        old = base.get(name)
        mixes = isinstance(old, dict) and isinstance(value, dict) and value.get("kind", old.get("kind")) == old.get("kind")
        merged[name] = _merged(old, value) if mixes else value
    return merged


def _change(content: dict[str, Any], keys: list[str], value: Any, change: str) -> None:
    """Set one value, in place."""
    *sections, name = keys
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise InputError(f"--set {change}: {section} is a value, not a section")
    content[name] = value


def run_config(content: dict[str, Any], where: str) -> RunConfig:
    """The config that the content of a file describes. Raises InputError."""
    known = {*SECTIONS, "data", "out", "licence"}
    unknown = sorted(map(str, content.keys() - known))
    if unknown:
        raise InputError(f"config {where}: unknown section {unknown[0]!r}; known: {', '.join(sorted(known))}")
    sections = {name: from_mapping(content.get(name), kind, f"{where}: {name}") for name, kind in SECTIONS.items()}
    data = _data(content.get("data"), where)
    config = RunConfig(
        **sections, train=data.train, validation=data.validation, num_workers=data.workers, coco=data.coco,
        out=str(content.get("out") or ""), licence=str(content.get("licence") or ""),
    )  # fmt: skip
    _check_together(config, where)
    return config


def _data(values: Any, where: str) -> _Data:
    if not isinstance(values, dict) or not isinstance(values.get("train"), dict):
        raise InputError(f"config {where}: lacks data.train, e.g. {{kind: shards, path: data/train}}")
    values = {**values, "validation": values.get("validation") or {}}
    unknown = sorted(values.keys() - {entry.name for entry in fields(_Data)})
    if unknown:
        raise InputError(f"config {where}: data: unknown setting {unknown[0]!r}; known: {', '.join(e.name for e in fields(_Data))}")
    for name in ("train", "validation"):
        if values[name] and not isinstance(values[name].get("kind"), str):
            raise InputError(f"config {where}: data.{name} lacks its kind, e.g. kind: shards")
    workers = values.get("workers", 2)
    if not isinstance(workers, int) or workers < 0:
        raise InputError(f"config {where}: data.workers: got {workers!r}, expected a whole number, 0 or more")
    return _Data(values["train"], values["validation"], workers, str(values.get("coco") or ""))


def _check_together(config: RunConfig, where: str) -> None:
    """What no section sees alone."""
    model = config.model
    architecture = model.config()
    if config.regressor.any and not architecture.parametric:
        raise InputError(f"config {where}: regressor has weights, but model.parametric is false; set it to true")
    if not model.init and not model.backbone:
        raise InputError(f"config {where}: model has neither backbone nor init; give one of them, or backbone: random")
    if model.init and model.backbone:
        raise InputError(f"config {where}: model has both backbone and init; a checkpoint holds its backbone, so leave backbone out")
    if config.uses_features:
        _check_features(config, where)


def _check_features(config: RunConfig, where: str) -> None:
    """What cannot be done on cached features."""
    if not config.validation or config.validation["kind"] != "features":
        raise InputError(f"config {where}: cached features are validated on cached features; give data.validation the kind features")
    for name, options in (("train", config.train), ("validation", config.validation)):
        if options.keys() != {"kind", "path"}:
            raise InputError(f"config {where}: data.{name}: got {', '.join(options)}; cached features have a kind and a path")
    for refused, problem in (
        (config.model.config().parametric, "model.parametric: cached people come without body parameters; set it to false"),
        (config.augmentation != Augmentation(), "augmentation: is for pictures; cached features have training.feature_noise"),
        (config.training.tail == "all", "training.tail: all learns from pictures; of cached features only the last blocks do"),
    ):
        if refused:
            raise InputError(f"config {where}: {problem}")
