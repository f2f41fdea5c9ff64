import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.backbones import BACKBONES
from core.checkpoint import save_checkpoint
from core.config import ABLATIONS
from core.stopping import StopRequest
from core.training import loop, train
from core.training.attention import plan_blocks, quick_attention
from core.training.averages import EVERY_STEPS, AveragedWeights
from core.training.batches import Batch, BatchStream, Cursor, FeatureNoise, People
from core.training.config import RunFiles, TrainConfig, build_parser
from core.training.crew import Crew
from core.training.devices import training_device, training_dtype
from core.training.features import cache_features, open_cache
from core.training.losses import LossWeights
from core.training.optimization import freeze, learning_rate_factor
from core.training.parts import Parts
from core.training.settings import from_flags
from core.training.shards import list_shards
from core.training.sources import write_sources
from tests.core.training.toy_people import TINY, tiny_model, toy_parts, write_toy_shards
from tests.toy import ToyBody

CONFIG = TrainConfig(
    samples=320, batch=8, lr=3e-3, warmup_samples=40, feature_noise=0.01, feature_drop=0.01, threads=1, precision="fp32",
    validate_samples=160, log_samples=80, state_minutes=60.0, average_decay=0.9,
)  # fmt: skip

LONGER = replace(CONFIG, samples=800)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFiles:
    monkeypatch.setattr(train, "build_for_training", toy_parts)
    monkeypatch.setattr("core.checkpoint.save_checkpoint", save_without_registry)
    files = RunFiles(tmp_path / "people", tmp_path / "validation", tmp_path / "run", "toy")
    for folder, seed in ((files.shards, 0), (files.validation, 90)):
        write_toy_shards(folder, seed=seed)
        give_features(folder)
    return files


def save_without_registry(path: Path, model: torch.nn.Module, config: object, metadata: dict, body: object) -> None:
    path.write_text(json.dumps(metadata))


def give_features(folder: Path) -> None:
    backbone = toy_parts().model.backbone
    cache_features(list_shards(folder), open_cache(folder, "toy", backbone), backbone, "fp32")


def run_all(files: RunFiles, config: TrainConfig = CONFIG) -> train.Trainer:
    files.run.mkdir(parents=True, exist_ok=True)
    trainer, source, validation = train.open_run(files, config, LossWeights())
    train.run(trainer, source, validation, StopRequest())
    return trainer


def journal(files: RunFiles) -> list[dict]:
    return [json.loads(line) for line in files.folder.journal.read_text().splitlines()]


def test_the_loss_falls_and_scores_improve(files: RunFiles) -> None:
    trainer = run_all(files, LONGER)
    lines = journal(files)
    losses = [line["loss"] for line in lines if "loss" in line]
    scores = [line["synthetic"]["mpjpe_mm"] for line in lines if "synthetic" in line]
    assert losses[-1] < 0.5 * losses[0]
    assert scores[-1] < scores[0]
    assert trainer.num_samples == LONGER.samples
    metadata = json.loads(files.folder.best.read_text())
    validated = [line for line in lines if "synthetic" in line]
    best = min(validated, key=lambda line: line["synthetic"]["mpjpe_mm"] + line["synthetic"]["pa_mpjpe_mm"])
    assert metadata["samples_seen"] == best["samples"]
    assert metadata["scores"]["synthetic"]["mpjpe_mm"] == pytest.approx(best["synthetic"]["mpjpe_mm"])
    assert {"licence", "data", "training", "loss_weights", "origin"} <= set(metadata)


