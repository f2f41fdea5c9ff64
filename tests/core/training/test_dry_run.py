"""What `--dry-run` finds before a run."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from core.training.checks import parameter_problems
from core.training.pictures import Seen
from core.training.train import main
from tests.core.training.picture_runs import run_all
from tests.core.training.toy_run import write_config

pytestmark = pytest.mark.usefixtures("toys")


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
