import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.checkpoint import load_checkpoint, save_backbone
from core.config import VARIANTS
from core.errors import InputError
from core.stopping import StopRequest
from core.training import loop
from core.training.augmentation import Augmentation
from core.training.batches import Cursor
from core.training.checks import parameter_problems
from core.training.crew import Crew
from core.training.features import cache_features, open_cache
from core.training.picture_run import open_picture_run
from core.training.picture_validation import MEASURES, scores_of
from core.training.pictures import Order, PictureSource, Seen, plain_batches
from core.training.run_config import read_run_config
from core.training.samples import Sample
from core.training.shard_people import ShardPeople
from core.training.shards import list_shards
from core.training.train import main, use_threads
from core.training.trainer import Trainer, read_state
from core.training.truth import TargetMaker
from core.training.workers import cursors_from
from tests.core.training.toy_people import TINY, write_toy_shards
from tests.core.training.toy_run import PLAIN, register, write_config
from tests.toy import ToyBackbone, ToyBody

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch.setitem)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return write_toy_shards(tmp_path / "people", num_shards=2, count=24)


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    return write_toy_shards(tmp_path / "validation", num_shards=1, count=12, seed=90)


def run_all(place: Path, changes: list[str] | None = None, stop_after: int | None = None) -> Trainer:
    """A run from a config to its end, or until it is asked to stop after so many steps."""
    config = read_run_config(str(place), changes or [])
    use_threads(config.training)
    trainer, source, scorer = open_picture_run(config, Crew())
    trainer.folder.run.mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    if stop_after is not None:
        step = trainer.step

        def counted(batch: object, stopping: bool = False, passed_s: float = 0.0) -> dict:
            return step(batch, stopping or trainer.num_steps + 1 == stop_after, passed_s)

        trainer.step = counted
    loop.run(trainer, source, scorer, stop)
    return trainer


def journal(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def same_weights(first: Trainer, second: Trainer) -> None:
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    for name, value in first.average.values.items():
        torch.testing.assert_close(second.average.values[name], value, rtol=0, atol=0, msg=name)


def test_eight_people_are_learned_by_heart(tmp_path: Path) -> None:
    """Training trains: on eight people without augmentation the errors fall to a few millimetres."""
    eight = write_toy_shards(tmp_path / "eight", num_shards=1, count=8)
    training = {"samples": 8 * 400, "batch": 8, "lr": 6e-3, "log_samples": 800, "validate_samples": 3200, "average_decay": 0.98}
    place = write_config(
        tmp_path / "overfit.yaml", eight, eight, augmentation=PLAIN, training=training, model={"variant": "tiny-flat", "backbone": "random"}
    )
    trainer = run_all(place)
    lines = journal(tmp_path / "run")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.05 * losses[0]
    scores = [line["synthetic"] for line in lines if "synthetic" in line][-1]
    assert scores["mpjpe_mm"] < 15
    assert scores["mpvpe_mm"] < 15
    assert scores["projection_error_px"] < 2
    assert trainer.finished


def test_a_run_writes_what_is_needed(tmp_path: Path, people: Path, validation: Path) -> None:
    trainer = run_all(write_config(tmp_path / "c.yaml", people, validation))
    run = tmp_path / "run"
    loaded = load_checkpoint(run / "last.safetensors")
    with trainer.average.applied():
        torch.testing.assert_close(loaded.model.state_dict()["conv_1x1.weight"], trainer.model.state_dict()["conv_1x1.weight"])
    assert loaded.metadata["samples_seen"] == 192
    assert loaded.metadata["run"]["training"]["lr"] == 3e-3
    lines = journal(run)
    assert [line["samples"] for line in lines if "loss" in line] == [48, 96, 144, 192]
    assert [line["samples"] for line in lines if "synthetic" in line] == [96, 192]
    assert len(list((run / "pictures").glob("*.png"))) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, people: Path, validation: Path, workers: int) -> None:
    """Bit for bit, in the middle of an epoch, with dropout, augmentation, batch statistics, accumulation; whatever the workers."""
    training = {"accumulate": 2, "seed": 5}
    place = write_config(tmp_path / "c.yaml", people, validation, training=training)
    whole = run_all(place, [f"out={tmp_path}/whole"])
    place = write_config(tmp_path / "c.yaml", people, validation, training=training, data={
        "train": {"kind": "shards", "path": str(people)}, "validation": {"kind": "shards", "path": str(validation)}, "workers": workers,
    })  # fmt: skip
    part = run_all(place, stop_after=10)
    assert part.num_samples == 80
    resumed = run_all(place)
    assert resumed.num_samples == whole.num_samples == 192
    same_weights(whole, resumed)
    assert resumed.best == whole.best
    torch.testing.assert_close(
        resumed.optimizer.state_dict()["state"][0]["exp_avg"], whole.optimizer.state_dict()["state"][0]["exp_avg"], rtol=0, atol=0
    )


