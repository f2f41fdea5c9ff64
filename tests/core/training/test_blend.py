from pathlib import Path

import numpy as np
import pytest
import torch

from core.backbones import BACKBONES
from core.bodies import BODIES
from core.checkpoint import load_checkpoint, save_checkpoint
from core.config import ModelConfig
from core.model import FastMETRO
from core.training import blend
from core.training.sources import sources_of
from tests.toy import ToyBackbone, ToyBody

CONFIG = ModelConfig("small", "toy", "toy", widths=(32, 16), num_heads=4)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BODIES._entries, "toy", lambda mesh_dir: ToyBody())
    monkeypatch.setitem(BACKBONES._entries, "toy", ToyBackbone)


def written(path: Path, seed: int, metadata: dict, **changes: object) -> Path:
    torch.manual_seed(seed)
    config = ModelConfig(**{**CONFIG.to_dict(), **changes})
    save_checkpoint(path, FastMETRO(config, ToyBackbone(), ToyBody()), config, metadata)
    return path


def test_weights_lie_between_and_the_file_says_of_what(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    before = written(tmp_path / "a.safetensors", 0, {"licence": "MIT", "samples_seen": 5})
    after = written(tmp_path / "b.safetensors", 1, {"licence": "MIT, too", "scores": {"pck": 0.9}, "samples_seen": 7}, levelled=True)
    out = tmp_path / "c.safetensors"
    assert blend.main([str(before), str(after), str(out), "--weight", "0.25", "--full"]) == 0
    assert "0.75 of a.safetensors and 0.25 of b.safetensors" in capsys.readouterr().out
    first, second, mixed = (load_checkpoint(path) for path in (before, after, out))
    assert mixed.model.config.levelled, "crops are made as for the later one"
    for name, value in mixed.model.state_dict().items():
        ends = first.model.state_dict()[name], second.model.state_dict()[name]
        if value.is_floating_point():
            np.testing.assert_allclose(value, 0.75 * ends[0] + 0.25 * ends[1], atol=1e-6)
    assert "scores" not in mixed.metadata
    said = mixed.metadata["blend"]
    assert (said["weight"], said["before"]["samples_seen"], said["after"]["licence"]) == (0.25, 5, "MIT, too")
    assert len(said["before"]["sha256"]) == 64


def test_sources_of_both_ends_are_kept(tmp_path: Path) -> None:
    """What `before` learned from counts as well, also where a training from another checkpoint, or another blend, lies between."""
    amass = {"origin": "random weights", "data": {"sources": ["amass"]}}
    own = {"origin": "random weights", "data": {"sources": ["cmu"]}}
    before, after = written(tmp_path / "a.safetensors", 0, amass), written(tmp_path / "b.safetensors", 1, own)
    first, second = tmp_path / "c.safetensors", tmp_path / "d.safetensors"
    assert blend.main([str(before), str(after), str(first)]) == 0
    assert blend.main([str(first), str(after), str(second)]) == 0
    for path in (first, second):
        found = load_checkpoint(path)
        names = [source.name for source in sources_of(found.model.config.to_dict(), found.metadata)]
        assert names == ["AMASS", "CMU motion capture"]
    blend_of_old = {**own, "blend": {"before": amass}}
    assert [source.name for source in sources_of({}, blend_of_old)] == ["AMASS", "CMU motion capture"]


def test_modules_that_are_kept_are_all_of_the_later_one(tmp_path: Path) -> None:
    before, after = written(tmp_path / "a.safetensors", 0, {}), written(tmp_path / "b.safetensors", 1, {})
    out = tmp_path / "c.safetensors"
    assert blend.main([str(before), str(after), str(out), "--full", "--keep", "reduction", "stages.1"]) == 0
    first, second, mixed = (load_checkpoint(path) for path in (before, after, out))
    for name, value in mixed.model.state_dict().items():
        ends = first.model.state_dict()[name], second.model.state_dict()[name]
        kept = name.startswith(("reduction.", "stages.1."))
        np.testing.assert_allclose(value, ends[1] if kept else (ends[0] + ends[1]) / 2, atol=1e-6)
    assert mixed.metadata["origin"].endswith("all of the latter in reduction, stages.1")


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one = written(tmp_path / "a.safetensors", 0, {})
    other = written(tmp_path / "b.safetensors", 0, {}, name="other", widths=(64, 16))
    out = tmp_path / "c.safetensors"
    for arguments, complaint in (
        ([one, other, out], "expected one architecture"),
        ([one, one, out, "--weight", "1.5"], "weight of 1.5"),
        ([one, one, tmp_path / "c.bin"], ".safetensors"),
        ([one, one, out, "--keep", "feedbakc"], "got 'feedbakc' to keep, expected a module of the network: backbone, conv_1x1"),
        ([one, tmp_path / "none.safetensors", out], "none.safetensors"),
    ):
        assert blend.main([str(argument) for argument in arguments]) == 1
        assert complaint in capsys.readouterr().err
    assert not out.exists()
