from dataclasses import fields
from pathlib import Path

import pytest

from core.errors import InputError
from core.training.augmentation import Augmentation
from core.training.config import TrainConfig, build_parser, check_options
from core.training.losses import PAPER_WEIGHTS
from core.training.run_config import FOLDER, read_run_config, shipped_configs
from core.training.samples import DATASETS, MODULES
from core.training.settings import from_flags, from_mapping

MINIMAL = "model: {variant: fastmetro-s-r50, backbone: random}\ndata: {train: {kind: shards, path: x}}\n"
FEATURES = "train: {kind: features, path: x}, validation: {kind: features, path: y}"
CACHED = f"model: {{variant: fastmetro-xs-blazepose, backbone: a}}\ndata: {{{FEATURES}}}\n"


def written(folder: Path, text: str, name: str = "c.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_sound(name: str) -> None:
    """It reads, names an architecture and kinds of data that exist, and says the same after a round trip."""
    import importlib
    import inspect

    for module in MODULES:
        importlib.import_module(module)
    config = read_run_config(name, [])
    assert config.out == f"runs/{name}"
    assert config.licence
    assert config.model.config().parametric == config.regressor.any
    for data in (config.train, config.validation):
        options = {key: value for key, value in data.items() if key != "kind"}
        if data["kind"] == "features":
            assert set(options) == {"path"}
        else:
            inspect.signature(DATASETS[data["kind"]]).bind(None, **options)
    from core.training.run_config import run_config

    assert run_config(config.to_dict(), "again") == config


@pytest.mark.parametrize("name", ["paper-s-r50", "paper-m-r50", "paper-l-r50", "paper-l-h64", "3dpw-finetune"])
def test_the_papers_configs_are_the_releases(name: str) -> None:
    """Source: run_fastmetro_bodymesh.py and docs/Train.md of the release."""
    config = read_run_config(name, [])
    training = config.training
    assert config.loss == PAPER_WEIGHTS
    assert (training.weight_decay, training.decay, training.beta2, training.clip_norm) == (1e-4, "all", 0.999, 0.3)
    assert (training.batch_per_process, training.tail_lr_scale, training.average_decay, training.precision) == (16, 1.0, 0.0, "fp32")
    assert (training.schedule, training.drop_epochs, training.warmup_samples, training.seed) == ("step", 100, 0, 88)
    assert (training.epochs, training.lr) == ((8, 2e-5) if name == "3dpw-finetune" else (60, 1e-4))
    assert config.augmentation == Augmentation()
    assert config.model.config().release == "paper"
    assert config.model.config().body == "smpl"


def test_the_regressors_stage_is_the_releases() -> None:
    for name, share in (("smpl-regressor", 1e-8), ("smpl-regressor-3dpw", 1.0)):
        config = read_run_config(name, [])
        regressor = config.regressor
        assert (regressor.rotations, regressor.shape, regressor.parametric_vertices) == (1000, 100, 1000)
        assert (regressor.parametric_joints, regressor.parametric_projection) == (1000, 1000)
        for entry in fields(PAPER_WEIGHTS):
            wanted = getattr(PAPER_WEIGHTS, entry.name)
            assert getattr(config.loss, entry.name) == (wanted if entry.name == "mean" else pytest.approx(wanted * share))


def test_changes_and_bases(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(MINIMAL + "training: {lr: 1e-4, batch: 8}\n")
    place = written(tmp_path, "base: base\ntraining: {batch: 16}\ndata: {train: {kind: tsv, path: y}, workers: 3}\n")
    config = read_run_config(place, ["training.seed=7", "training.freeze=[tokens]", "model.body=smpl"])
    assert (config.training.lr, config.training.batch, config.training.seed) == (1e-4, 16, 7)
    assert config.training.freeze == ("tokens",)
    assert config.train == {"kind": "tsv", "path": "y"}  # not mixed with the options of another kind
    wider = read_run_config(written(tmp_path, "base: c\ndata: {train: {kind: tsv, crop_scale: 1.35}}\n", "wider.yaml"), [])
    assert wider.train == {"kind": "tsv", "path": "y", "crop_scale": 1.35}
    assert (config.num_workers, config.model.body, config.model.variant) == (3, "smpl", "fastmetro-s-r50")


def test_nothing_stands_for_an_empty_text(tmp_path: Path) -> None:
    config = read_run_config(written(tmp_path, MINIMAL), ["model.init=default", "model.backbone=", "data.coco="])
    assert (config.model.init, config.model.backbone, config.coco) == ("default", "", "")
    with pytest.raises(InputError, match="got None, expected a number"):
        read_run_config(written(tmp_path, MINIMAL), ["training.lr="])


def test_toml_says_the_same(tmp_path: Path) -> None:
    pytest.importorskip("tomllib", reason="TOML needs Python 3.11")
    toml = written(
        tmp_path, '[model]\nvariant = "fastmetro-s-r50"\nbackbone = "random"\n[data.train]\nkind = "shards"\npath = "x"\n', "c.toml"
    )
    assert read_run_config(toml, []) == read_run_config(written(tmp_path, MINIMAL), [])


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        ("model: [", [], "is no YAML"),
        ("just words", [], "expected sections"),
        (MINIMAL + "trainning: {lr: 1}\n", [], "unknown section 'trainning'"),
        (MINIMAL + "training: {lrr: 1}\n", [], "did you mean lr"),
        (MINIMAL + "training: {lr: fast}\n", [], "training.lr: got 'fast', expected a number"),
        (MINIMAL + "training: {batch: 8.5}\n", [], "expected a whole number"),
        (MINIMAL + "training: {deterministic: 'no'}\n", [], "expected true or false"),
        (MINIMAL + "training: {freeze: tokens}\n", [], "expected a list of texts"),
        (MINIMAL + "training: {lr: -1}\n", [], "expected more than 0"),
        (MINIMAL + "training: {lr: .nan}\n", [], "expected more than 0"),
        (MINIMAL + "training: {schedule: linear}\n", [], "expected one of cosine, step"),
        (MINIMAL + "loss: {edges: -1}\n", [], "loss weight edges"),
        (MINIMAL + "loss: {mean: median}\n", [], "weighed, release"),
        (MINIMAL + "augmentation: {flip: 2}\n", [], "augmentation.flip: got 2"),
        (MINIMAL + "regressor: {rotations: 1}\n", [], "parametric is false"),
        ("model: {variant: fastmetro-s-r50}\ndata: {train: {kind: shards}}\n", [], "neither backbone nor init"),
        ("model: {variant: x, backbone: random}\ndata: {train: {kind: shards}}\n", [], "unknown model variant"),
        ("model: {variant: fastmetro-s-r50, backbone: a, init: b}\ndata: {train: {kind: shards}}\n", [], "both backbone and init"),
        ("model: {variant: fastmetro-s-r50, backbone: a}\n", [], "lacks data.train"),
        ("model: {variant: fastmetro-s-r50, backbone: a}\ndata: {train: {path: x}}\n", [], "lacks its kind"),
        (MINIMAL, ["data.workers=many"], "data.workers"),
        (MINIMAL, ["data.train.kind=features"], "cached features are validated on cached features"),
        (CACHED.replace(", path: y", ""), [], "data.validation: got kind; cached features have a kind and a path"),
        (CACHED, ["data.train.crop_scale=1.0"], "data.train: got kind, path, crop_scale; cached features have"),
        (CACHED, ["model.parametric=true"], "model.parametric: cached people come without"),
        (CACHED, ["augmentation.flip=0.0"], "augmentation: is for pictures"),
        (CACHED, ["training.tail=all"], "training.tail: all learns from pictures"),
        (MINIMAL, ["training.lr"], "expected KEY=VALUE"),
        (MINIMAL + "training: {lr: 1.0}\n", ["training.lr.x=1"], "is a value, not a section"),
        ("base: c\n" + MINIMAL, [], "circle"),
        ("base: no-such\n" + MINIMAL, [], "no such file; give a .yaml or .toml file, or one of .*paper-s-r50"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(tmp_path: Path, text: str, changes: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        read_run_config(written(tmp_path, text), changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "x.jpg"])
def test_other_files_are_no_configs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of that kind")
    with pytest.raises(InputError, match="config"):
        read_run_config(str(tmp_path / name), [])


def test_flags_and_files_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser()
    for arguments, said in (
        (["paper-s-r50", "--lr", "1"], "--lr does not go with a config file"),
        (["paper-s-r50", "--shards", "x"], "--shards does not go"),
        ([], "--shards --validation --out --variant"),
        (["--shards", "a", "--validation", "b", "--out", "c", "--variant", "d", "--set", "x=1"], "--set changes a config file"),
        (["--shards", "a", "--validation", "b", "--out", "c", "--variant", "d", "--tail", "all"], "--tail all learns from pictures"),
    ):
        with pytest.raises(SystemExit) as stop:
            check_options(parser, parser.parse_args(arguments))
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    check_options(parser, parser.parse_args(["paper-s-r50", "--out", "x", "--dry-run", "--set", "a.b=1"]))


def test_every_kind_of_setting_has_a_flag() -> None:
    needed = ["--shards", "a", "--validation", "b", "--out", "c", "--variant", "d"]
    options = build_parser().parse_args([*needed, "--deterministic", "--freeze", "tokens", "stages", "--compile", "default"])
    config = from_flags(options, TrainConfig)
    assert (config.deterministic, config.freeze, config.compile) == (True, ("tokens", "stages"), "default")


def test_epochs_and_shares_become_samples_and_batches() -> None:
    config = from_mapping({"epochs": 2.5, "batch_per_process": 16}, TrainConfig, "x").resolved(num_processes=4, num_people=1000)
    assert (config.batch, config.samples) == (64, round(2.5 * 15) * 64)
    same = TrainConfig(batch=8, samples=80).resolved(4, 1000)
    assert (same.batch, same.samples) == (8, 80)


def test_the_folder_ships_with_the_project() -> None:
    assert {"paper-s-r50", "paper-m-r50", "paper-l-h64", "3dpw-finetune", "smpl-regressor", "synthetic-tonight"} <= set(shipped_configs())
    assert all(path.suffix == ".yaml" for path in FOLDER.iterdir())
