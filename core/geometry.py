"""Rotations, cameras, projection, Procrustes. Axes: x right, y down, z away."""

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from core.joints import HIPS, indices
from core.lens import default_focal_px  # noqa: F401 - a part of this module for all that do not mind torch
from core.types import CROP_SIZE_PX

Points = TypeVar("Points", Tensor, np.ndarray)

HALF_CROP_PX = CROP_SIZE_PX / 2
MIN_CAMERA_SCALE = 0.01
"""A weak camera below this (a person of under a hundredth of the crop) has no usable distance and counts as this."""
MIN_DEPTH_M = 0.05


def hip_centred(joints: Points) -> Points:
    """(..., 14, 3) with the middle of the hips at 0. Slices, since a list of numbers would make a GPU wait for its copy."""
    right, left = (joints[..., hip : hip + 1, :] for hip in HIPS)
    return joints - (right + left) / 2


def body_rotations(joints_m: np.ndarray) -> np.ndarray:
    """The torso's frame from hips and shoulders: (B, 14, 3) -> (B, 3, 3), columns left, up, front."""
    right_hip, left_hip, right_shoulder, left_shoulder = (joints_m[:, i] for i in indices(("R_Hip", "L_Hip", "R_Shoulder", "L_Shoulder")))
    up = (right_shoulder + left_shoulder - right_hip - left_hip) / 2
    up = up / np.maximum(np.linalg.norm(up, axis=-1, keepdims=True), 1e-9)
    left = left_hip - right_hip + left_shoulder - right_shoulder
    left = left - (left * up).sum(axis=-1, keepdims=True) * up
    left = left / np.maximum(np.linalg.norm(left, axis=-1, keepdims=True), 1e-9)
    return np.stack([left, up, np.cross(left, up)], axis=-1)


