import json
from pathlib import Path

import numpy as np
import pytest

from core.training.train import main
from tests.core.training.tsv_files import label, write_set, write_yaml
from tests.smpl_files import write_mesh_files, write_smpl


def person(number: int) -> dict:
    """A label whose joints lie inside of the crop, and within a metre."""
    places = 40 + 60 * np.random.default_rng(number).random((24, 2))
    return label(number, **{"2d_joints": np.concatenate([places, np.ones((24, 1))], 1).tolist()})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """SMPL's files with an invented body, and a set of five people: one without a mesh, one without 3D joints, one broken."""
    pytest.importorskip("smplx", reason="posing SMPL needs smplx")
    (tmp_path / "smpl").mkdir()
    write_smpl(tmp_path / "smpl")
    write_mesh_files(tmp_path / "smpl")
    people = [person(0), person(1) | {"has_smpl": 0}, person(2) | {"has_3d_joints": 0}, person(3), person(4)]
    texts = [json.dumps([content]) for content in people]
    write_set(tmp_path / "people", 6, labels=[*texts, "no label"])
    write_yaml(tmp_path / "people" / "train.yaml")
    return tmp_path


def command(files: Path, *changes: str) -> list[str]:
    data = f"{{kind: tsv, path: {files}/people/train.yaml}}"
    return [
        "paper-s-r50", "--out", str(files / "run"), "--set", f"data.train={data}", f"data.validation={data}", "data.workers=0",
        f"model.mesh_dir={files}/smpl", "model.backbone=random", "training.device=cpu", "training.threads=2", *changes,
    ]  # fmt: skip


def test_the_papers_run_on_a_tsv_set_writes_and_is_evaluated(files: Path) -> None:
    """One step of the real S-R50 on TSV files with SMPL meshes, its validation, and its checkpoint read again without SMPL's files."""
    from core.checkpoint import load_checkpoint

    assert main(command(files, "training.batch_per_process=2", "training.epochs=0", "training.samples=2")) == 0
    lines = [json.loads(line) for line in (files / "run" / "log.jsonl").read_text().splitlines()]
    step = next(line for line in lines if "loss" in line)
    assert {"vertices_coarse", "vertices_intermediate", "vertices_full", "joints_token", "projection_mesh"} <= step.keys()
    scores = next(line["synthetic"] for line in lines if "synthetic" in line)
    assert scores["mpvpe_mm"] > 0
    loaded = load_checkpoint(files / "run" / "last.safetensors", files / "nowhere")
    assert loaded.body.levels.sizes == (431, 1723, 6890)
    assert loaded.metadata["run"]["training"]["clip_norm"] == 0.3


def test_the_dry_run_says_what_is_missing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "people" / "train.img.tsv").unlink()
    assert main([*command(files, "training.batch_per_process=2", "model.backbone=resnet50.pth"), "--dry-run"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert any("torchvision" in line for line in said)
