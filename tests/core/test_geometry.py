import math

import numpy as np
import pytest
import torch

from core.geometry import (
    crop_px_from_unit,
    default_focal_px,
    procrustes_align,
    project,
    project_pinhole,
    rotation_towards,
    rotmats_from_rotvecs,
    rotvecs_from_rotmats,
    translation_from_weak_camera,
    weak_to_frame_px,
)

FRAME_FROM_CROP = np.array([[1.7, 0.0, 210.0], [0.0, 1.7, 35.0]])
CAMERA = np.array([0.85, 0.1, -0.05])
PRINCIPAL_PX = (640.0, 360.0)


def random_rotmats(num: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(num, 3, 3, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r, dim1=1, dim2=2))[:, None]
    return q * torch.sign(torch.linalg.det(q))[:, None, None]


def test_frame_projection_is_crop_projection_placed_in_the_frame() -> None:
    points = np.random.default_rng(0).normal(0, 0.4, (9, 3))
    unit = project(torch.from_numpy(points)[None], torch.from_numpy(CAMERA)[None])[0].numpy()
    crop_px = crop_px_from_unit(unit)
    frame_px = np.pad(crop_px, ((0, 0), (0, 1)), constant_values=1.0) @ FRAME_FROM_CROP.T
    np.testing.assert_allclose(weak_to_frame_px(points, CAMERA, FRAME_FROM_CROP), frame_px, atol=1e-9)
    np.testing.assert_allclose(crop_px_from_unit(np.array([-1.0, 0.0, 1.0])), [0, 112, 224])


def test_translation_is_exact_at_the_depth_of_the_pelvis() -> None:
    points = np.random.default_rng(1).normal(0, 0.4, (14, 3)) * [1, 1, 0]
    focal_px = default_focal_px(1280, 720)
    translation = translation_from_weak_camera(points, CAMERA, FRAME_FROM_CROP, focal_px, PRINCIPAL_PX)
    reprojected = project_pinhole(points + translation, focal_px, PRINCIPAL_PX)
    np.testing.assert_allclose(reprojected, weak_to_frame_px(points, CAMERA, FRAME_FROM_CROP), atol=1e-6)
    assert translation[2] == pytest.approx(focal_px / (0.85 * 112 * 1.7))


def test_translation_reprojects_a_distant_body_within_a_pixel() -> None:
    points = np.random.default_rng(2).normal(0, 0.35, (200, 3)) * [1, 2, 0.4]
    frame_from_crop = np.array([[0.4, 0.0, 500.0], [0.0, 0.4, 300.0]])
    focal_px = default_focal_px(1280, 720)
    translation = translation_from_weak_camera(points, CAMERA, frame_from_crop, focal_px, PRINCIPAL_PX)
    error = project_pinhole(points + translation, focal_px, PRINCIPAL_PX) - weak_to_frame_px(points, CAMERA, frame_from_crop)
    assert np.linalg.norm(error, axis=1).mean() < 1.0


def test_translation_beats_the_closed_form_up_close() -> None:
    points = np.random.default_rng(3).normal(0, 0.35, (200, 3)) + np.array([0, 0, 0.3])
    focal_px = default_focal_px(1280, 720)
    target = weak_to_frame_px(points, CAMERA, FRAME_FROM_CROP)

    def error_px(steps: int) -> float:
        moved = points + translation_from_weak_camera(points, CAMERA, FRAME_FROM_CROP, focal_px, PRINCIPAL_PX, num_steps=steps)
        return float(np.square(project_pinhole(moved, focal_px, PRINCIPAL_PX) - target).sum())

    assert error_px(4) < 0.8 * error_px(0)
    assert error_px(4) == pytest.approx(error_px(12), rel=1e-3)