def turned_deg(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angle between rotations (..., 3, 3): (...), degrees, 0..180."""
    cosine = (np.trace(np.swapaxes(first, -1, -2) @ second, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def project(points_m: Tensor, camera: Tensor) -> Tensor:
    """Weak-perspective projection into the crop.

    points_m: (B, N, 3) metres, pelvis at 0
    camera:   (B, 3) scale, tx, ty
    returns:  (B, N, 2) crop units in [-1, 1]: scale * (xy + t)
    Source: FastMETRO supplement, section A; the camera of Kanazawa et al. 2018
    """
    return camera[:, None, :1] * (points_m[..., :2] + camera[:, None, 1:])


def crop_px_from_unit(unit: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Crop units in [-1, 1] -> crop pixels in [0, 224]."""
    return (unit + 1) * HALF_CROP_PX


def weak_to_frame_px(points_m: np.ndarray, camera: np.ndarray, frame_from_crop: np.ndarray) -> np.ndarray:
    """Weak-perspective projection into the frame. points_m: (N, 3); camera: (3,); frame_from_crop: (2, 3); returns (N, 2) pixels."""
    unit = camera[0] * (points_m[:, :2] + camera[1:])
    return crop_px_from_unit(unit) @ frame_from_crop[:, :2].T + frame_from_crop[:, 2]


def project_pinhole(points_m: np.ndarray, focal_px: float, principal_px: tuple[float, float] | np.ndarray) -> np.ndarray:
    """Perspective projection. points_m: (N, 3) in front of the camera (z > 0); returns (N, 2) pixels."""
    return focal_px * points_m[:, :2] / points_m[:, 2:] + np.asarray(principal_px)


def translation_from_weak_camera(
    points_m: np.ndarray,
    camera: np.ndarray,
    frame_from_crop: np.ndarray,
    focal_px: float,
    principal_px: tuple[float, float] | np.ndarray,
    rotation: np.ndarray | None = None,
    num_steps: int = 4,
) -> np.ndarray:
    """Where the person stands: t such that the pinhole projection of points_m + t matches the weak-perspective one best.

    points_m: (N, 3) metres, pelvis at 0; camera: (3,) of the crop; frame_from_crop: (2, 3)
    rotation: (3, 3) that turns points_m into the frame camera's axes, see `rotation_towards`; none by default
    returns:  (3,) float64 metres. Exact for points at the pelvis' depth; least squares over the points for the rest
    (Gauss-Newton from the closed form tz = focal / pixels per metre).
    """
    points = np.asarray(points_m, np.float64)
    camera = np.asarray(camera, np.float64)
    camera = np.concatenate([np.maximum(camera[:1], MIN_CAMERA_SCALE), camera[1:]])
    principal = np.asarray(principal_px, np.float64)
    target_px = weak_to_frame_px(points, camera, frame_from_crop)
    points = points if rotation is None else points @ np.asarray(rotation).T
    pelvis_px = weak_to_frame_px(np.zeros((1, 3)), camera, frame_from_crop)[0]
    px_per_m = camera[0] * HALF_CROP_PX * np.hypot(*frame_from_crop[:, 0])
    depth_m = focal_px / px_per_m
    translation = np.array([*((pelvis_px - principal) * depth_m / focal_px), depth_m])
    return translation_onto(points, target_px, focal_px, principal, translation, num_steps)


def translation_onto(
    points_m: np.ndarray,
    target_px: np.ndarray,
    focal_px: float,
    principal_px: tuple[float, float] | np.ndarray,
    start_m: np.ndarray,
    num_steps: int = 2,
) -> np.ndarray:
    """The translation (3,) that brings the pinhole projection of points_m (N, 3) nearest to target_px (N, 2), by Gauss-Newton.

    start_m: (3,) where to begin. All points stay at least MIN_DEPTH_M before the camera.
    """
    principal = np.asarray(principal_px, np.float64)
    translation = np.asarray(start_m, np.float64).copy()
    nearest_m = MIN_DEPTH_M - min(points_m[:, 2].min(initial=0.0), 0.0)
    translation[2] = max(translation[2], nearest_m)
    for _ in range(num_steps if len(points_m) else 0):
        translation = translation - _reprojection_step(points_m + translation, target_px, focal_px, principal)
        translation[2] = max(translation[2], nearest_m)
    return translation


def rotation_towards(point_px: np.ndarray, focal_px: float, principal_px: np.ndarray | tuple[float, float]) -> np.ndarray:
    """(3, 3) smallest rotation from the optical axis to the ray through a pixel (2,).

    A network that sees a crop speaks as if its camera looked straight at the person; this turns what it says into the
    axes of the frame's camera.
    """
    x, y = (np.asarray(point_px, np.float64) - np.asarray(principal_px, np.float64)) / focal_px
    ray = np.array([x, y, 1.0]) / np.sqrt(x * x + y * y + 1)
    skew = np.array([[0, 0, ray[0]], [0, 0, ray[1]], [-ray[0], -ray[1], 0]])  # of the axis (0, 0, 1) x ray
    return np.eye(3) + skew + skew @ skew / (1 + ray[2])


def _reprojection_step(points_m: np.ndarray, target_px: np.ndarray, focal_px: float, principal_px: np.ndarray) -> np.ndarray:
    """One Gauss-Newton step (3,) on the reprojection error of points that move together."""
    error = (project_pinhole(points_m, focal_px, principal_px) - target_px).reshape(-1)
    inverse_depth = focal_px / points_m[:, 2]
    jacobian = np.zeros((len(points_m), 2, 3))
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = inverse_depth
    jacobian[:, :, 2] = -inverse_depth[:, None] * points_m[:, :2] / points_m[:, 2:]
    return np.linalg.lstsq(jacobian.reshape(-1, 3), error, rcond=None)[0]


def rotmats_from_rotvecs(rotvecs: Tensor) -> Tensor:
    """(..., 3) axis times angle in radians -> (..., 3, 3), by Rodrigues' formula; smooth at the zero rotation."""
    angle = rotvecs.square().sum(-1).clamp(min=1e-16).sqrt()[..., None, None]
    x, y, z = rotvecs.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=rotvecs.dtype, device=rotvecs.device)
    sine = torch.sinc(angle / math.pi)
    half_sine = torch.sinc(angle / (2 * math.pi))
    return identity + sine * cross + 0.5 * half_sine.square() * (cross @ cross)


