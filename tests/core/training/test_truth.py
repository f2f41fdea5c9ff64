from dataclasses import replace

import numpy as np
import pytest
import torch

from core.errors import InputError
from core.model import Prediction
from core.training.augmentation import View
from core.training.losses import PAPER_WEIGHTS, Criterion, LossWeights, Targets, joint_mean, pelvis_row
from core.training.parametric import ParametricCriterion, ParametricWeights
from core.training.truth import BodySizes, TargetMaker, stacked
from tests.core.training.toy_people import toy_truth
from tests.toy import ToyBackbone, ToyBody

BODY = ToyBody()


def view(**changes: object) -> View:
    truth, _ = toy_truth(1)
    ones = np.ones((14, 1), np.float32)
    values = {
        "picture": np.zeros((224, 224, 3), np.uint8), "joints_crop": np.concatenate([truth.joints_crop[0], ones], 1),
        "joints_m": np.concatenate([truth.joints_m[0], ones], 1), "pose": None, "betas": None, "vertices_m": None, "camera": None,
        "crop_from_frame": np.eye(2, 3),
    }  # fmt: skip
    return View(**{**values, **changes})


@pytest.fixture
def maker() -> TargetMaker:
    return TargetMaker(BODY, ToyBackbone(), torch.device("cpu"))


def posed() -> View:
    return view(pose=np.array([0.0, 0.0, 0.5], np.float32), betas=np.array([0.2], np.float32))


def test_everybody_keeps_only_their_own_truth(maker: TargetMaker) -> None:
    """A person with parameters, one with an intermediate mesh, one with a camera and joints alone, in one batch."""
    mesh = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    nobody = view(joints_m=np.zeros((14, 4), np.float32), camera=np.array([0.9, 0.1, 0.2], np.float32))
    targets = maker.targets(stacked([posed(), view(vertices_m=mesh), nobody]))
    assert targets.has_mesh.tolist() == [1, 1, 0]
    assert targets.has_full.tolist() == [1, 0, 0]
    assert targets.has_parameters.tolist() == [1, 0, 0]
    assert targets.has_camera.tolist() == [0, 0, 1]
    assert targets.joint_confidence.sum(1).tolist() == [14, 14, 0]
    np.testing.assert_array_equal(targets.intermediate_m[1], mesh)
    cosine, sine = np.cos(0.5), np.sin(0.5)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    full = BODY.levels.template_m * 1.2 @ rotation.T
    full = full - BODY.pelvis(torch.from_numpy(full)[None].float())[0].numpy()
    np.testing.assert_allclose(targets.full_m[0], full, atol=1e-6)
    np.testing.assert_allclose(targets.intermediate_m[0], full[BODY.levels.intermediate_ids], atol=1e-6)
    assert (targets.full_m[1:] == 0).all()


def test_a_full_mesh_gives_the_intermediate_one(maker: TargetMaker) -> None:
    mesh = BODY.levels.template_m + np.array([0.3, -0.2, 4.0], np.float32)
    targets = maker.targets(stacked([view(vertices_m=mesh)]))
    assert targets.has_full.tolist() == [1]
    np.testing.assert_allclose(BODY.pelvis(targets.full_m), 0, atol=1e-6)
    np.testing.assert_array_equal(targets.intermediate_m[0], targets.full_m[0, BODY.levels.intermediate_ids])


def test_joints_are_centred_on_the_hips(maker: TargetMaker) -> None:
    person = view()
    person.joints_m[:, :3] += 5
    targets = maker.targets(stacked([person]))
    np.testing.assert_allclose(targets.joints_m[0, [2, 3]].mean(0), 0, atol=1e-5)


def test_what_nobody_knows_is_not_there(maker: TargetMaker) -> None:
    targets = maker.targets(stacked([view(), view()]))
    assert targets.full_m is None and targets.rotmats is None
    assert targets.has_mesh.tolist() == [0, 0]
    loss, terms = Criterion(BODY, replace(PAPER_WEIGHTS, vertices_full=25.0))(*prediction(2), targets)
    assert terms["vertices_intermediate"] == 0 and loss > 0


def prediction(count: int) -> tuple[Prediction]:
    random = torch.Generator().manual_seed(0)
    coarse, middle, full = (torch.randn(count, size, 3, generator=random) for size in (6, 12, 30))
    return (Prediction(torch.ones(count, 3), torch.randn(count, 14, 3, generator=random), (coarse, middle, full)),)


@pytest.mark.parametrize("changes", [{"pose": np.zeros(72)}, {"betas": np.zeros(10)}, {"vertices_m": np.zeros((6890, 3))}])
def test_mixed_bodies_are_refused(changes: dict) -> None:
    with pytest.raises(InputError, match="mixed bodies"):
        BodySizes.of(BODY).check(view(**changes), "somebody")


def test_the_pelvis_row_is_the_bodys_pelvis() -> None:
    vertices = torch.randn(2, 30, 3)
    torch.testing.assert_close(pelvis_row(BODY) @ vertices, BODY.pelvis(vertices))


def test_means_by_hand() -> None:
    """Two people, two joints, one number each. Confidences 1, 0.5 and 0, 0; the release counts joints of whom it counts at all."""
    errors = torch.tensor([[[2.0], [4.0]], [[8.0], [16.0]]])
    confidence = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    assert joint_mean(errors, confidence, "weighed") == pytest.approx((2 + 2) / 1.5)
    assert joint_mean(errors, confidence, "release") == pytest.approx((2 + 2) / 4)
    assert joint_mean(errors, confidence, "release", torch.tensor([True, False])) == pytest.approx((2 + 2) / 2)
    assert joint_mean(errors, None, "release") == pytest.approx(7.5)


