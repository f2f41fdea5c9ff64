from dataclasses import replace

import pytest
import torch

from core.backbones import BACKBONES
from core.backbones.movenet import EVIDENCE_SCALE, evidence
from core.bodies import load_body
from core.config import VARIANTS, ModelConfig
from core.errors import InputError
from core.feedback import REACHES, fitted_camera, offsets_near
from core.geometry import project
from core.joints import KEYPOINT_NAMES, LIMB_JOINT_NAMES
from core.model import FastMETRO, assemble
from tests.toy import ToyBackbone, ToyBody, ToySeer

SMALL = ModelConfig("small", "toy", "toy", widths=(32, 16), num_heads=4, feedback=2)


def heat_at(places: torch.Tensor) -> torch.Tensor:
    """(B, K, 2) crop units -> heat maps (B, K, 56, 56), one hot pixel each, 0.9."""
    pixels = ((places + 1) * 28).long().clamp(0, 55)
    heat = torch.zeros(*places.shape[:2], 56, 56)
    batch, keypoint = torch.meshgrid(torch.arange(len(places)), torch.arange(places.shape[1]), indexing="ij")
    heat[batch, keypoint, pixels[..., 1], pixels[..., 0]] = 0.9
    return heat


def test_offsets_lead_to_the_keypoint_as_far_as_they_reach() -> None:
    torch.manual_seed(0)
    true = torch.rand(3, 4, 2) * 1.6 - 0.8
    expected = true + torch.tensor([0.05, -0.1])
    offsets, sure = offsets_near(evidence(heat_at(true)), expected)
    assert (offsets[:, -1] - torch.tensor([-0.05, 0.1])).abs().max() < 0.025  # a pixel of the heat map is 1/28
    assert sure[:, -1].min() > 0.95
    far = true + torch.tensor([0.0, 0.5])
    offsets, sure = offsets_near(evidence(heat_at(true)), far)
    assert sure[:, 0].max() < 1e-4, "a seventh of that away nothing is seen"
    assert offsets[:, 0].abs().max() < 1e-3
    assert sure[:, -1].min() > 0.9


def test_the_nearest_of_two_people_is_followed() -> None:
    mine, other = torch.tensor([[[-0.5, 0.0]]]), torch.tensor([[[0.5, 0.0]]])
    both = torch.maximum(heat_at(mine), heat_at(other))
    offsets, _ = offsets_near(evidence(both), mine + 0.1)
    for reach in range(len(REACHES) - 1):
        if REACHES[reach] > 0.1:
            assert offsets[0, reach, 0].tolist() == pytest.approx([-0.1, -0.1], abs=0.03)


def test_without_evidence_there_is_no_offset() -> None:
    offsets, sure = offsets_near(torch.zeros(2, 12, 7, 7), torch.rand(2, 4, 2))
    assert offsets.abs().max() == 0
    assert sure.abs().max() == 0


def test_the_fitted_camera_zooms_and_shifts_as_the_offsets_do() -> None:
    places = torch.rand(2, 12, 2) * 2 - 1
    wanted = torch.tensor([[0.1, 0.2, -0.1], [-0.2, 0.0, 0.05]])
    offsets = wanted[:, :1, None] * places + wanted[:, None, 1:]
    torch.testing.assert_close(fitted_camera(places, offsets, torch.full((2, 12), 1e4)), wanted, atol=1e-3, rtol=0)
    assert fitted_camera(places, offsets, torch.zeros(2, 12)).abs().max() == 0


def test_it_begins_by_changing_nothing() -> None:
    torch.manual_seed(0)
    model = FastMETRO(SMALL, ToySeer(), ToyBody()).eval()
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        corrected = model(images)
        model.feedback = None
        plain = model(images)
    torch.testing.assert_close(corrected.camera, plain.camera, atol=0, rtol=0)
    torch.testing.assert_close(corrected.levels[0], plain.levels[0], atol=0, rtol=0)


def test_the_camera_follows_keypoints() -> None:
    """A body seen where it is not expected: with the refit alone switched on, the camera goes there."""
    torch.manual_seed(0)
    config = VARIANTS["fastmetro-xs-movenet-thunder"]
    feedback = assemble(config, load_body("anny")).feedback.eval()
    assert feedback is not None
    body = load_body("anny")
    full = torch.from_numpy(body.levels.template_m)[None].float()
    joints, coarse = body.joints(full) - body.pelvis(full)[:, None], full[:, body.levels.coarse_ids]
    camera, true = torch.tensor([[0.8, 0.05, -0.1]]), torch.tensor([[0.9, 0.0, 0.0]])
    order = [LIMB_JOINT_NAMES.index(name) if name in LIMB_JOINT_NAMES else 0 for name in KEYPOINT_NAMES]
    features = torch.zeros(1, BACKBONES[config.backbone]().channels, 7, 7)
    features[:, feedback.source.first :] = EVIDENCE_SCALE * evidence(heat_at(project(joints, true)[:, order]))
    image, position, tokens = torch.zeros(1, 49, 64), torch.zeros(49, 64), torch.zeros(1, 14 + coarse.shape[1], 64)
    with torch.no_grad():
        feedback.refit.fill_(1.0)
        feedback.rounds = 6
        found, same_joints, same_coarse = feedback(features, image, position, tokens, None, camera, joints, coarse)
    error = (project(joints, found) - project(joints, true))[:, :12].abs().mean()
    assert error < 0.15 * (project(joints, camera) - project(joints, true))[:, :12].abs().mean()
    torch.testing.assert_close(same_joints, joints)
    torch.testing.assert_close(same_coarse, coarse)


def test_corrections_are_float32_under_autocast() -> None:
    """Those that follow the evidence do not depend on the tokens, and so on nothing that autocast may round."""
    torch.manual_seed(0)
    feedback = FastMETRO(SMALL, ToySeer(), ToyBody()).feedback.eval()
    for last in (feedback.follow, feedback.camera[-1]):
        torch.nn.init.normal_(last.weight)
    joints, coarse, camera = torch.rand(2, 14, 3) - 0.5, torch.rand(2, 6, 3) - 0.5, torch.tensor([[0.9, 0.0, 0.1]] * 2)
    features, image, tokens = torch.rand(2, 59, 7, 7), torch.rand(2, 49, 16), torch.rand(2, 20, 16)
    with torch.inference_mode():
        exact = feedback(features, image, torch.zeros(49, 16), tokens, None, camera, joints, coarse)
        with torch.autocast("cpu", torch.bfloat16):
            said = feedback(features, image, torch.zeros(49, 16), tokens, None, camera, joints, coarse)
    torch.testing.assert_close(said, exact, atol=0, rtol=0)
    assert (said[2] - coarse).abs().max() > 0.01


@pytest.mark.parametrize(("config", "said"), [
    (SMALL, "got feedback 2, but its backbone 'toy' sees no keypoints"),
    (replace(SMALL, camera="decoder"), "expected it in the encoder"),
])  # fmt: skip
def test_what_cannot_have_feedback_says_so(config: ModelConfig, said: str) -> None:
    with pytest.raises(InputError, match=said):
        FastMETRO(config, ToyBackbone(), ToyBody())


def test_rounds_below_none_are_refused() -> None:
    with pytest.raises(InputError, match="got feedback -1, expected 0 or more"):
        replace(SMALL, feedback=-1)
