from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from core.model import Prediction
from core.training.losses import Criterion, LossWeights, Targets, masked_mean
from tests.core.training.toy_people import toy_truth
from tests.toy import ToyBody


def targets(count: int = 4) -> Targets:
    truth, _ = toy_truth(count)
    return Targets(**{f.name: torch.from_numpy(getattr(truth, f.name)).float() for f in fields(Targets) if hasattr(truth, f.name)})


def perfect(true: Targets, shift_m: float = 0.0) -> Prediction:
    """A prediction that equals the truth, moved as a whole."""
    intermediate = true.intermediate_m + shift_m
    return Prediction(true.camera, true.joints_m + 2 * shift_m, (intermediate[:, :6], intermediate, None))


@pytest.fixture
def criterion() -> Criterion:
    return Criterion(ToyBody(), LossWeights())


def test_masked_mean_by_hand() -> None:
    values = torch.tensor([[1.0, 3.0], [10.0, 20.0]])
    assert masked_mean(values, torch.tensor([True, False])) == 2.0
    assert masked_mean(values, torch.tensor([1.0, 1.0])) == 8.5
    assert masked_mean(values, torch.tensor([[1.0, 0.0], [0.0, 0.5]])) == pytest.approx((1 + 10) / 1.5)


def test_masked_mean_of_nothing_is_zero_and_has_a_gradient() -> None:
    values = torch.ones(2, 3, requires_grad=True)
    mean = masked_mean(values, torch.zeros(2))
    mean.backward()
    assert mean == 0
    assert (values.grad == 0).all()


@pytest.mark.parametrize("shift_m", [0.0, 0.3])
def test_the_truth_costs_nothing_wherever_its_pelvis_is(criterion: Criterion, shift_m: float) -> None:
    true = targets()
    # The toy mesh does not pass its joints on exactly: take those that it does.
    joints = criterion.joints(true.intermediate_m)
    pelvis = joints[:, [2, 3]].mean(1, keepdim=True)
    camera = true.camera
    crop = camera[:, None, :1] * ((joints - pelvis)[..., :2] + camera[:, None, 1:])
    true = replace(true, joints_m=joints - pelvis, intermediate_m=true.intermediate_m - pelvis, joints_crop=crop)
    _, terms = criterion(perfect(true, shift_m), true)
    for name in set(terms) - {"normals"}:  # float16 normals
        assert terms[name] < 1e-3, name
    assert terms["normals"] < 1e-3


def test_each_weight_scales_its_term() -> None:
    true = targets()
    full = torch.from_numpy(ToyBody().levels.upsample[1].toarray()) @ true.intermediate_m
    true = replace(true, full_m=full)
    prediction = perfect(replace(true, intermediate_m=true.intermediate_m * 1.3, camera=true.camera + 0.1))
    prediction = replace(prediction, levels=(*prediction.levels[:2], full * 1.3))
    for entry in fields(LossWeights):
        if entry.name in ("hidden_joints", "mean"):
            continue
        alone = LossWeights(**{f.name: float(f.name == entry.name) for f in fields(LossWeights) if f.name != "mean"})
        total, terms = Criterion(ToyBody(), alone)(prediction, true)
        assert total == pytest.approx(float(terms[entry.name]), rel=1e-5)
        assert total > 0, entry.name


def test_every_term_falls_to_where_it_should(criterion: Criterion) -> None:
    true = targets(2)
    prediction = perfect(true)
    longer = Prediction(prediction.camera, prediction.joints, tuple(x * 1.1 if x is not None else None for x in prediction.levels))
    _, terms = criterion(longer, true)
    edges = criterion.edge_ends
    lengths = (true.intermediate_m[:, edges[:, 0]] - true.intermediate_m[:, edges[:, 1]]).norm(dim=-1)
    assert terms["edges"] == pytest.approx(0.1 * float(lengths.mean()), rel=1e-3)


def test_hidden_joints_count_less() -> None:
    true = targets(1)
    off = true.joints_m.clone()
    off[0, 0, 0] += 0.5
    costs = []
    for visibility in (0.0, 1.0):
        seen = torch.ones(1, 14)
        seen[0, 0] = visibility
        case = replace(true, joint_visibility=seen)
        _, terms = Criterion(ToyBody(), LossWeights(hidden_joints=0.25))(Prediction(true.camera, off, perfect(true).levels), case)
        costs.append(float(terms["projection_token"]))
    assert costs[0] == pytest.approx(costs[1] * 0.25 * 14 / 13.25, rel=1e-3)


def test_gradients_reach_every_output_and_are_finite(criterion: Criterion) -> None:
    true = targets()
    coarse = torch.zeros(4, 6, 3, requires_grad=True)  # all edges of length 0: the worst place for a square root
    matrix = torch.from_numpy(ToyBody().levels.upsample[0].toarray())
    camera, joints = torch.ones(4, 3, requires_grad=True), torch.zeros(4, 14, 3, requires_grad=True)
    total, _ = criterion(Prediction(camera, joints, (coarse, matrix @ coarse, None)), true)
    total.backward()
    for tensor in (coarse, camera, joints):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


def test_joints_follow_the_full_mesh(criterion: Criterion) -> None:
    body = ToyBody()
    intermediate = torch.randn(2, 12, 3)
    full = torch.from_numpy(body.levels.upsample[1].toarray()) @ intermediate
    np.testing.assert_allclose(criterion.joints(intermediate), body.joints(full), atol=1e-5)