def test_a_run_follows_from_its_checkpoint_alone(tmp_path: Path, people: Path, validation: Path) -> None:
    place = write_config(tmp_path / "c.yaml", people, validation)
    first = run_all(place)
    place.unlink()
    for source in ("last.safetensors", "state.pt"):
        again = run_all(tmp_path / "run" / source, [f"out={tmp_path}/again-{source}"])
        same_weights(first, again)


def test_a_state_needs_no_other_file(tmp_path: Path, people: Path, validation: Path) -> None:
    """A frozen backbone is in the state, though its weights never change."""
    from tests.core.training.toy_run import NormedBackbone

    torch.manual_seed(3)
    save_backbone(tmp_path / "trunk.safetensors", NormedBackbone(), "toy-normed", half=False)
    model = {"variant": "tiny-normed", "backbone": str(tmp_path / "trunk.safetensors")}
    place = write_config(tmp_path / "c.yaml", people, validation, model=model, training={"tail_lr_scale": 0.0})
    whole = run_all(place, [f"out={tmp_path}/whole"])
    run_all(place, stop_after=4)
    (tmp_path / "trunk.safetensors").unlink()
    same_weights(whole, run_all(place))


def test_a_resumed_run_says_of_itself_what_an_uninterrupted_one_does(tmp_path: Path, people: Path) -> None:
    first = run_all(write_config(tmp_path / "c.yaml", people, None), [f"out={tmp_path}/first"])
    start = first.folder.last
    place = write_config(tmp_path / "c.yaml", people, None, model={"variant": "tiny-normed", "backbone": "", "init": str(start)})
    whole = load_checkpoint(run_all(place).folder.last).metadata
    assert (whole["origin"], whole["start"]["origin"]) == ("checkpoint last.safetensors", "random weights")
    shutil.rmtree(tmp_path / "run")
    run_all(place, stop_after=4)
    start.unlink()
    resumed = load_checkpoint(run_all(place).folder.last).metadata
    assert {**resumed, "training_hours": 0} == {**whole, "training_hours": 0}