@pytest.mark.parametrize("scale", [-0.5, 0.0, 1e-9, 50.0])
def test_translation_of_a_senseless_camera_is_finite_and_in_front(scale: float) -> None:
    points = np.random.default_rng(4).normal(0, 0.35, (14, 3))
    camera = np.array([scale, 0.0, 0.0])
    translation = translation_from_weak_camera(points, camera, FRAME_FROM_CROP, 1000.0, PRINCIPAL_PX)
    assert np.isfinite(translation).all()
    assert (points[:, 2] + translation[2]).min() > 0


def test_rotations_there_and_back() -> None:
    rotmats = random_rotmats(500)
    rotvecs = rotvecs_from_rotmats(rotmats)
    torch.testing.assert_close(rotmats_from_rotvecs(rotvecs), rotmats, atol=1e-9, rtol=0)
    assert rotvecs.norm(dim=1).max() <= math.pi + 1e-9


@pytest.mark.parametrize("axis", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.6, 0.0, -0.8), (-0.6, -0.48, 0.64)])
@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.5, math.pi - 1e-6, math.pi])
def test_rotations_at_the_ends(axis: tuple[float, float, float], angle: float) -> None:
    rotvec = torch.tensor(axis, dtype=torch.float64) * angle
    back = rotmats_from_rotvecs(rotvecs_from_rotmats(rotmats_from_rotvecs(rotvec)))
    torch.testing.assert_close(back, rotmats_from_rotvecs(rotvec), atol=1e-7, rtol=0)


def test_quarter_turn_about_z_takes_x_to_y() -> None:
    turned = rotmats_from_rotvecs(torch.tensor([0.0, 0.0, math.pi / 2])) @ torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(turned, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_rotation_gradient_is_finite_at_zero() -> None:
    rotvecs = torch.zeros(2, 3, requires_grad=True)
    rotmats_from_rotvecs(rotvecs)[:, 0, 1].sum().backward()
    torch.testing.assert_close(rotvecs.grad, torch.tensor([[0.0, 0.0, -1.0]] * 2), atol=1e-6, rtol=0)


def test_procrustes_undoes_a_similarity() -> None:
    target = torch.randn(5, 14, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    source = 1.7 * target @ random_rotmats(5, seed=2) + torch.tensor([0.3, -2.0, 1.0])
    torch.testing.assert_close(procrustes_align(source, target), target, atol=1e-9, rtol=0)
    np.testing.assert_allclose(procrustes_align(source.numpy(), target.numpy()), target.numpy(), atol=1e-9)


def test_procrustes_does_not_mirror() -> None:
    target = torch.randn(3, 14, 3, generator=torch.Generator().manual_seed(3))
    mirrored = target * torch.tensor([-1.0, 1.0, 1.0])
    assert (procrustes_align(mirrored, target) - target).norm(dim=-1).mean() > 0.2


def test_a_turned_estimate_projects_where_the_crop_saw_it():
    """Somebody far from the middle: with the turn, pinhole and weak-perspective projections agree much better than without."""
    random = np.random.default_rng(0)
    points, camera = random.normal(0, (0.2, 0.5, 0.3), (40, 3)), np.array([0.8, 0.0, 0.0])
    focal, principal, frame_from_crop = 1200.0, (500.0, 500.0), np.array([[1.0, 0, 800.0], [0, 1.0, 750.0]])
    center = frame_from_crop @ np.array([112.0, 112.0, 1.0])
    turn = rotation_towards(center, focal, principal)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(project_pinhole(turn[None, :, 2], focal, principal)[0], center, atol=1e-9)
    np.testing.assert_allclose(rotation_towards(np.array(principal), focal, principal), np.eye(3), atol=1e-12)
    target = weak_to_frame_px(points, camera, frame_from_crop)

    def error_px(rotation: np.ndarray) -> float:
        translation = translation_from_weak_camera(points, camera, frame_from_crop, focal, principal, rotation)
        return float(np.abs(project_pinhole(points @ rotation.T + translation, focal, principal) - target).mean())

    assert error_px(turn) < 0.5 * error_px(np.eye(3))
