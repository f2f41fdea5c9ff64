import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import core.checkpoint as checkpoint_module
from core.backbones import BACKBONES
from core.bodies import BODIES
from core.checkpoint import OLD_NAMES, find_checkpoint, known_checkpoints, load_backbone, load_checkpoint, save_checkpoint
from core.config import ModelConfig
from core.errors import InputError
from core.model import FastMETRO, build_model
from tests.toy import ToyBackbone, ToyBody

CONFIG = ModelConfig("small", "toy", "toy", widths=(32, 16), num_heads=4)
METADATA = {"licence": "MIT", "training": {"samples": 12, "mpjpe_mm": 100.5}}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The toy body and backbone in the registries, and an empty folder of checkpoints."""
    monkeypatch.setitem(BODIES._entries, "toy", lambda mesh_dir: ToyBody())
    monkeypatch.setitem(BACKBONES._entries, "toy", ToyBackbone)
    (tmp_path / "known").mkdir()
    monkeypatch.setattr(checkpoint_module, "FOLDER", tmp_path / "known")


@pytest.fixture
def model() -> FastMETRO:
    torch.manual_seed(0)
    return build_model(CONFIG)


def test_there_and_back(tmp_path: Path, model: FastMETRO) -> None:
    save_checkpoint(tmp_path / "a.safetensors", model, CONFIG, METADATA)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.metadata == METADATA
    assert loaded.model.config == CONFIG
    assert not loaded.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert list(tmp_path.glob("*.tmp")) == []


def test_half_the_size(tmp_path: Path, model: FastMETRO) -> None:
    save_checkpoint(tmp_path / "full.safetensors", model, CONFIG)
    save_checkpoint(tmp_path / "half.safetensors", model, CONFIG, half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full.safetensors").stat().st_size
    loaded = load_checkpoint(tmp_path / "half.safetensors").model
    assert loaded.tokens.joints.dtype == torch.float32
    torch.testing.assert_close(loaded.tokens.joints, model.tokens.joints, atol=2e-3, rtol=1e-3)


def test_names(tmp_path: Path, model: FastMETRO) -> None:
    save_checkpoint(tmp_path / "known" / "default.safetensors", model, CONFIG)
    save_file({"x": torch.zeros(1)}, tmp_path / "known" / "body.safetensors")
    (tmp_path / "known" / "broken.safetensors").write_bytes(b"no")
    assert list(known_checkpoints()) == ["default"]
    assert find_checkpoint("default") == tmp_path / "known" / "default.safetensors"
    assert load_checkpoint().model.config == CONFIG
    with pytest.raises(InputError, match="unknown checkpoint 'best'; known: default"):
        load_checkpoint("best")
    with pytest.raises(InputError, match=r"no such file.*default"):
        load_checkpoint(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path, model: FastMETRO, keep: float) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model, CONFIG)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match="damaged") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(torch.randint(0, 256, (5000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy().tobytes())
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)


def test_somebody_elses_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="got format None, expected 'fastmetro-live/2'"):
        load_checkpoint(tmp_path / "a.safetensors")


def rewrite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, model: FastMETRO) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model, CONFIG)
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # the file is mapped, and changes below
    rewrite(path, {name: tensor for name, tensor in tensors.items() if name != "tokens.joints"})
    with pytest.raises(InputError, match=r"1 missing \(tokens.joints"):
        load_checkpoint(path)
    rewrite(path, {**tensors, "extra": torch.zeros(2)})
    with pytest.raises(InputError, match=r"1 unknown \(extra"):
        load_checkpoint(path)
    rewrite(path, {**tensors, "tokens.joints": torch.zeros(3, 32)})
    with pytest.raises(InputError, match=r"tokens.joints is real \(3, 32\), expected real \(14, 32\)"):
        load_checkpoint(path)
    rewrite(path, {**tensors, "tokens.joints": torch.full((14, 32), torch.nan)})
    with pytest.raises(InputError, match="NaN"):
        load_checkpoint(path)


def test_a_config_of_an_unknown_backbone_is_refused(tmp_path: Path, model: FastMETRO) -> None:
    save_checkpoint(tmp_path / "a.safetensors", model, ModelConfig("small", "warp-drive", "toy", widths=(32, 16)))
    with pytest.raises(InputError, match="unknown backbone 'warp-drive'"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_imagenet_weights_of_torchvision_fit_the_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = BACKBONES["resnet50"](), BACKBONES["resnet50"]()
    weights = {name: tensor for name, tensor in source.state_dict().items() if not name.endswith("num_batches_tracked")}  # as old files
    torch.save(weights | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, tmp_path / "resnet50.pth")
    load_backbone(tmp_path / "resnet50.pth", target, "resnet50")
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in source.state_dict().items())
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="missing"):
        load_backbone(tmp_path / "other.pth", target, "resnet50")


def test_a_network_gives_its_backbone(tmp_path: Path, model: FastMETRO) -> None:
    save_checkpoint(tmp_path / "known" / "a.safetensors", model, CONFIG, {"licence": "MIT"})
    for name_or_path in ("a", tmp_path / "known" / "a.safetensors"):
        other = BACKBONES["toy"]()
        assert load_backbone(name_or_path, other, "toy") == {"licence": "MIT", "origin": "the backbone of a.safetensors"}
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.backbone.state_dict().items())
    with pytest.raises(InputError, match="holds 'toy', expected 'resnet50'"):
        load_backbone("a", BACKBONES["resnet50"](), "resnet50")


def test_files_of_the_first_format_still_load(tmp_path: Path, model: FastMETRO) -> None:
    save_checkpoint(tmp_path / "a.safetensors", model, CONFIG)
    new_names = {new: old for old, new in OLD_NAMES.items()}
    tensors = {new_names.get(name, name): tensor for name, tensor in load_file(tmp_path / "a.safetensors").items()}
    old_config = {"name": "small", "backbone": "toy", "body": "toy", "widths": [32, 16], "num_heads": 4}
    old_config |= {"token_init": "template", "release": "paper"}
    header = {"format": "fastmetro-live/1", "config": json.dumps(old_config), "metadata": "{}"}
    save_file(tensors, tmp_path / "old.safetensors", header)
    loaded = load_checkpoint(tmp_path / "old.safetensors").model
    assert loaded.config == replace(CONFIG, tokens="fourier")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_saving_leaves_the_model_alone(tmp_path: Path, model: FastMETRO) -> None:
    model = model.to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path / "a.safetensors", model, CONFIG, half=True)
    assert all(torch.equal(tensor, before[name]) and tensor.dtype == torch.float32 for name, tensor in model.state_dict().items())


def test_weights_too_large_for_half_precision_are_not_written(tmp_path: Path, model: FastMETRO) -> None:
    model.xyz_regressor.bias.data[0] = 70_000
    with pytest.raises(InputError, match=r"1 weights do not fit torch\.float16 \(xyz_regressor\.bias"):
        save_checkpoint(tmp_path / "a.safetensors", model, CONFIG, half=True)
    assert not (tmp_path / "a.safetensors").exists()
    save_checkpoint(tmp_path / "a.safetensors", model, CONFIG)
