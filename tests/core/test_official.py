import copy
import json
import os
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from core.checkpoint import load_checkpoint, load_official
from core.config import variant
from core.convert import main as convert_main
from core.errors import InputError
from core.exact import exact_path
from core.model import FastMETRO, Prediction, build_model
from core.official import BACKBONE_PREFIXES, PREFIXES, read_state_dict, renamed
from tests.smpl_files import write_mesh_files, write_smpl

TO_OFFICIAL = (
    (r"stages\.0\.", "transformer_1."), (r"stages\.1\.", "transformer_2."), (r"reduction\.camera\.", "dim_reduce_enc_cam."),
    (r"reduction\.image\.", "dim_reduce_enc_img."), (r"reduction\.tokens\.", "dim_reduce_dec."),
    (r"camera\.token$", "cam_token_embed.weight"), (r"camera\.predictor\.", "cam_predictor."),
    (r"tokens\.joints$", "joint_token_embed.weight"),
    (r"tokens\.vertices$", "vertex_token_embed.weight"), (r"upsampling\.0\.", "coarse2intermediate_upsample."),
    (r"body_regressor\.entry\.", "smpl_parameter_regressor.regressor.0.fc_block."),
    (r"body_regressor\.blocks\.0\.", "smpl_parameter_regressor.regressor.1.fc_block."),
    (r"body_regressor\.blocks\.1\.", "smpl_parameter_regressor.regressor.2.fc_block."),
    (r"body_regressor\.exit\.", "smpl_parameter_regressor.regressor.3."),
    (r"backbone\.conv1\.", "backbone.0."), (r"backbone\.bn1\.", "backbone.1."), (r"backbone\.layer1\.", "backbone.4."),
    (r"backbone\.layer2\.", "backbone.5."), (r"backbone\.layer3\.", "backbone.6."), (r"backbone\.layer4\.", "backbone.7."),
)  # fmt: skip
OUTPUTS = {
    "pred_cam": lambda said: said.camera, "pred_3d_joints": lambda said: said.joints,
    "pred_3d_vertices_coarse": lambda said: said.levels[0], "pred_3d_vertices_intermediate": lambda said: said.levels[1],
    "pred_3d_vertices_fine": lambda said: said.levels[2], "pred_rotmat": lambda said: said.rotmats, "pred_betas": lambda said: said.betas,
}  # fmt: skip
BOUND = 2e-5


def official_state(model: FastMETRO) -> dict[str, torch.Tensor]:
    """A ResNet-50 network's weights under the release's names."""
    state = {}
    for name, tensor in model.state_dict().items():
        rules = [(pattern, replacement) for pattern, replacement in TO_OFFICIAL if re.match(pattern, name)]
        state[re.sub(*rules[0], name, count=1) if rules else name] = tensor
    return state


@pytest.fixture(scope="module")
def mesh_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mesh")
    write_mesh_files(folder)
    return folder


@pytest.fixture(scope="module")
def model(mesh_dir: Path) -> FastMETRO:
    torch.manual_seed(0)
    return build_model("fastmetro-s-r50", body="smpl", mesh_dir=mesh_dir, release="released").eval()


@pytest.fixture(scope="module")
def state(model: FastMETRO) -> dict[str, torch.Tensor]:
    return official_state(model)