def test_a_config_of_cached_features_decides_body_and_licence_and_what_changes_is_told(
    tmp_path: Path, people: Path, validation: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(VARIANTS._entries, "tiny-anny", replace(TINY, name="tiny-anny", body="anny"))
    trunk = ToyBackbone()
    save_backbone(tmp_path / "trunk.safetensors", trunk, "toy", half=False)
    for folder in (people, validation):
        cache_features(list_shards(folder), open_cache(folder, "toy", trunk), trunk, "fp32")
    data = {"train": {"kind": "features", "path": str(people)}, "validation": {"kind": "features", "path": str(validation)}}
    model = {"variant": "tiny-anny", "body": "toy", "backbone": str(tmp_path / "trunk.safetensors")}
    others = {"augmentation": None, "licence": "mine"}
    place = write_config(tmp_path / "c.yaml", people, None, model=model, data=data, training={"samples": 16}, **others)
    assert main([str(place)]) == 0
    loaded = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert (loaded.body.name, loaded.metadata["licence"]) == ("toy", "mine")
    assert loaded.metadata["run"]["model"]["body"] == "toy"
    assert main([str(place), "--set", "training.samples=32"]) == 0
    assert "going on with another setting: training.samples was 16, is 32" in caplog.text


def test_the_order_shows_everyone_once_an_epoch_and_goes_on_anywhere() -> None:
    def taken(order: Order, count: int) -> list:
        batches, cursors = iter(order), cursors_from(order.start, order.batches_per_epoch)
        return [(next(batches), next(cursors)) for _ in range(count)]

    order = taken(Order(21, 4, 3, Cursor(0, 0, ()), Crew()), 12)
    first = [number for batch, _ in order[:5] for _, number in batch]
    assert len(set(first)) == 20
    assert [cursor.epoch for _, cursor in order] == [0] * 5 + [1] * 5 + [2] * 2
    assert {number for batch, _ in order[5:10] for _, number in batch} != set(first) or first != [n for b, _ in order[5:10] for _, n in b]
    assert taken(Order(21, 4, 3, order[6][1], Crew()), 5) == order[7:12]


def test_people_who_are_made_are_asked_for_in_turn() -> None:
    """Each process gets neighbours, who are posed together; both together get everybody, and another start goes on."""
    crews = [Crew(), Crew()]
    for rank, crew in enumerate(crews):
        crew.rank, crew.size = rank, 2
    orders = [iter(Order(50, 16, 3, Cursor(0, 1, ()), crew, in_turn=True)) for crew in crews]
    batches = [[next(order) for order in orders] for _ in range(3)]
    assert batches[0] == [[(0, number) for number in range(16, 24)], [(0, number) for number in range(24, 32)]]
    assert [batch[0][0] for batch in batches] == [(0, 16), (0, 32), (1, 0)]


def test_an_endless_set_is_read_in_turn(tmp_path: Path, people: Path) -> None:
    asked = []

    class Endless(ShardPeople):
        endless = True

        def __getitem__(self, index: int) -> Sample:
            asked.append(index)
            return super().__getitem__(index % len(self))

    body = ToyBody()
    maker = TargetMaker(body, ToyBackbone(), torch.device("cpu"))
    source = PictureSource(Endless(body, people), Augmentation(**PLAIN), maker, seed=3, num_workers=0)
    with source.stream(8, Cursor(1, 2, ()), Crew()) as batches:
        for _ in range(5):
            next(batches)
    assert asked == list(range(48 + 16, 48 + 16 + 5 * 8))


def test_other_settings_train(tmp_path: Path, people: Path, validation: Path) -> None:
    """bfloat16, epochs instead of samples, steps, no average, one rate for all, the release's means and the full mesh."""
    training = {
        "precision": "bf16", "epochs": 4, "schedule": "step", "drop_epochs": 2, "average_decay": 0.0, "decay": "all",
        "batch_per_process": 8, "validate_samples": 0,
    }  # fmt: skip
    loss = {"mean": "release", "edges": 500, "normals": 10, "edge_length": 0.01, "joints_token": 1000, "joints_mesh": 1000, "camera": 0}
    place = write_config(tmp_path / "c.yaml", people, validation, training=training, loss=loss)
    trainer = run_all(place)
    lines = journal(tmp_path / "run")
    assert trainer.num_samples == 4 * 48
    assert [line["samples"] for line in lines if "synthetic" in line] == [48, 96, 144, 192]
    rates = [line["lr"] for line in lines if "lr" in line]
    assert rates[0] == pytest.approx(3e-3) and rates[-1] == pytest.approx(3e-4)
    assert not trainer.average.values
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.01}