def test_the_papers_total_by_hand() -> None:
    """The release's sum, written out plainly, on a batch in which one of two people has a mesh and one other 3D joints."""
    (said,) = prediction(2)
    random = torch.Generator().manual_seed(1)
    full = torch.randn(2, 30, 3, generator=random)
    full = full - BODY.pelvis(full)[:, None]
    true = Targets(
        intermediate_m=full[:, BODY.levels.intermediate_ids], joints_m=torch.randn(2, 14, 3, generator=random),
        joints_crop=torch.randn(2, 14, 2, generator=random), joint_visibility=(torch.rand(2, 14, generator=random) > 0.5).float(),
        camera=torch.zeros(2, 3), full_m=full, has_mesh=torch.tensor([1.0, 0.0]), has_full=torch.tensor([1.0, 0.0]),
        joint_confidence=torch.stack([torch.zeros(14), torch.rand(14, generator=random)]), has_camera=torch.zeros(2),
    )  # fmt: skip
    coarse, middle, fine = said.levels
    pelvis = BODY.pelvis(fine)[:, None]
    regressed = BODY.joints(fine) - pelvis
    hips = lambda joints: joints - (joints[:, 2:3] + joints[:, 3:4]) / 2  # noqa: E731
    rows = [list(BODY.levels.intermediate_ids).index(i) for i in BODY.levels.coarse_ids]
    loss_3d = sum(
        (true.joint_confidence[1, :, None] * (hips(joints)[1] - true.joints_m[1]).abs()).mean() for joints in (said.joints, regressed)
    )
    loss_vertices = (
        0.25 * (coarse[0] - pelvis[0] - true.intermediate_m[0, rows]).abs().mean()
        + 0.5 * (middle[0] - pelvis[0] - true.intermediate_m[0]).abs().mean()
        + 0.25 * (fine[0] - pelvis[0] - true.full_m[0]).abs().mean()
    )
    project = lambda joints: said.camera[:, None, :1] * (joints[..., :2] + said.camera[:, None, 1:])  # noqa: E731
    seen = true.joint_visibility[..., None]
    loss_2d = sum((seen * (project(joints) - true.joints_crop).abs()).mean() for joints in (hips(said.joints), regressed))
    total, _ = Criterion(BODY, PAPER_WEIGHTS)(said, true)
    assert total == pytest.approx(float(1000 * loss_3d + 100 * loss_vertices + 100 * loss_2d), rel=1e-5)


def test_parameters_that_are_right_cost_nothing_and_wrong_ones_do(maker: TargetMaker) -> None:
    targets = maker.targets(stacked([posed(), view()]))
    joints = BODY.joints(targets.full_m[:1])
    camera = torch.tensor([[0.8, 0.1, 0.0]] * 2)
    crop = camera[:1, None, :1] * (joints[..., :2] + camera[:1, None, 1:])
    targets = replace(
        targets, joints_m=torch.cat([joints, targets.joints_m[1:]]), joints_crop=torch.cat([crop, targets.joints_crop[1:]]),
        joint_confidence=torch.tensor([[1.0] * 14, [0.0] * 14]), joint_visibility=torch.tensor([[1.0] * 14, [0.0] * 14]),
    )  # fmt: skip
    weights = ParametricWeights(1.0, 1.0, 1.0, 1.0, 1.0)
    criterion = ParametricCriterion(BODY, weights, Criterion(BODY, LossWeights()))
    said = Prediction(camera, torch.zeros(2, 14, 3), (None, None, None), targets.rotmats.clone(), targets.shape.clone())
    loss, terms = criterion(said, targets)
    assert loss == pytest.approx(0, abs=1e-5)
    assert set(terms) == set(vars(weights))
    shape = (targets.shape + 0.1).requires_grad_()
    loss, terms = criterion(replace(said, betas=shape), targets)
    assert float(terms["shape"]) == pytest.approx(0.01, rel=1e-4)
    assert min(float(terms[name]) for name in ("parametric_joints", "parametric_projection", "parametric_vertices")) > 0
    loss.backward()
    assert shape.grad[0].abs() > 0 and shape.grad[1] == 0  # of the second person nothing is known


def test_a_batch_without_parameters_gives_a_gradient_of_nothing(maker: TargetMaker) -> None:
    shape = torch.zeros(1, 1, requires_grad=True)
    said = Prediction(torch.ones(1, 3), torch.zeros(1, 14, 3), (None, None, None), torch.eye(3).view(1, 1, 3, 3), shape)
    loss, terms = ParametricCriterion(BODY, ParametricWeights(rotations=1.0), Criterion(BODY, LossWeights()))(
        said, maker.targets(stacked([view()]))
    )
    loss.backward()
    assert float(loss) == 0 and terms == {} and shape.grad.tolist() == [[0.0]]


def test_surface_losses_need_triangles() -> None:
    levels = replace(BODY.levels, intermediate_faces=np.zeros((0, 3), np.int32))
    with pytest.raises(InputError, match="no triangles"):
        Criterion(replace(BODY, levels=levels), replace(PAPER_WEIGHTS, edges=500.0))
