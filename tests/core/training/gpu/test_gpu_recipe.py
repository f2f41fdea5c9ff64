"""The whole recipe on the CPU, on a machine made bare: pack, run, stop, go on, join, load."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from core.backbones import BACKBONES
from core.checkpoint import FOLDER as CHECKPOINTS
from core.checkpoint import load_checkpoint, save_backbone
from core.config import VARIANTS
from core.errors import InputError
from core.training import gpu_recipe
from core.training.averages import EVERY_STEPS, AveragedWeights
from core.training.batches import Cursor
from core.training.config import RunFolder, TrainConfig
from core.training.gpu.bundle import Wanted, pack
from core.training.gpu.pieces import join, split
from core.training.gpu.runner import DEFAULTS, RecipeTrainer, read_settings
from core.training.losses import LossWeights
from core.training.trainer import Origin
from tests.core.training.toy_people import toy_parts

BARE = Path(__file__).with_name("bare.py")
TOY = [
    "training.samples=8", "training.batch=2", "training.threads=1", "training.log_samples=2", "training.validate_samples=8",
    "training.precision=fp32", "training.warmup_samples=2", "data.train.scenes=1", "data.train.epoch=6", "data.validation.scenes=1",
    "data.validation.people=2", "data.workers=0",
]  # fmt: skip
FOREVER, ONE_STEP = "10", "0.0001"


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the small trunk."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("trunk") / "trunk.safetensors"
    save_backbone(path, BACKBONES["blazepose"](), "blazepose")
    return path


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, trunk: Path) -> Path:
    """A folder with nothing but the unpacked archive."""
    folder = tmp_path_factory.mktemp("machine")
    backgrounds = folder / "pictures"
    backgrounds.mkdir()
    cv2.imwrite(str(backgrounds / "wall.png"), np.random.default_rng(0).integers(0, 255, (500, 700, 3), np.uint8))
    archive = folder / "recipe.tar.xz"
    arguments = ["pack", "--trunk", str(trunk), "--backgrounds", str(backgrounds), "--out", str(archive)]
    assert gpu_recipe.main([*arguments, "--set", "model.variant=fastmetro-xs-blazepose"]) == 0
    target = folder / "bare"
    with tarfile.open(archive) as content:
        content.extractall(target, filter="data")
    return target


def run(machine: Path, *arguments: str, minutes: str = FOREVER, changes: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """`run` on the bare machine."""
    command = [sys.executable, str(BARE), "core.training.gpu_recipe", "run", "--minutes", minutes, *arguments, "--set", *TOY, *changes]
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=machine, env=environment, capture_output=True, text=True, timeout=300, check=False)


def weights(state: Path) -> dict[str, torch.Tensor]:
    return torch.load(state / "state.pt", weights_only=True)["model"]


def test_from_pack_to_a_checkpoint(machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    whole = run(machine, "--out", str(tmp_path / "a/out"))
    assert whole.returncode == 0, whole.stderr
    assert "8 of 8 samples" in whole.stdout

    stopped = run(machine, "--out", str(tmp_path / "b/out"), minutes=ONE_STEP)
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped by the limit of" in stopped.stderr
    assert "2 of 8 samples" in stopped.stdout
    half = join(tmp_path / "b/out", tmp_path / "half.safetensors")
    resumed = run(machine, "--out", str(tmp_path / "b/out"))
    assert "going on from 2 samples, exactly" in resumed.stderr, resumed.stderr
    first, second = weights(tmp_path / "a/state"), weights(tmp_path / "b/state")
    assert all(torch.equal(value, second[name]) for name, value in first.items())  # as if there had been no break

    assert gpu_recipe.main(["join", str(tmp_path / "b/out"), "--out", str(tmp_path / "default.safetensors")]) == 0
    assert "fastmetro-xs-blazepose, 8 samples" in capsys.readouterr().out
    checkpoint = load_checkpoint(tmp_path / "default.safetensors")
    assert checkpoint.metadata["scores"]["synthetic"]["num_people"] == 2
    assert checkpoint.body.name == "anny"
    started = torch.load(tmp_path / "b/state/state.pt", weights_only=True)["average"]["values"]
    assert started
    assert not any(name.startswith("backbone.stem") for name in started)  # of the trunk only the last blocks learn
    lines = [json.loads(line) for line in (tmp_path / "b/out/log.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines if "loss" in line] == [2, 4, 6, 8]

    fresh = run(machine, "--out", str(tmp_path / "c/out"), "--from", str(half))  # another machine: no state there
    assert "going on from 2 samples with the averaged weights" in fresh.stderr, fresh.stderr
    assert "8 of 8 samples" in fresh.stdout


def test_the_recipe_as_it_stands_trains_the_default_s_trunks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Nothing but the repository is needed; only counts are smaller here."""
    archive = tmp_path / "recipe.tar"
    assert gpu_recipe.main(["pack", "--out", str(archive)]) == 0
    assert "MiB  weights" in capsys.readouterr().out
    assert archive.stat().st_size < 48 * 2**20  # 16 are left for backgrounds
    with tarfile.open(archive) as content:
        content.extractall(tmp_path / "bare", filter="data")
    ended = run(tmp_path / "bare", "--out", str(tmp_path / "out"), minutes=ONE_STEP)
    assert ended.returncode == 0, ended.stderr
    trained = load_checkpoint(join(tmp_path / "out"))
    assert trained.model.config == VARIANTS["fastmetro-s-blazepose-heavy+movenet-thunder"]
    backbone, shipped = trained.model.backbone.state_dict(), load_checkpoint("default").model.backbone.state_dict()
    learning = {id(parameter) for parameter in trained.model.backbone.tail_parameters()}
    frozen = [name for name, parameter in trained.model.backbone.named_parameters() if id(parameter) not in learning]
    assert len(frozen) > 100
    assert all(torch.equal(backbone[name], shipped[name]) for name in frozen)