@pytest.fixture
def saved(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    torch.save(state, tmp_path / "state_dict.bin")
    return tmp_path / "state_dict.bin"


@pytest.mark.parametrize("name", ["S-R50", "M-R50", "L-R50", "S-R50-smpl", "L-H64", "L-H64-smpl"])
def test_names_and_shapes_are_the_releases(shared: Path, name: str) -> None:
    from core.variants import sized

    size, _, rest = name.lower().partition("-")
    config = variant(f"fastmetro-{size}-{rest.removesuffix('-smpl')}", "smpl", "released", parametric=name.endswith("-smpl"))
    theirs = json.loads((shared / "official" / f"keys_{name}.json").read_text())["keys"]
    ours = {key: tuple(value.shape) for key, value in sized(config).state_dict().items()}
    prefixes = PREFIXES | BACKBONE_PREFIXES[rest[:3]]
    assert {renamed(key, prefixes): tuple(shape) for key, shape, _ in theirs} == ours
    back = {new: old for old, new in prefixes.items()}
    assert all(renamed(renamed(key, prefixes), back) == key for key, _, _ in theirs)


def largest_error(predictions: list[Prediction], golden: dict[str, np.ndarray]) -> float:
    errors = []
    for name in set(OUTPUTS) & set(golden):
        got = torch.cat([OUTPUTS[name](said) for said in predictions]).detach().numpy()
        errors.append(np.abs(got - golden[name]).max())
    return max(errors)


@pytest.mark.parametrize("name", ["S-R50", "S-R50-smpl"])
def test_outputs_are_the_official_ones(shared: Path, official_rule: ModuleType, tmp_path: Path, name: str) -> None:
    keys = json.loads((shared / "official" / f"keys_{name}.json").read_text())["keys"]
    weights = {key: torch.from_numpy(np.ascontiguousarray(official_rule.tensor(key, shape))).reshape(shape) for key, shape, _ in keys}
    torch.save(weights, tmp_path / "state_dict.bin")
    model = load_official(tmp_path / "state_dict.bin", mesh_dir=shared / "official")
    assert not model.training
    assert (model.config.release, model.config.parametric) == ("released", name.endswith("smpl"))
    golden = dict(np.load(shared / "official" / f"golden_{name}.npz"))
    images = torch.from_numpy(np.concatenate([official_rule.image(0), official_rule.image(1)]))
    assert largest_error([model(images)], golden) < BOUND  # eager, gradients on: nothing precomputed
    assert largest_error([model(images[:1]), model(images[1:])], golden) < BOUND
    model = exact_path(model, "cpu")
    with torch.inference_mode():
        assert largest_error([model(images)], golden) < BOUND
        assert largest_error([model(images[:1]), model(images[1:])], golden) < BOUND


def test_variant_and_options_are_found_from_the_keys(saved: Path, mesh_dir: Path, model: FastMETRO) -> None:
    loaded = load_official(saved, mesh_dir)
    assert loaded.config == model.config
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_mesh_files_beside_the_weights_are_found(saved: Path, model: FastMETRO) -> None:
    write_mesh_files(saved.parent)
    assert load_official(saved).config == model.config


def test_ddps_prefix_is_tolerated(state: dict[str, torch.Tensor], tmp_path: Path, mesh_dir: Path, model: FastMETRO) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "a.bin")
    torch.testing.assert_close(load_official(tmp_path / "a.bin", mesh_dir).tokens.joints, model.tokens.joints)


def test_what_does_not_fit_is_refused(state: dict[str, torch.Tensor], tmp_path: Path, mesh_dir: Path) -> None:
    path = tmp_path / "a.bin"
    changes = {
        r"1 missing \(xyz_regressor\.bias": {name: tensor for name, tensor in state.items() if name != "xyz_regressor.bias"},
        r"1 unknown \(surprise": {**state, "surprise": torch.zeros(1)},
        r"1 missing \(cam_predictor\.bias": {name: tensor for name, tensor in state.items() if name != "cam_predictor.bias"},
        r"conv_1x1\.bias is real \(3,\), expected real \(512,\)": {**state, "conv_1x1.bias": torch.zeros(3)},
        r"cam_predictor\.bias is int64 \(3,\)": {**state, "cam_predictor.bias": torch.zeros(3, dtype=torch.int64)},
        r"complex64": {**state, "xyz_regressor.bias": torch.zeros(3, dtype=torch.complex64)},
        r"xyz_regressor\.bias \.\.\.\); it is damaged": {**state, "xyz_regressor.bias": torch.full((3,), 1e300, dtype=torch.float64)},
        r"nested": {**state, "extra": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])},
        r"special storage": {**state, "xyz_regressor.weight": torch.zeros(3, 128).to_sparse()},
        r"1 unknown weights \(camera\.token": {**state, "camera.token": torch.zeros(1, 512)},
        r"not a network of bodies": {**state, "vertex_token_embed.weight": torch.zeros(195, 512)},
        r"no official FastMETRO weights.*without dim_reduce_enc_cam": {
            n: t for n, t in state.items() if not n.startswith("dim_reduce_enc_cam")
        },
        r"no official FastMETRO weights: .*without a ResNet-50": {"weight": torch.zeros(2)},
        r"NaN": {**state, "xyz_regressor.bias": torch.full((3,), torch.nan)},
        r"1 unknown \(transformer_1\.decoder": {**state, "transformer_1.decoder.layers.1.norm1.bias": torch.zeros(512)},
    }
    for message, changed in changes.items():
        torch.save(changed, path)
        with pytest.raises(InputError, match=message) as caught:
            load_official(path, mesh_dir)
        assert "\n" not in str(caught.value)


