from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from core.backbones import BACKBONES
from core.bodies import load_body
from core.config import VARIANTS, ModelConfig, variant
from core.errors import InputError
from core.model import FastMETRO, Prediction, attention_mask, build_model
from core.upsampling import Upsample
from tests.toy import ToyBackbone, ToyBody, toy_backbone, toy_levels

SMALL = ModelConfig("small", "toy", "toy", num_layers=2, widths=(32, 16), num_heads=4)


def toy_model(config: ModelConfig = SMALL, seed: int = 0) -> FastMETRO:
    torch.manual_seed(seed)
    return FastMETRO(config, ToyBackbone(), ToyBody())


def outputs(prediction: Prediction) -> tuple[torch.Tensor, ...]:
    return prediction.camera, prediction.joints, *(level for level in prediction.levels if level is not None)


TRANSFORMERS = {replace(VARIANTS[name], name="", backbone=""): name for name in VARIANTS}
"""Each different one once; their backbones are tested below."""


@pytest.mark.parametrize("name", list(TRANSFORMERS.values()))
def test_every_variant_learns_everywhere(name: str) -> None:
    model = FastMETRO(VARIANTS[name], toy_backbone(VARIANTS[name]), ToyBody()).train()
    if model.feedback is not None:  # what it adds begins at 0, and nothing before it would learn in the first step
        for last in (model.feedback.move, model.feedback.follow, model.feedback.camera[-1]):
            nn.init.normal_(last.weight, std=0.1)
    prediction = model(torch.rand(2, 3, 224, 224))
    assert [tuple(output.shape) for output in outputs(prediction)] == [(2, 3), (2, 14, 3), (2, 6, 3), (2, 12, 3), (2, 30, 3)]
    sum(output.square().sum() for output in outputs(prediction)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_backbone_keeps_the_contract(name: str) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name]()
    images = torch.rand(2, 3, 224, 224)
    kept = tuple(tensor.detach() for tensor in backbone.frozen(images))
    features = backbone.tail(*kept)
    assert features.shape == (2, backbone.channels, 224 // backbone.stride, 224 // backbone.stride)
    torch.testing.assert_close(backbone(images), features)
    trained = {id(parameter) for parameter in backbone.tail_parameters()}
    assert features.requires_grad == bool(trained)
    if trained:
        features.square().sum().backward()
    for parameter_name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained), parameter_name


@pytest.mark.parametrize("name", ["blazepose", "blazepose-heavy"])
def test_what_training_keeps_of_a_picture_is_small(name: str) -> None:
    assert sum(tensor[0].numel() for tensor in BACKBONES[name]().frozen(torch.rand(1, 3, 224, 224))) < 30_000


@pytest.mark.parametrize(("images", "said"), [
    (torch.zeros(1, 3, 128, 128), r"got shape \(1, 3, 128, 128\), expected \(B, 3, 224, 224\)"),
    (torch.zeros(3, 224, 224), "got shape"),
    (torch.zeros(1, 3, 224, 224, dtype=torch.uint8), "got torch.uint8, expected torch.float32"),
    (torch.zeros(1, 3, 224, 224, dtype=torch.float64), "got torch.float64, expected torch.float32"),
    (torch.full((1, 3, 224, 224), torch.nan), "150528 of 150528 values are NaN"),
])  # fmt: skip
def test_wrong_images_are_one_line(images: torch.Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        toy_model()(images)
    assert "\n" not in str(caught.value)


def test_mask_equals_its_slow_definition() -> None:
    adjacency = toy_levels().coarse_adjacency
    mask = attention_mask(adjacency, 14)
    for query in range(20):
        for key in range(20):
            forbidden = query >= 14 and key >= 14 and not adjacency[query - 14, key - 14]
            assert mask[query, key] == (-torch.inf if forbidden else 0)


def test_the_mask_keeps_vertices_that_are_no_neighbours_apart() -> None:
    model = toy_model(replace(SMALL, num_layers=1)).eval()
    adjacency = toy_levels().coarse_adjacency
    far = np.argwhere(~adjacency)[0]
    with torch.no_grad():
        before = model.stages[0].begin(model.tokens()[None], model.mask)[0]
        model.tokens.vertices[far[0]] *= -1
        after = model.stages[0].begin(model.tokens()[None], model.mask)[0]
    changed = (before - after).abs().amax(-1)[0] > 1e-6
    assert not changed[14 + far[1]]
    assert changed[:14].all()
    assert changed[14 + far[0]]


def test_a_batch_of_one_equals_that_item_in_a_batch_of_many() -> None:
    model = toy_model().eval()
    images = torch.rand(5, 3, 224, 224)
    with torch.no_grad():
        many = outputs(model(images))
        for index in range(5):
            for one, all_of_them in zip(outputs(model(images[index : index + 1])), many, strict=True):
                torch.testing.assert_close(one[0], all_of_them[index], atol=1e-5, rtol=0)


def test_nobody_in_a_batch_is_nobody() -> None:
    prediction = toy_model()(torch.zeros(0, 3, 224, 224))
    assert prediction.joints.shape == (0, 14, 3)
    assert [level.shape[0] for level in prediction.levels] == [0, 0, 0]


def test_two_levels_leave_the_full_mesh_out() -> None:
    model = toy_model().eval()
    features = torch.rand(2, 8, 7, 7)
    with torch.no_grad():
        two, three = model.decode(features, num_levels=2), model.decode(features)
    assert two.levels[2] is None
    torch.testing.assert_close(two.levels[1], three.levels[1])


def test_precomputed_constants_equal_the_plain_path() -> None:
    model = toy_model(variant("fastmetro-s-blazepose")).eval()
    features = torch.rand(3, 8, 7, 7)
    plain = outputs(model.decode(features))  # gradients on: nothing is kept
    assert model._constants is None
    with torch.inference_mode():
        for _ in range(2):
            for kept, expected in zip(outputs(model.decode(features)), plain, strict=True):
                torch.testing.assert_close(kept, expected, atol=2e-5, rtol=0)
    assert model._constants is not None


def test_constants_follow_the_weights() -> None:
    model, other = toy_model(seed=1).eval(), toy_model(seed=2).eval()
    features = torch.rand(1, 8, 7, 7)
    with torch.no_grad():
        model.decode(features)
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model.decode(features).joints, other.decode(features).joints)
        for changed in (model, other):
            changed.tokens.joints += 0.5
        other._constants = None
        torch.testing.assert_close(model.decode(features).joints, other.decode(features).joints)
        assert model.double().decode(features.double()).levels[2].dtype == torch.float64


