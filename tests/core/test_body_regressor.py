import numpy as np
import pytest
import torch

from core.bodies import load_body
from core.body_regressor import ROTATIONS, BodyRegressor
from core.geometry import rotmats_from_rotvecs
from core.model import build_model


@pytest.mark.parametrize("name", list(ROTATIONS))
def test_every_way_gives_rotations_and_keeps_rotations(name: str) -> None:
    matrices = torch.randn(50, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotations = ROTATIONS[name](matrices)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(50, dtype=torch.float64))
    true = rotmats_from_rotvecs(torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    torch.testing.assert_close(ROTATIONS[name](true), true)


def test_nearest_is_nearest_and_the_releases_way_is_not_for_reflections() -> None:
    random = np.random.default_rng(0)
    matrices = torch.from_numpy(random.normal(size=(40, 3, 3)))
    nearest, released = ROTATIONS["nearest"](matrices), ROTATIONS["released"](matrices)
    gap = lambda rotations: (rotations - matrices).square().sum((1, 2))  # noqa: E731
    mirrored = torch.linalg.det(matrices) < 0
    torch.testing.assert_close(nearest[~mirrored], released[~mirrored])
    assert (gap(nearest)[mirrored] < gap(released)[mirrored]).all()
    others = rotmats_from_rotvecs(torch.from_numpy(random.normal(size=(200, 1, 3)) * 2))
    assert (gap(nearest)[None] <= (others - matrices).square().sum((2, 3)) + 1e-12).all()
    u, _, vh = torch.linalg.svd(matrices)
    slow = torch.stack([a @ b * torch.linalg.det(a @ b) for a, b in zip(u, vh, strict=True)])  # one by one, as the release does
    torch.testing.assert_close(released, slow)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", list(ROTATIONS))
def test_rotations_have_the_gradient_of_small_steps(name: str, mirrored: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    stretch = torch.tensor([1.5, 1.0, -0.4 if mirrored else 0.4], dtype=torch.float64)
    turns = rotmats_from_rotvecs(torch.randn(2, 6, 3, generator=generator, dtype=torch.float64))
    matrices = (turns[0] * stretch @ turns[1].mT).requires_grad_()
    assert torch.autograd.gradcheck(ROTATIONS[name], matrices)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("name", list(ROTATIONS))
def test_the_gradient_is_exact_at_rotations(name: str, noise: float) -> None:
    """Where training leads, and where singular values are equal. There the nearest rotation forgets the symmetric part of a step."""
    generator = torch.Generator().manual_seed(3)
    rotations = torch.cat([torch.eye(3)[None], rotmats_from_rotvecs(torch.randn(20, 3, generator=generator))])
    matrices = (rotations + noise * torch.randn(21, 3, 3, generator=generator)).requires_grad_()
    wanted = torch.randn(21, 3, 3, generator=generator)
    (ROTATIONS[name](matrices) * wanted).sum().backward()
    exact = (wanted - rotations @ wanted.mT @ rotations) / 2
    torch.testing.assert_close(matrices.grad, exact, atol=1e-6 + 10 * noise, rtol=0)
    if not noise:
        assert torch.autograd.gradcheck(ROTATIONS[name], rotations.double().requires_grad_())


@pytest.mark.parametrize("name", list(ROTATIONS))
def test_the_gradient_is_finite_where_rotations_jump(name: str) -> None:
    matrices = torch.stack([torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 0.0, 0.0])), -torch.eye(3)]).requires_grad_()
    ROTATIONS[name](matrices)[..., 0].sum().backward()
    assert matrices.grad.isfinite().all()


def test_the_mesh_does_not_learn_from_the_regressor() -> None:
    regressor = BodyRegressor(7, 2, 3, "nearest")
    mesh = torch.randn(4, 7, 3, requires_grad=True)
    rotmats, shape = regressor(mesh)
    assert (rotmats.shape, shape.shape) == ((4, 2, 3, 3), (4, 3))
    (rotmats[..., 0].sum() + shape.sum()).backward()
    assert mesh.grad is None
    assert all(parameter.grad is not None for parameter in regressor.parameters())


def test_any_body_may_have_one() -> None:
    body = load_body("anny")
    model = build_model("fastmetro-xs-blazepose", parametric=True).eval()
    with torch.no_grad():
        prediction = model(torch.rand(1, 3, 224, 224))
        vertices = body.vertices(prediction.rotmats, prediction.betas)
    assert prediction.rotmats.shape == (1, body.num_bones, 3, 3)
    assert prediction.betas.shape == (1, body.num_shape)
    assert vertices.shape == prediction.levels[2].shape
    assert build_model("fastmetro-xs-blazepose").body_regressor is None