def test_resumed_equals_uninterrupted(files: RunFiles) -> None:
    whole = run_all(replace(files, run=files.run.with_name("whole")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "checked_step", StopAfter(13))  # in the middle of the third epoch of 6 steps
        assert run_all(files).num_samples == 13 * 8
    resumed = run_all(files)
    assert resumed.num_samples == whole.num_samples
    for name, value in whole.average.trained.items():
        torch.testing.assert_close(resumed.average.trained[name], value, rtol=0, atol=0)
        torch.testing.assert_close(resumed.average.values[name], whole.average.values[name], rtol=0, atol=0)
    assert resumed.best == whole.best


@pytest.mark.parametrize("ablation", list(ABLATIONS))
def test_every_ablation_trains(files: RunFiles, monkeypatch: pytest.MonkeyPatch, ablation: str) -> None:
    changes = ABLATIONS[ablation]
    config = replace(TINY, **{**changes, "widths": (16, 16) if changes.get("reduction") == "none" else TINY.widths})
    monkeypatch.setattr(train, "build_for_training", lambda *_: Parts(tiny_model(config), config, ToyBody(), "random weights"))
    run_all(files, LONGER)
    losses = [line["loss"] for line in journal(files) if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]


def test_batch_statistics_are_taken_up_again(files: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_norm(*_: object) -> Parts:
        parts = toy_parts()
        torch.manual_seed(0)
        parts.model.backbone.mix = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), torch.nn.BatchNorm2d(8))
        return parts

    monkeypatch.setattr(train, "build_for_training", with_norm)
    files.shards.joinpath("features-toy", "backbone.json").unlink()
    files.validation.joinpath("features-toy", "backbone.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "checked_step", StopAfter(5))
        first = run_all(files)
    again = train.open_run(files, CONFIG, LossWeights())[0]
    means = [trainer.model.backbone.mix[1].running_mean for trainer in (first, again)]
    assert means[0].abs().max() > 0
    assert torch.equal(*means)


class StopAfter:
    """A step during the last of which the run is asked to stop."""

    def __init__(self, num_steps: int) -> None:
        self.left, self.step = num_steps, loop.checked_step

    def __call__(self, trainer: train.Trainer, batch: Batch, stop: bool, passed_s: float) -> dict:
        self.left -= 1
        return self.step(trainer, batch, stop or self.left == 0, passed_s)


def test_new_shards_join_at_the_end_of_an_epoch(files: RunFiles) -> None:
    backbone = toy_parts().model.backbone
    people = People(files.shards, open_cache(files.shards, "toy", backbone))
    with BatchStream(people, 8, 0, Cursor(0, 0, ()), torch.float32, FeatureNoise()) as stream:
        batches = iter(stream)
        next(batches)
        write_toy_shards(files.shards, num_shards=3)
        give_features(files.shards)
        seen = [next(batches)[0] for _ in range(40)]
    assert [len(c.shard_names) for c in seen if c.epoch == 0] == [2] * 5
    assert {len(c.shard_names) for c in seen if c.epoch >= 2} == {3}
    assert max(c.batches_done for c in seen if c.epoch == 2) == 9  # 72 people in batches of 8


def test_processes_take_in_what_the_leader_sees(files: RunFiles) -> None:
    people = People(files.shards, open_cache(files.shards, "toy", toy_parts().model.backbone))
    crew = Crew()
    leaders = [path.name for path in list_shards(files.shards)]
    crew.gathered = lambda mine: [leaders, mine]
    with BatchStream(people, 8, 0, Cursor(0, 0, ()), torch.float32, FeatureNoise(), crew) as stream:
        batches = iter(stream)
        write_toy_shards(files.shards, num_shards=4)
        give_features(files.shards)
        first = [next(batches)[0] for _ in range(12)]
        leaders.append("shard-00002.npz")  # not yet the fourth
        second = [next(batches)[0] for _ in range(10)]
    assert {len(cursor.shard_names) for cursor in first} == {2}
    assert {(cursor.epoch, len(cursor.shard_names)) for cursor in second} == {(2, 3), (3, 3)}


def test_each_epoch_shows_everyone_once(files: RunFiles) -> None:
    people = People(files.shards, open_cache(files.shards, "toy", toy_parts().model.backbone))
    with BatchStream(people, 8, 3, Cursor(0, 0, ()), torch.float32, FeatureNoise()) as stream:
        batches = iter(stream)
        cameras = torch.cat([next(batches)[1].targets.joints_m[:, 0] for _ in range(6)])
    every = torch.cat([torch.from_numpy(shard.truth.joints_m[:, 0]) for shard in people.shards])
    assert sorted(map(tuple, cameras.tolist())) == sorted(map(tuple, every.tolist()))


def test_an_error_while_gathering_reaches_the_loop(files: RunFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    people = People(files.shards, open_cache(files.shards, "toy", toy_parts().model.backbone))
    monkeypatch.setattr(people, "gather", lambda *_: 1 / 0)
    with BatchStream(people, 8, 0, Cursor(0, 0, ()), torch.float32, FeatureNoise()) as stream, pytest.raises(ZeroDivisionError):
        next(iter(stream))


@pytest.mark.parametrize("late", [False, True])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(files: RunFiles, late: bool) -> None:
    files.run.mkdir()
    trainer, people, validation = train.open_run(files, replace(CONFIG, lr=1e30, clip_norm=1e30, warmup_samples=0), LossWeights())
    trainer.watch.late = late  # as on a GPU
    with pytest.raises(train.InputError, match=r"bad-batch\.pt"):
        train.run(trainer, people, validation, StopRequest())
    assert torch.load(files.run / "bad-batch.pt", weights_only=True)["features"][0].shape == (8, 8, 7, 7)


def test_only_the_frozen_part_stays(files: RunFiles) -> None:
    files.run.mkdir()
    trainer, source, _ = train.open_run(files, CONFIG, LossWeights())
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for _ in range(3):
        trainer.step(source.people.gather(np.arange(8)))
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in moved if name.startswith("backbone.patch")}
    assert {name for name in moved if name.startswith("backbone.mix")}
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert min(rates) == pytest.approx(0.4 * max(rates))


@pytest.mark.parametrize("name", list(BACKBONES))
def test_all_of_a_backbone_is_what_features_pass_through(name: str) -> None:
    """DistributedDataParallel wants a gradient for everything that learns."""
    with torch.device("meta"):
        model = torch.nn.Module()
        model.backbone, model.body_regressor = BACKBONES[name](), None
        freeze(model, TrainConfig(tail="all"), trains_regressor=False)
        model.backbone(torch.rand(1, 3, 224, 224)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), parameter_name
    assert sum(parameter.requires_grad for parameter in model.parameters()) > 10


def test_learning_rate_rises_then_falls() -> None:
    config = TrainConfig(samples=1000, batch=10, warmup_samples=100, final_lr_scale=0.1)
    rates = [learning_rate_factor(config, seen, 0.0) for seen in range(0, 1001, 10)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] or max(rates) == rates[9]
    assert rates[-1] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.55)
    limited = replace(config, hours=1.0)
    assert learning_rate_factor(limited, 200, 3600.0) == pytest.approx(0.1)
    assert learning_rate_factor(limited, 500, 0.0) == pytest.approx(0.55)