@pytest.mark.parametrize("training", [True, False])
def test_constants_follow_a_fused_optimiser(training: bool) -> None:
    """AdamW(fused=True) changes weights without raising their version."""
    model, features = toy_model().eval(), torch.rand(1, 8, 7, 7)
    with torch.no_grad():
        before = model.decode(features).joints
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model.train(training).decode(features).joints.square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = model.eval().decode(features).joints
        model._constants = None
        torch.testing.assert_close(after, model.decode(features).joints, rtol=0, atol=0)
    assert not torch.equal(before, after)


def test_bfloat16_stays_near_float32() -> None:
    model = toy_model(variant("fastmetro-s-blazepose")).eval()
    features = torch.rand(2, 8, 7, 7)
    with torch.inference_mode():
        exact = model.decode(features).joints
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.decode(features).joints
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("camera", ["encoder", "decoder", "mesh"])
def test_autocast_leaves_coordinates_in_float32(camera: str) -> None:
    model = toy_model(replace(SMALL, camera=camera)).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        said = model.decode(torch.rand(2, 8, 7, 7))
    for exact in (said.camera, said.joints, said.levels[0]):
        assert exact.dtype == torch.float32
        assert (exact != exact.bfloat16().float()).float().mean() > 0.5


def test_autocast_leaves_meshes_and_body_parameters_in_float32() -> None:
    model = toy_model(replace(SMALL, upsampling=("learned", "learned"), parametric=True)).eval()
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            said = model.decode(torch.rand(2, 8, 7, 7))
        exact = (*model.upsample(said.levels[0])[1:], *model.body_regressor(said.levels[1]))
    torch.testing.assert_close((*said.levels[1:], said.rotmats, said.betas), exact, rtol=0, atol=0)


def test_upsampling_equals_the_sparse_product() -> None:
    for matrix in toy_levels().upsample:
        vertices = torch.randn(3, matrix.shape[1], 3)
        expected = np.stack([matrix @ item for item in vertices.numpy()])
        np.testing.assert_allclose(Upsample(matrix)(vertices).numpy(), expected, atol=1e-6)


def test_upsampling_reproduces_the_toys_rest_mesh() -> None:
    levels = toy_levels()
    coarse = torch.from_numpy(levels.template_m[levels.coarse_ids])[None]
    intermediate, full = toy_model().upsample(coarse)[1:]
    np.testing.assert_allclose(intermediate[0].numpy(), levels.template_m[levels.intermediate_ids], atol=1e-5)
    np.testing.assert_allclose(full[0].numpy(), levels.template_m, atol=1e-5)


def test_upsampling_reproduces_annys_rest_mesh() -> None:
    levels = load_body("anny").levels
    coarse = torch.from_numpy(levels.template_m[levels.coarse_ids])[None]
    full = Upsample(levels.upsample[1])(Upsample(levels.upsample[0])(coarse))[0].numpy()
    error_mm = 1000 * np.linalg.norm(full - levels.template_m, axis=1)
    assert error_mm.mean() < 4
    assert np.percentile(error_mm, 99) < 15


@pytest.mark.parametrize(("num_layers", "expected"), [(1, 9_231_366), (2, 17_050_630), (3, 24_869_894)])
def test_transformer_has_the_papers_number_of_parameters(num_layers: int, expected: int) -> None:
    model = build_model(replace(VARIANTS["fastmetro-s-blazepose"], num_layers=num_layers))
    count = sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("backbone."))
    fewer_channels = (2048 - model.backbone.channels) * 512
    assert count + fewer_channels == expected


def test_fixed_matrices_are_not_in_the_state_dict() -> None:
    assert set(toy_model().state_dict()) == {name for name, _ in toy_model().named_parameters()}


def test_template_tokens_of_near_vertices_are_alike() -> None:
    model = build_model("fastmetro-xs-blazepose")
    levels = load_body("anny").levels
    tokens = torch.nn.functional.normalize(model.tokens.vertices.detach(), dim=1)
    places = torch.from_numpy(levels.template_m[levels.coarse_ids])
    distance, likeness = torch.cdist(places, places), tokens @ tokens.T
    near = likeness[(distance > 0) & (distance < 0.04)].mean()
    assert near > 0.5
    assert near > likeness[distance > 0.8].mean() + 0.4
    assert 0.8 < model.tokens.vertices.std() < 1.2


def test_build_model_refuses_what_it_does_not_know() -> None:
    with pytest.raises(InputError, match="unknown model variant 'fastmetro-x'; known: fastmetro-s-r50"):
        build_model("fastmetro-x")
    with pytest.raises(InputError, match="unknown body"):
        build_model("fastmetro-xs-blazepose", body="teapot")
    with pytest.raises(InputError, match="mesh_dir"):
        build_model("fastmetro-xs-blazepose", mesh_dir="somewhere")
    with pytest.raises(InputError, match="release"):
        build_model("fastmetro-xs-blazepose", release="nightly")