def test_a_signal_saves_and_workers_draw(machine: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(BARE), "core.training.gpu_recipe", "run", "--out", str(tmp_path / "out"), "--set", *TOY]
    command += ["training.samples=4000", "training.validate_samples=4000", "data.workers=2"]
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=machine, env=environment, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if '"samples": 2,' in line:
                process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, lines
    assert "stopped by SIGTERM" in "".join(lines)
    assert load_checkpoint(join(tmp_path / "out")).metadata["samples_seen"] < 100
    assert torch.load(tmp_path / "state/state.pt", weights_only=True)["counts"]["num_samples"] >= 2


def test_nothing_else_is_imported(machine: Path) -> None:
    """The emulation is sound: it hides what is installed."""
    command = [sys.executable, str(BARE), "core.raster"]
    ended = subprocess.run(command, cwd=machine, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, check=False)
    assert "No module named 'numba'" in ended.stderr


def test_an_average_that_is_taken_up_keeps_its_weight() -> None:
    """With no update behind it, it would give nine tenths to the next weights."""
    trainer = SimpleNamespace(average=AveragedWeights(torch.nn.Linear(1, 1), 0.999), identity=dict)
    progress = {"cursor": {"epoch": 1, "batches_done": 2}, "num_samples": 64_000, "num_steps": 1000, "elapsed_s": 9.0, "best": None}
    RecipeTrainer.go_on_from(trainer, progress)
    before = trainer.average.values["weight"].clone()
    with torch.no_grad():
        trainer.average.trained["weight"] += 1
    trainer.average.update()
    assert (trainer.average.values["weight"] - before).item() == pytest.approx(1 - 0.999**EVERY_STEPS, abs=0.04)
    assert trainer.average.num_updates == 1000 // EVERY_STEPS + 1