def nearest_rotations(matrices: Tensor) -> Tensor:
    """The rotations nearest to any (..., 3, 3) in the Frobenius norm. Source: Kabsch 1976; Levinson et al. 2020"""
    return NearestOrthogonal.apply(matrices, False)


def nearest_orthogonal(matrices: Tensor) -> Tensor:
    """The rotations or reflections nearest to any (..., 3, 3) in the Frobenius norm."""
    return NearestOrthogonal.apply(matrices, True)


class NearestOrthogonal(torch.autograd.Function):
    """U V^T of matrices M = U S V^T (..., 3, 3); where reflections are not wanted, the last column of such a U and its s are negated first.

    An SVD's own gradient divides by differences of singular values, and those of a rotation are all 1. The gradient of R = U V^T is
    U [(U^T G V - V^T G^T U) / (s_i + s_j)] V^T, with G the loss's gradient in R.
    Source: M = R P with the symmetric P = V S V^T, so that W = R^T dR is the skew matrix with R^T dM - dM^T R = W P + P W
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, reflections: bool) -> Tensor:
        """As the class says."""
        u, singular, vh = torch.linalg.svd(matrices)
        if not reflections:
            sign = torch.linalg.det(u @ vh)
            u = torch.cat([u[..., :2], u[..., 2:] * sign[..., None, None]], -1)
            singular = torch.cat([singular[..., :2], singular[..., 2:] * sign[..., None]], -1)
        ctx.save_for_backward(u, singular, vh)
        return u @ vh

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Finite also where the rotation jumps, at s_i + s_j = 0."""
        u, singular, vh = ctx.saved_tensors
        turn = u.mT @ gradient @ vh.mT
        sums = singular[..., :, None] + singular[..., None, :]
        return u @ ((turn - turn.mT) / sums.clamp(min=torch.finfo(sums.dtype).eps)) @ vh, None


def rotvecs_from_rotmats(rotmats: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3), angles in [0, pi]; by way of quaternions, so that half turns keep their axis."""
    m = rotmats
    diagonal = torch.diagonal(m, dim1=-2, dim2=-1)
    trace = diagonal.sum(-1, keepdim=True)
    # Four ways to write 4 * q_k * (w, x, y, z); the row whose own component is largest is the well-conditioned one.
    skew = torch.stack([m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1)
    symmetric = m + m.transpose(-1, -2) - torch.diag_embed(2 * diagonal) + torch.diag_embed(1 - trace + 2 * diagonal)
    rows = torch.cat([torch.cat([1 + trace, skew], -1)[..., None, :], torch.cat([skew[..., :, None], symmetric], -1)], -2)  # (..., 4, 4)
    best = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(-1)
    quaternion = torch.gather(rows, -2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = torch.nn.functional.normalize(quaternion, dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * torch.where(sine > 1e-8, angle / sine.clamp(min=1e-8), torch.full_like(sine, 2.0))


def procrustes_align(source: Tensor | np.ndarray, target: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """`source` after the similarity transform (scale, rotation without reflection, translation) that brings it nearest to `target`.

    source, target: (..., N, 3), both tensors or both arrays; returns the same kind and shape as `source`.
    Source: Umeyama 1991
    """
    if isinstance(source, np.ndarray):
        return procrustes_align(torch.from_numpy(source), torch.from_numpy(np.asarray(target))).numpy()
    source_mean, target_mean = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    x, y = source - source_mean, target - target_mean
    u, singular, vh = torch.linalg.svd(x.transpose(-1, -2) @ y)
    sign = torch.ones_like(singular)
    sign[..., -1] = torch.sign(torch.linalg.det(u @ vh))
    rotation = (u * sign[..., None, :]) @ vh
    variance = x.square().sum((-2, -1), keepdim=True).clamp(min=1e-12)
    scale = (singular * sign).sum(-1)[..., None, None] / variance
    return scale * x @ rotation + target_mean
