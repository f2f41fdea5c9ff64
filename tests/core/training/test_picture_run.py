"""Runs on toy pictures: what they learn and write, and that they go on as if nothing had stopped them."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.checkpoint import load_checkpoint, save_backbone
from core.config import VARIANTS
from core.errors import InputError
from core.training import loop
from core.training.augmentation import Augmentation
from core.training.batches import Cursor
from core.training.crew import Crew
from core.training.features import cache_features, open_cache
from core.training.pictures import Order, PictureSource
from core.training.samples import Sample
from core.training.shard_people import ShardPeople
from core.training.shards import list_shards
from core.training.train import main
from core.training.truth import TargetMaker
from core.training.workers import cursors_from
from tests.core.training.picture_runs import journal, run_all, same_weights
from tests.core.training.toy_people import TINY, write_toy_shards
from tests.core.training.toy_run import PLAIN, write_config
from tests.toy import ToyBackbone, ToyBody

pytestmark = pytest.mark.usefixtures("toys")


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