def test_a_whole_pickled_model_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap(nn.Module):
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    for kind, whole in (("posix.mkdir|nt.mkdir", Trap()), ("torch.nn.modules", nn.Linear(2, 2))):
        torch.save(whole, tmp_path / "whole.bin")
        with pytest.raises(InputError, match=rf"({kind}).*whole pickled model.*nothing was executed.*torch\.save") as caught:
            load_official(tmp_path / "whole.bin", tmp_path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path, zipped: bool) -> None:
    whole = tmp_path / "whole.bin"
    torch.save({"a": torch.arange(40.0), "b": torch.zeros(3, dtype=torch.int64)}, whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    cut = tmp_path / "cut.bin"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.bin") as caught:
            read_state_dict(cut)
        assert "\n" not in str(caught.value)
    assert set(read_state_dict(whole)) == {"a", "b"}


WEB_PAGE = b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>"


@pytest.mark.parametrize("content", [b"", b"hello", WEB_PAGE, [1, 2], {"epoch": 3}, {"state_dict": {"a": torch.zeros(1)}}, torch.zeros(2)])
def test_other_files_are_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "a.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"a\.bin: (damaged|got)") as caught:
        load_official(path)
    assert "weights_only" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        load_official(tmp_path / "missing.bin")


def test_without_mesh_files_it_says_what_to_get(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mesh_downsampling\.npz: not found.*postech-ami/FastMETRO"):
        load_official(saved, tmp_path)


def test_an_smpl_model_does_not_stand_in_for_the_mesh_file(saved: Path, tmp_path: Path) -> None:
    """It would give mesh levels of our own: a network that runs, and whose mesh means nothing."""
    folder = tmp_path / "model only"
    folder.mkdir()
    write_smpl(folder)
    with pytest.raises(InputError, match=r"mesh_downsampling\.npz: not found"):
        load_official(saved, folder)


def test_a_converted_file_needs_no_mesh_files(
    saved: Path, mesh_dir: Path, model: FastMETRO, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "ours.safetensors"
    assert convert_main([str(saved), str(target), "--mesh-dir", str(mesh_dir)]) == 0
    assert "33,549,398 parameters" in capsys.readouterr().out
    loaded = load_checkpoint(target)  # no mesh_dir, and none in checkpoints/
    assert loaded.model.config == model.config
    assert "non-commercial" in loaded.metadata["licence"]
    assert loaded.body.faces.shape == (13776, 3)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(images).levels[2], model(images).levels[2], atol=1e-6, rtol=0)
    assert convert_main([str(tmp_path / "nothing.bin"), str(target)]) == 1
    assert convert_main([str(saved), str(tmp_path / "ours.bin"), "--mesh-dir", str(mesh_dir)]) == 1
    assert "expected .safetensors" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same(model: FastMETRO) -> None:
    images = torch.randn(2, 3, 224, 224)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        expected = model(images).levels[2]
        there = exact_path(copy.deepcopy(model), "cuda")(images.cuda()).levels[2].cpu()
    torch.testing.assert_close(there, expected, atol=1e-3, rtol=0)