def test_scores_and_place_outlive_a_call(tmp_path: Path) -> None:
    def opened(**changes: int) -> RecipeTrainer:
        config = replace(TrainConfig(batch=2, seed=5, samples=8, device="cpu", precision="fp32"), **changes)
        return RecipeTrainer(toy_parts(), config, LossWeights(), RunFolder(tmp_path), Origin({}, "MIT"))

    before, resumed, fresh = opened(), opened(), opened()
    before.num_samples, before.cursor = 4, Cursor(0, 2, ())
    before.scores = {"synthetic": {"num_people": 2, "mpjpe_mm": 90.5, "mpvpe_mm": None}, "keypoints": None}
    before.save_state()
    resumed.load_state()
    fresh.go_on_from(json.loads(json.dumps(before.progress())))
    for trainer in (resumed, fresh):
        assert (trainer.num_samples, trainer.cursor, trainer.scores) == (4, before.cursor, before.scores)
    for other in ({"batch": 4}, {"seed": 6}):
        with pytest.raises(InputError, match="--from: the checkpoint is of a run with"):
            opened(**other).go_on_from(before.progress())


def test_pieces_round_trip_and_notice_damage(tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(os.urandom(2500))
    written = split(source, tmp_path / "out", 1000)
    assert [path.stat().st_size for path in written[:-1]] == [1000, 1000, 500]
    assert join(tmp_path / "out", tmp_path / "again.bin").read_bytes() == source.read_bytes()
    source.write_bytes(os.urandom(1200))
    assert len(split(source, tmp_path / "out", 1000)) == 3  # two pieces and what belongs together
    assert join(tmp_path / "out", tmp_path / "again.bin").read_bytes() == source.read_bytes()
    assert not (tmp_path / "out/weights.bin.002").exists()
    (tmp_path / "out/weights.bin.001").write_bytes(b"other")
    with pytest.raises(InputError, match="damaged"):
        join(tmp_path / "out", tmp_path / "again.bin")
    (tmp_path / "out/weights.bin.001").unlink()
    with pytest.raises(InputError, match="missing"):
        join(tmp_path / "out", tmp_path / "again.bin")
    with pytest.raises(InputError, match="found none"):
        join(tmp_path, tmp_path / "again.bin")


def test_bad_input_is_one_line(tmp_path: Path, trunk: Path, capsys: pytest.CaptureFixture) -> None:
    assert gpu_recipe.main(["pack", "--trunk", str(trunk), "--init", str(trunk), "--out", str(tmp_path / "r.tar")]) == 1
    assert "give either --trunk" in capsys.readouterr().err
    with pytest.raises(InputError, match="more than the 1 that fit"):
        pack(Wanted(DEFAULTS, "default"), tmp_path / "r.tar", 2**20)
    with pytest.raises(InputError, match=r"holds 'blazepose', expected 'blazepose-heavy\+movenet-thunder'"):
        pack(Wanted(DEFAULTS, trunk), tmp_path / "r.tar")
    assert gpu_recipe.main(["pack", "--init", str(CHECKPOINTS / "default.safetensors"), "--out", str(tmp_path / "r.tar")]) == 1
    assert "another architecture" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert gpu_recipe.main(["pack", "--trunk", str(tmp_path / "no.safetensors"), "--out", str(tmp_path / "r.tar")]) == 1
    assert gpu_recipe.main(["run", "--out", str(tmp_path / "o"), "--minutes", "0"]) == 1
    assert gpu_recipe.main(["run", "--out", str(tmp_path / "o"), "--set", "model.backbone=random", "data.train.kind=tsv"]) == 1
    assert "has to be of the kind 'rendered'" in capsys.readouterr().err
    wrong = ["model.variant=fastmetro-xs-blazepose", "model.backbone=random", 'data.validation.backgrounds=["nowhere"]']
    assert gpu_recipe.main(["run", "--out", str(tmp_path / "o"), "--set", *wrong]) == 1
    assert capsys.readouterr().err.startswith("background folder nowhere: not found")
    wrong[-1] = "data.validation.backgrounds=nowhere"  # one folder needs no list
    assert gpu_recipe.main(["run", "--out", str(tmp_path / "o"), "--set", *wrong]) == 1
    assert capsys.readouterr().err.startswith("background folder nowhere: not found")
    assert gpu_recipe.main(["pack", "--out", str(tmp_path / "r.tar"), "--set", "model.parametric=true"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "come without body parameters" in line
    with pytest.raises(InputError, match="KEY=VALUE"):
        read_settings(None, ["training.batch"])
