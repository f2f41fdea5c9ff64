from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.backbones import BACKBONES
from core.backbones.make_pair import main
from core.backbones.pair import NAME
from core.checkpoint import load_backbone, load_checkpoint, save_backbone, save_checkpoint
from core.config import VARIANTS
from core.errors import InputError
from core.model import build_model
from core.training.widen import main as widen
from core.training.widen import widened


@pytest.fixture
def second(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "movenet.safetensors"
    save_backbone(path, BACKBONES["movenet-thunder"](), "movenet-thunder", {"licence": "Apache-2.0 (Google)"})
    return path


def test_two_files_become_one(tmp_path: Path, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, out, pair = tmp_path / "blazepose.safetensors", tmp_path / "pair.safetensors", BACKBONES[NAME]()
    save_backbone(first, BACKBONES["blazepose-heavy"](), "blazepose-heavy", {"licence": "Apache-2.0"})
    monkeypatch.setattr("sys.argv", ["make_pair", str(first), str(second), str(out)])
    main()
    assert load_backbone(out, pair, NAME)["licence"] == "Apache-2.0; Apache-2.0 (Google)"
    alone = BACKBONES["blazepose-heavy"](), BACKBONES["movenet-thunder"]()
    load_backbone(first, alone[0], "blazepose-heavy")
    load_backbone(second, alone[1], "movenet-thunder")
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(pair(images), torch.cat([trunk(images) for trunk in alone], 1))


def test_a_widened_checkpoint_answers_as_before(tmp_path: Path, second: Path) -> None:
    torch.manual_seed(0)
    before = build_model("fastmetro-xs-blazepose-heavy").eval()
    save_checkpoint(tmp_path / "before.safetensors", before, before.config, {"licence": "MIT"}, half=False)
    assert widen([str(tmp_path / "before.safetensors"), "--trunk", str(second), str(tmp_path / "after.safetensors")]) == 0
    after = load_checkpoint(tmp_path / "after.safetensors")
    assert after.model.config == VARIANTS["fastmetro-xs-blazepose-heavy+movenet-thunder"]
    assert after.metadata["origin"] == "before.safetensors with movenet.safetensors beside its trunk"
    assert after.metadata["licence"] == "MIT"
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        one, other = before(images), after.model.eval()(images)
    torch.testing.assert_close(one.levels[2], other.levels[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(one.camera, other.camera, atol=1e-5, rtol=0)


def test_feedback_comes_later_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = build_model(replace(VARIANTS["fastmetro-xs-movenet-thunder"], feedback=0)).eval()
    save_checkpoint(tmp_path / "before.safetensors", before, before.config, {"licence": "MIT"}, half=False)
    assert widen([str(tmp_path / "before.safetensors"), str(tmp_path / "after.safetensors")]) == 0
    after = load_checkpoint(tmp_path / "after.safetensors")
    assert after.model.config == VARIANTS["fastmetro-xs-movenet-thunder"]
    assert after.metadata["origin"] == "before.safetensors with keypoint feedback"
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(after.model(images).levels[2], before(images).levels[2], atol=0, rtol=0)
    with pytest.raises(InputError, match="has feedback already"):
        widened(tmp_path / "after.safetensors")


@pytest.mark.parametrize(("config", "said"), [
    (VARIANTS["fastmetro-xs-blazepose"], "expected the first of a pair: blazepose-heavy"),
    (replace(VARIANTS["fastmetro-xs-blazepose-heavy"], num_layers=2), "no variant is"),
])  # fmt: skip
def test_what_cannot_be_widened_is_one_line(tmp_path: Path, second: Path, config: object, said: str) -> None:
    model = build_model(config)
    save_checkpoint(tmp_path / "a.safetensors", model, config, {})
    with pytest.raises(InputError, match=said):
        widened(tmp_path / "a.safetensors", second)