def test_a_state_of_another_run_or_a_broken_one_is_refused(files: RunFiles) -> None:
    run_all(files, replace(CONFIG, samples=16))
    with pytest.raises(train.InputError, match="choose another --out"):
        train.open_run(files, replace(CONFIG, batch=4), LossWeights())
    files.folder.state.write_bytes(files.folder.state.read_bytes()[:100])
    with pytest.raises(train.InputError, match="not readable"):
        train.open_run(files, CONFIG, LossWeights())


def test_a_crew_shares_a_batch_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(12)
    crews = [Crew() for _ in range(3)]
    for rank, crew in enumerate(crews):
        crew.rank, crew.size = rank, 3
    assert sorted(np.concatenate([crew.share(rows) for crew in crews]).tolist()) == rows.tolist()
    assert [crew.leads for crew in crews] == [True, False, False]
    with pytest.raises(train.InputError, match="multiple of the 3 processes"):
        crews[0].check_batch(32)


def test_more_processes_than_gpus_may_train_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    joined, chosen = [], []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("torch.distributed.init_process_group", joined.append)
    monkeypatch.setattr("core.estimator.choose_device", lambda wanted: ("cpu" if wanted == "cpu" else "cuda", ""))
    crew = Crew()
    assert joined and not chosen
    assert training_device("cpu", crew).type == "cpu"
    with pytest.raises(train.InputError, match="process 1 has no GPU of its own, there are 1"):
        training_device("cuda", crew)


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_on_a_cpu_training_is_as_precise_as_the_app(native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: native)
    assert training_dtype("auto", torch.device("cpu")) == expected


