from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import core.body_fit
from core.bodies import load_body
from core.bodies.anny import AnnyBody, phenotype_products
from core.bodies.anny_rig import RIG_FILE, anny_fitter
from core.body_fit import BodyFitter
from core.errors import InputError
from core.fitters import fitter_for
from core.geometry import rotmats_from_rotvecs
from core.training.poses import PoseSampler

COUNT = 24
BODY = load_body("anny")
FITTER = fitter_for(BODY)


def people(count: int = COUNT, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Bone rotations, phenotypes and meshes (B, V, 3) of sampled people of all ages."""
    rotmats = PoseSampler(BODY, seed).sample(count).rotmats
    shapes = BODY.shape_bank[torch.linspace(0, len(BODY.shape_bank) - 1, count).long()]
    return rotmats, shapes, BODY.vertices(rotmats, shapes)


def distances_mm(first: Tensor, second: Tensor) -> Tensor:
    """(B, V, 3) twice -> (B,) mean distance after centring."""
    first, second = (points - points.mean(1, keepdim=True) for points in (first, second))
    return (first - second).norm(dim=-1).mean(1) * 1e3


def test_people_are_found_again_from_their_meshes() -> None:
    rotmats, _, meshes = people()
    fit = FITTER(meshes[:, FITTER.vertex_ids] + torch.tensor([3.0, -1.0, 7.0]), num_steps=6)
    errors = distances_mm(BODY.vertices(fit.rotmats, fit.shape), meshes)
    assert errors.median() < 7
    assert errors.max() < 25
    identity = torch.eye(3).expand_as(fit.rotmats)
    torch.testing.assert_close(fit.rotmats @ fit.rotmats.mT, identity, atol=1e-4, rtol=0)
    limbs = [BODY.bone_index(name) for name in ("upperleg01.L", "lowerleg01.R", "upperarm01.L", "lowerarm01.R")]
    cosine = ((fit.rotmats[:, limbs] @ rotmats[:, limbs].mT).diagonal(dim1=2, dim2=3).sum(-1) - 1) / 2
    assert torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).median() < 8


def test_steps_lead_to_the_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mesh that the rig itself can pose, no priors: only right derivatives of pose and shape get to 0."""
    for name in ("PRIOR_SHARE", "FLOOR_M2"):
        monkeypatch.setattr(core.body_fit, name, 0.0)
    monkeypatch.setattr(core.body_fit, "DAMPING_M2", 1e-9)
    rig = FITTER.rig
    generator = torch.Generator().manual_seed(0)
    turns = 0.3 * torch.randn(8, rig.freedoms.shape[1], generator=generator)
    local = rotmats_from_rotvecs((turns @ rig.freedoms.T).unflatten(1, (-1, 3)))
    shapes = torch.tensor([0.4, 0.8, 0.4, 0.6, 0.4, 0.4]) + 0.08 * torch.rand(8, 6, generator=generator)
    target = FITTER._posed(local, shapes).mT
    fit = FITTER(target, num_steps=12)
    assert fit.error_m.median() < 1e-5
    assert (fit.error_m < 3e-4).sum() >= 7  # one may end in another minimum
    assert FITTER(target, num_steps=1).error_m.min() > 0.02


def test_one_is_fitted_as_among_many_and_wherever_it_is() -> None:
    meshes = people()[2][:, FITTER.vertex_ids]
    together = FITTER(meshes)
    alone = FITTER(meshes[[5]] + torch.tensor([1.0, 2.0, -3.0]))
    torch.testing.assert_close(alone.rotmats[0], together.rotmats[5], atol=2e-3, rtol=0)
    torch.testing.assert_close(alone.shape[0], together.shape[5], atol=2e-3, rtol=0)
    assert FITTER(meshes[:0]).rotmats.shape == (0, BODY.num_bones, 3, 3)


def test_children_and_adults_keep_their_size() -> None:
    shapes = torch.tensor([[0.5, 0.05, 0.5, 0.5, 0.4, 0.5], [0.5, 0.3, 0.5, 0.5, 0.4, 0.5], [0.2, 0.8, 0.5, 0.5, 0.5, 0.5]])
    rotmats = people(3)[0]
    meshes = BODY.vertices(rotmats, shapes)
    fit = FITTER(meshes[:, FITTER.vertex_ids], num_steps=6)
    straight = torch.eye(3).expand_as(rotmats)
    found, true = (BODY.vertices(straight, shape)[..., 1] for shape in (fit.shape, shapes))
    heights = [(points.amax(1) - points.amin(1)) for points in (found, true)]
    torch.testing.assert_close(*heights, rtol=0.05, atol=0)


def test_rough_meshes_cost_little_and_bones_without_evidence_rest() -> None:
    """Errors as networks make them: limbs too short, wrong by centimetres, alike for whole body parts."""
    _, _, meshes = people()
    chosen = meshes[:, FITTER.vertex_ids]
    generator = torch.Generator().manual_seed(1)
    shares = BODY.skinning[torch.from_numpy(np.array(FITTER.vertex_ids))]
    middle = chosen.mean(1, keepdim=True)
    rough = middle + 0.93 * (chosen - middle) + shares @ (0.04 * torch.randn(COUNT, BODY.num_bones, 3, generator=generator))
    fit = FITTER(rough)
    posed = BODY.vertices(fit.rotmats, fit.shape)[:, FITTER.vertex_ids]
    assert distances_mm(posed, chosen).mean() < distances_mm(rough, chosen).mean() - 5
    resting = np.setdiff1d(np.arange(BODY.num_bones), FITTER.rig.bone_ids.numpy())
    torch.testing.assert_close(fit.rotmats[:, resting], FITTER.rig.rest_rotmats[resting].expand(COUNT, -1, -1, -1))
    spine = [BODY.bone_index(f"spine0{number}") for number in range(1, 6)]
    torch.testing.assert_close(fit.rotmats[:, spine], fit.rotmats[:, spine[:1]].expand(-1, 5, -1, -1), atol=1e-4, rtol=0)


def test_a_given_shape_is_kept_and_a_start_is_gone_on_from() -> None:
    _, shapes, meshes = people()
    chosen = meshes[:, FITTER.vertex_ids]
    free = FITTER(chosen)
    wanted = shapes.roll(1, 0)
    kept = FITTER(chosen, wanted, free, num_steps=1)
    torch.testing.assert_close(kept.shape, wanted)
    before = distances_mm(BODY.vertices(free.rotmats, wanted), meshes)
    after = distances_mm(BODY.vertices(kept.rotmats, wanted), meshes)
    assert after.mean() < before.mean()


@pytest.mark.parametrize("mesh", [torch.zeros(2, 431, 3), 5 * torch.randn(2, 431, 3, generator=torch.Generator().manual_seed(0))])
def test_no_body_at_all_still_gives_rotations(mesh: Tensor) -> None:
    fit = FITTER(mesh)
    assert fit.rotmats.isfinite().all()
    assert fit.shape.isfinite().all()
    torch.testing.assert_close(torch.linalg.det(fit.rotmats), torch.ones(2, BODY.num_bones), atol=1e-3, rtol=0)


def test_products_of_the_phenotype_are_those_of_the_mask() -> None:
    mask, _ = BODY.product_tables
    shapes = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.4
    low, counts = torch.tensor([0, -1 / 3, 0, 0, 0, 0]), [2, 5, 3, 3, 2, 2]
    position = (shapes.maximum(low).clamp(max=1) - low) / (1 - low)
    hats = [(1 - (position[:, [k]] * (count - 1) - torch.arange(count)).abs()).clamp(min=0) for k, count in enumerate(counts)]
    middle = torch.tensor([[0.0, 1.0, 0.0]]).expand(50, -1)
    values = torch.cat([torch.full((50, 3), 1 / 3), *hats, middle, middle], 1)[:, None]
    torch.testing.assert_close(phenotype_products(shapes, mask), torch.prod(values * mask + 1 - mask, dim=-1))


def test_the_shipped_rig_is_one_of_the_shipped_body() -> None:
    """Its rest pose, through its own low-rank shapes, is the body's."""
    rig, shapes = FITTER.rig, BODY.shape_bank[:20]
    local = torch.eye(3).expand(20, rig.num_moving, 3, 3)
    posed = BODY.vertices(rig.rest_rotmats.expand(20, -1, -1, -1), shapes)[:, FITTER.vertex_ids]
    assert distances_mm(FITTER._posed(local, shapes).mT, posed).mean() < 1.5


def test_a_missing_or_foreign_rig_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rig file .*not found; restore it with"):
        anny_fitter(BODY, tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(RIG_FILE.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        anny_fitter(BODY, tmp_path / "broken.safetensors")


def test_a_body_without_a_rig_has_no_fitter() -> None:
    class Other(AnnyBody):
        name = "other"

    assert fitter_for(Other()) is None
    assert isinstance(FITTER, BodyFitter)
    assert replace(FITTER.rig).num_moving == 26