def test_the_regressor_learns_and_leaves_the_network_alone(
    tmp_path: Path, people: Path, validation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.body_regressor.WIDTH", 32)
    data = {name: {"kind": "toy", "path": str(folder)} for name, folder in (("train", people), ("validation", validation))}
    whole = write_config(tmp_path / "c.yaml", people, validation, data=data, loss={"vertices_full": 25, "camera": 0})
    run_all(whole, [f"out={tmp_path}/first"])
    training = {
        "samples": 1600,
        "validate_samples": 800,
        "tail_lr_scale": 0.0,
        "freeze": ["stages", "reduction", "tokens", "camera", "conv_1x1", "xyz_regressor"],
    }
    model = {"variant": "tiny-normed", "init": f"{tmp_path}/first/best.safetensors", "backbone": "", "parametric": True}
    regressor = {"rotations": 1000, "shape": 100, "parametric_joints": 1000, "parametric_projection": 1000, "parametric_vertices": 1000}
    second = write_config(tmp_path / "d.yaml", people, validation, data=data, training=training, model=model, regressor=regressor)
    trainer = run_all(second)
    before = load_checkpoint(tmp_path / "first" / "best.safetensors").model.state_dict()
    after = trainer.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    validated = [line for line in journal(tmp_path / "run") if "parametric" in line]
    totals = [line["parametric"]["mpjpe_mm"] + line["parametric"]["pa_mpjpe_mm"] for line in validated]
    assert validated[0]["synthetic"] == validated[1]["synthetic"]  # the mesh stays as it is
    assert totals[1] < totals[0]
    assert trainer.best == pytest.approx(totals[1])
    assert load_checkpoint(tmp_path / "run" / "best.safetensors").metadata["samples_seen"] == 1600
    lines = [line for line in journal(tmp_path / "run") if "rotations" in line]
    assert lines[-1]["rotations"] < 0.4 * lines[0]["rotations"]
    assert lines[-1]["parametric_vertices"] < 0.8 * lines[0]["parametric_vertices"]


def test_broken_samples_are_passed_over_and_counted(tmp_path: Path, people: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = {"train": {"kind": "toy", "path": str(people), "broken": 3}, "validation": None, "workers": 0}
    run_all(write_config(tmp_path / "c.yaml", people, None, data=data))
    assert journal(tmp_path / "run")[-1]["broken_samples"] > 50
    told = [record.message for record in caplog.records if "broken" in record.message]
    assert len(told) == 5 and "only counted" in told[-1]
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").metadata["scores"] is None


def test_broken_samples_are_left_out_of_validation(tmp_path: Path, people: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is counted twice instead, in no batch, also where a whole one is broken."""
    data = {"train": {"kind": "toy", "path": str(people)}, "validation": {"kind": "toy", "path": str(people), "broken": 3}, "workers": 0}
    place = write_config(tmp_path / "c.yaml", people, None, data=data)
    trainer, _, validation = open_picture_run(read_run_config(str(place), ["training.batch=1", "training.validate_limit=0"]), Crew())
    keys = [key for batch, _ in plain_batches(validation.people, np.arange(48), 1, validation.maker, 0) for key in batch.keys]
    assert len(keys) == len(set(keys)) == 32
    assert validation.scores(trainer.objective, Crew())[0].num_people == 32
    assert any("toy sample 0 is broken" in record.message for record in caplog.records)
    validation.people.broken = 1
    with pytest.raises(InputError, match="validation: all 48 people looked at are broken"):
        validation.scores(trainer.objective, Crew())


@pytest.mark.parametrize("workers", [0, 1])
def test_all_broken_ends_in_one_line(tmp_path: Path, people: Path, workers: int) -> None:
    data = {"train": {"kind": "toy", "path": str(people), "broken": 1}, "validation": None, "workers": workers}
    with pytest.raises(InputError, match="48 samples in a row are broken") as error:
        run_all(write_config(tmp_path / "c.yaml", people, None, data=data))
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_keeps_the_batch_and_its_names(tmp_path: Path, people: Path) -> None:
    place = write_config(tmp_path / "c.yaml", people, None, training={"lr": 1e30, "clip_norm": 1e30, "warmup_samples": 0})
    with pytest.raises(InputError, match=r"bad-batch\.pt"):
        run_all(place)
    kept = torch.load(tmp_path / "run" / "bad-batch.pt", weights_only=True)
    assert kept["features"][0].shape == (8, 3, 224, 224)
    assert len(kept["keys"]) == 8 and kept["keys"][0].startswith("shard-")
    assert not (tmp_path / "run" / "state.pt").exists()


def test_changed_settings_are_told_and_another_network_is_refused(tmp_path: Path, people: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = write_config(tmp_path / "c.yaml", people, None)
    run_all(place, stop_after=2)
    run_all(place, ["training.lr=1e-3"], stop_after=4)
    assert "training.lr was 0.003, is 0.001" in caplog.text
    with pytest.raises(InputError, match="choose another --out"):
        run_all(place, ["training.seed=7"])
    with pytest.raises(InputError, match="choose another --out"):
        run_all(place, ["training.freeze=[tokens]"])


def test_changed_settings_of_the_optimiser_are_applied(tmp_path: Path, people: Path) -> None:
    place = write_config(tmp_path / "c.yaml", people, None)
    run_all(place, stop_after=2)
    changes = ["training.weight_decay=0.5", "training.beta2=0.9", "training.tail_lr_scale=0.1", "training.decay=all"]
    trainer = run_all(place, changes, stop_after=4)
    groups = trainer.optimizer.param_groups
    assert {(group["weight_decay"], group["betas"]) for group in groups} == {(0.5, (0.9, 0.9))}
    assert {group["lr_scale"] for group in groups} == {0.1, 1.0}
    assert trainer.optimizer.state[groups[0]["params"][0]]["step"] == 4


def test_waiting_for_data_counts_as_training_and_validating_does_not(tmp_path: Path, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, validate = ShardPeople.__getitem__, loop.validate
    monkeypatch.setattr(ShardPeople, "__getitem__", lambda self, index: (time.sleep(0.05), read(self, index))[1])
    monkeypatch.setattr(loop, "validate", lambda *arguments: (time.sleep(3), validate(*arguments)))
    started_s = time.monotonic()
    trainer = run_all(write_config(tmp_path / "c.yaml", people, None), ["training.samples=48", "training.validate_samples=48"])
    assert 48 * 0.05 < trainer.elapsed_s < time.monotonic() - started_s - 3


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path, people: Path) -> None:
    """As where nobody has all joints; also when a state holds it."""
    trainer = open_picture_run(read_run_config(str(write_config(tmp_path / "c.yaml", people, None)), []), Crew())[0]
    trainer.folder.run.mkdir()
    validation = SimpleNamespace(shared=False, parametric=None, panels=())
    for best, scored, expected in ((None, np.nan, None), (np.nan, 20.0, 40.0), (40.0, np.nan, 40.0), (40.0, 30.0, 40.0)):
        trainer.best = best
        trainer.folder.best.unlink(missing_ok=True)
        validation.scores = lambda *_, scored=scored: (scores_of(np.full((5, len(MEASURES)), scored)), None)
        trainer.validate(validation)
        assert trainer.best == expected
        assert trainer.folder.best.exists() == (scored == 20.0)


def test_a_batch_larger_than_the_set_is_refused(tmp_path: Path, people: Path) -> None:
    with pytest.raises(InputError, match="only 48 people"):
        run_all(write_config(tmp_path / "c.yaml", people, None), ["training.batch=64"])


def toy_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.core.training.toy_run", *arguments]


def test_sigterm_saves_and_ends_and_the_same_command_goes_on(tmp_path: Path, people: Path, validation: Path) -> None:
    place = write_config(
        tmp_path / "c.yaml", people, validation, training={"samples": 40_000, "log_samples": 16, "validate_samples": 39_000}
    )
    process = subprocess.Popen(toy_command(str(place)), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 150
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert "stopped by SIGTERM" in said
    seen = read_state(tmp_path / "run" / "state.pt")["counts"]["num_samples"]
    assert 0 < seen < 40_000
    trainer = open_picture_run(read_run_config(str(place), []), Crew())[0]
    assert trainer.num_samples == seen


def test_a_signal_to_the_whole_process_group_saves_too(tmp_path: Path, people: Path) -> None:
    """As a terminal that is closed sends it, and torchrun, timeout and Slurm others: to the processes that read pictures as well."""
    training = {"samples": 400_000, "log_samples": 16, "validate_samples": 390_000}
    data = {"train": {"kind": "shards", "path": str(people)}, "validation": None, "workers": 2}
    place = write_config(tmp_path / "c.yaml", people, None, training=training, data=data)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who is started under nohup ignores it
    process = subprocess.Popen(toy_command(str(place)), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGHUP, before)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 150
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGHUP)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 0, said
    assert "stopped by SIGHUP" in said
    assert read_state(tmp_path / "run" / "state.pt")["counts"]["num_samples"] > 0


def in_two_processes(place: Path, out: str, program: str = "toy_run") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d",
               "--rdzv-endpoint=localhost:0", "-m", f"tests.core.training.{program}", str(place), "--set", out]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):  # seen once on a busy machine: a process aborts in a thread of Gloo's after its work is done
        shutil.rmtree(out.removeprefix("out="), ignore_errors=True)
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False, env=environment)
        if "terminate called without an active exception" not in done.stderr:
            break
    return done


def test_two_processes_train_as_one(tmp_path: Path, people: Path, validation: Path) -> None:
    """torchrun with two processes: the same batches, so up to rounding the same weights as one process that accumulates.

    Without dropout and batch statistics, which differ by design, and with all joints counting the same: means over halves of a batch
    are then the mean over the batch.
    """
    model = {"variant": "tiny-flat", "backbone": "random"}
    place = write_config(
        tmp_path / "c.yaml", people, validation, model=model, training={"samples": 96, "validate_samples": 48}, loss={"hidden_joints": 1.0}
    )
    done = in_two_processes(place, f"out={tmp_path}/two")
    assert done.returncode == 0, done.stderr[-3000:]
    one = run_all(place, [f"out={tmp_path}/one"])
    state = read_state(tmp_path / "two" / "state.pt")
    assert state["counts"]["num_samples"] == one.num_samples == 96
    for name, value in state["model"].items():
        if not name.endswith("bias"):  # keys' and places' biases change nothing; their rounding errors are all that Adam sees
            torch.testing.assert_close(value, one.average.trained[name].detach(), rtol=1e-4, atol=2e-5, msg=name)
    scores = [[line["synthetic"] for line in journal(tmp_path / run) if "synthetic" in line] for run in ("two", "one")]
    assert len(scores[0]) == 2
    for first, second in zip(*scores, strict=True):
        assert first["num_people"] == second["num_people"] == 12
        assert first["mpjpe_mm"] == pytest.approx(second["mpjpe_mm"], rel=1e-3)


def test_processes_share_one_clock(tmp_path: Path, people: Path) -> None:
    """Hours end a run: while the leader alone pauses longer than that, nobody else's clock runs, and all learn at the same rate."""
    training = {"samples": 8_000_000, "hours": 1 / 3600, "validate_samples": 32}
    place = write_config(tmp_path / "c.yaml", people, None, training=training)
    done = in_two_processes(place, f"out={tmp_path}/run", "pausing_run")
    assert done.returncode == 0, done.stderr[-3000:]
    leader, other = ((tmp_path / "run" / f"steps-{rank}.txt").read_text().splitlines() for rank in range(2))
    assert leader == other
    counts = read_state(tmp_path / "run" / "state.pt")["counts"]
    assert counts["num_steps"] == len(leader) > 4
    assert counts["elapsed_s"] >= 1


def test_processes_validate_with_the_batch_statistics_that_are_saved(tmp_path: Path, people: Path, validation: Path) -> None:
    place = write_config(tmp_path / "c.yaml", people, validation, training={"samples": 48, "validate_samples": 48})
    done = in_two_processes(place, f"out={tmp_path}/run")
    assert done.returncode == 0, done.stderr[-3000:]
    trainer, _, scorer = open_picture_run(read_run_config(str(place), [f"out={tmp_path}/none"]), Crew())
    trainer.model.load_state_dict(load_checkpoint(tmp_path / "run" / "last.safetensors").model.state_dict())
    again = scorer.scores(trainer.objective, Crew())[0]
    (logged,) = (line["synthetic"] for line in journal(tmp_path / "run") if "synthetic" in line)
    assert logged["mpjpe_mm"] == pytest.approx(again.mpjpe_mm, rel=1e-5)


def test_a_dry_run_finds_nothing_and_writes_nothing(
    tmp_path: Path, people: Path, validation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(write_config(tmp_path / "c.yaml", people, validation)), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "no problem found" in said and "48 people" in said and "a step took" in said
    assert not (tmp_path / "run").exists()


def wrong_meshes(folder: Path) -> Path:
    """Shards of a body that calls itself the toy, but has other vertices."""
    from core.training.shards import Truth
    from tests.core.training.toy_people import toy_jpegs, toy_truth, write_shard

    truth, amount = toy_truth(24)
    longer = np.concatenate([truth.intermediate_m, truth.intermediate_m[:, :1]], 1)
    folder.mkdir()
    write_shard(folder / "shard-00000.npz", Truth(**{**vars(truth), "intermediate_m": longer}), toy_jpegs(amount), "toy", 0)
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["data.train.path=nowhere"], "nowhere, which is no folder"),
        (["data.train.kind=tvs"], "unknown kind of data set 'tvs'; known"),
        (["model.variant=fastmetro-xl"], "unknown model variant"),
        (["model.backbone=none.pth"], "backbone: no file none.pth"),
        (["model.backbone=''", "model.init=FIRST"], "another architecture than 'tiny-wide'"),
        (["regressor.rotations=1", "model.parametric=true"], "truth for regressor"),
        (["training.batch=64"], "only 48 people"),
        (["training.accumulate=3"], "multiple of"),
        (["loss.vertices_full=1", "data.train={kind: shards, path: MESHES}"], "mixed bodies"),
        (["data.train={kind: toy, path: PEOPLE, broken: 2}"], None),
        (["data.train={kind: toy, path: PEOPLE, broken: 1}"], "samples in a row are broken"),
        (["training.lr=1e30", "training.clip_norm=1e30", "training.warmup_samples=0"], "not finite|is nan|is inf"),
    ],
)  # fmt: skip
def test_a_dry_run_finds_each_problem_in_a_line(
    tmp_path: Path, people: Path, validation: Path, changes: list[str], said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    place = write_config(tmp_path / "c.yaml", people, validation)
    if any("FIRST" in change for change in changes):
        run_all(place, [f"out={tmp_path}/first"], stop_after=24)
        changes = [*changes, "model.variant=tiny-wide"]
    names = {"FIRST": f"{tmp_path}/first/last.safetensors", "PEOPLE": str(people), "MESHES": str(tmp_path / "meshes")}
    wrong_meshes(tmp_path / "meshes")
    for name, value in names.items():
        changes = [change.replace(name, value) for change in changes]
    code = main([str(place), "--dry-run", "--set", *changes])
    error = capsys.readouterr().err.strip()
    if said is None:
        assert code == 0, error
        return
    assert code == 1
    assert re.search(said, error), error
    assert len(error.splitlines()) == 1, error
    assert not (tmp_path / "run").exists()


def test_parameters_in_other_units_are_found() -> None:
    def seen(**parameters: object) -> Seen:
        return Seen(SimpleNamespace(**{"pose": np.ones(6), "betas": np.ones(10)} | parameters), "one", ())

    assert parameter_problems([seen(), seen(pose=None, betas=None), seen(pose=np.array([6.2, 0, 0, 0, 0, 0]))]) == []
    wrong = seen(pose=np.full(6, 45.0), betas=np.full(10, 80.0))
    degrees, scaled = parameter_problems([seen(), wrong, wrong])
    assert "turns a bone by 78" in degrees and "degrees?" in degrees
    assert "betas reach 80" in scaled


def test_what_else_is_missing_is_told_where_there_is_no_network(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    settings = [f"model.mesh_dir={tmp_path}", "data.train.path=no/train.yaml", "data.validation.path=no/valid.yaml"]
    assert main(["paper-s-r50", "--out", str(tmp_path / "run"), "--dry-run", "--set", *settings, "model.backbone=no/r50.pth"]) == 1
    problems = capsys.readouterr().err.splitlines()
    told = [next(line for line in problems if name in line) for name in ("mesh_downsampling.npz", "r50.pth", "train.yaml", "valid.yaml")]
    assert all(line.startswith("problem: ") for line in told)
    assert len(set(told)) == 4


def test_every_problem_is_told_at_once(tmp_path: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write_config(tmp_path / "c.yaml", people, None, regressor={"shape": 1}, model={"parametric": True})
    assert main([str(place), "--dry-run", "--set", "data.validation={kind: shards, path: nowhere}"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("problem: ") for line in lines)