def test_averages_follow_slowly_and_give_the_weights_back() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = AveragedWeights(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.update()
    decay = min(0.5**EVERY_STEPS, 2 / 11)
    assert average.values["weight"].item() == pytest.approx(1 - decay)
    with average.applied():
        assert model.weight.item() == pytest.approx(1 - decay)
    assert model.weight.item() == 1.0


@pytest.mark.parametrize("num_blocks", [1, 2, 4])
def test_block_attention_is_the_models_attention(num_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.training.attention.NUM_BLOCKS", num_blocks)
    config = replace(TINY, dropout=0.0, attention_dropout=0.0)
    slow, quick = tiny_model(config), tiny_model(config)
    assert quick_attention(quick, ToyBody())
    features = torch.rand(3, 8, 7, 7)
    outputs = []
    for model in (slow, quick):
        prediction = model.train().decode(features, num_levels=2)
        loss = sum((tensor.square()).sum() for tensor in (prediction.camera, prediction.joints, prediction.levels[1]))
        loss.backward()
        outputs.append((prediction.levels[0], prediction.joints, *(p.grad for n, p in model.named_parameters() if "backbone" not in n)))
    for expected, got in zip(*outputs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_plan_holds_every_allowed_pair_once() -> None:
    random = np.random.default_rng(0)
    points = random.random((21, 3))
    adjacency = np.linalg.norm(points[:, None] - points, axis=-1) < 0.4
    plan = plan_blocks(adjacency, points, num_joints=2, num_blocks=4)
    _, queries, keys = plan.shape
    for vertex, place in enumerate(plan.places.tolist()):
        block, row = divmod(place, queries)
        allowed = plan.keys[block * keys : (block + 1) * keys][plan.bias[block, 0, row] == 0].tolist()
        assert sorted(allowed) == [0, 1, *(np.flatnonzero(adjacency[vertex]) + 2)]


def test_dropped_attention_keeps_the_models_own() -> None:
    assert not quick_attention(tiny_model(replace(TINY, attention_dropout=0.1)), ToyBody())


def test_noise_keeps_the_mean_and_repeats() -> None:
    features = (torch.ones(4, 200, 7, 7),)
    disturbed: Callable[[], torch.Tensor] = lambda: FeatureNoise(0.0, 0.2).applied(features, torch.Generator().manual_seed(1))[0]  # noqa: E731
    assert disturbed().mean() == pytest.approx(1, abs=0.06)
    assert set(disturbed().unique().tolist()) == {0.0, 1.25}
    noisy = FeatureNoise(0.5, 0.0).applied((torch.randn(4, 20, 7, 7),), torch.Generator().manual_seed(1))[0]
    assert noisy.std() == pytest.approx(1.25**0.5, abs=0.05)
    torch.testing.assert_close(disturbed(), disturbed())


def test_flags_become_the_config() -> None:
    needed = ["--shards", "a", "--validation", "b", "--out", "c", "--variant", "d"]
    assert from_flags(build_parser().parse_args(needed), TrainConfig) == TrainConfig()
    options = build_parser().parse_args([*needed, "--batch", "64", "--weight-edges", "0"])
    assert from_flags(options, TrainConfig).batch == 64
    assert from_flags(options, LossWeights, "weight-").edges == 0


@pytest.mark.parametrize("flags", [["--samples", "0"], ["--batch", "-3"], []])
def test_mistakes_are_one_line(tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--shards", str(tmp_path), "--validation", str(tmp_path), "--out", str(tmp_path / "run"), "--variant", "no-such-variant"]
    assert train.main([*needed, *flags]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_dry_run_writes_nothing(files: RunFiles, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--shards", files.shards, "--validation", files.validation, "--out", files.run]
    assert train.main([*map(str, places), "--variant", "toy", "--dry-run", "--batch", "8", "--threads", "1"]) == 0
    assert "48 people to train on" in capsys.readouterr().out
    assert not files.run.exists()


def test_a_finished_run_writes_its_card(files: RunFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def save(path: Path, model: torch.nn.Module, config: object, metadata: dict, **_: object) -> None:
        save_checkpoint(path, model, config, metadata)

    monkeypatch.setattr("core.checkpoint.save_checkpoint", save)
    write_sources(files.shards, ["procedural", "cmu"])
    train.train(*train.open_run(files, CONFIG, LossWeights()))
    text = (files.run / "card" / "model-card.md").read_text()
    assert "CMU motion capture" in text and f"samples seen: {CONFIG.samples:,}" in text
    assert (files.run / "card" / "curves.png").is_file()
    assert "model card: " in capsys.readouterr().out
