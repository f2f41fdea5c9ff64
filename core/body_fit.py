"""A body's own parameters from its mesh, by least squares: the bone rotations and the shape that pose the body onto the mesh.

Nothing is trained, so the same fit serves every network on that body. Some Gauss-Newton steps from a closed-form start, all people
of a batch at once, on the vertices of the coarse level. Bones that a mesh says little about (fingers, toes, face) rest, and what
is unlikely is pulled towards what is likely, as the statistics in the rig say.

A step is exact and cheap: turning bone k by a small w moves a vertex by w x m, where m is what the bone and its descendants carry
of the vertex, seen from the joint. So all sums of second order follow from one Gram matrix of the m, of what the shape moves, and
of what is left to explain.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from core.geometry import nearest_rotations, rotmats_from_rotvecs, rotvecs_from_rotmats

NUM_STEPS = 3
PRIOR_SHARE = 0.02
"""A pose or shape one standard deviation from the mean costs as much as this share of the mean squared distance that is left. Chosen
on predicted meshes, where from 0.01 to 0.1 the error against the truth changes by less than 2 mm."""
FLOOR_M2 = 2.5e-5
"""The mean squared distance counts as at least this, so that unlikely bodies stay unlikely on a perfect mesh."""
MAX_TURN_RAD, MAX_SHAPE_STEP, SHAPE_DIFFERENCE = 0.8, 0.3, 0.01
DAMPING_M2 = 1e-6
AXIS_WEIGHTS = (1.0, 1.0, 0.5)
"""Of squared distances along x, y and away from the camera: a network sees the first two, and guesses the third."""


@dataclass(frozen=True)
class Rig:
    """What the fit knows of a body: K moving bones, the V vertices that are fitted, T bones that carry each, and what is likely.

    All tensors; lengths in metres, the body at rest in camera axes. A carried vertex is given times its weight.

    bone_ids:       (K,) moving bones among the J of the body, parents first; parents: (K,) index among the moving, -1 for the root
    rest_rotmats:   (J, 3, 3) rotations of all bones when none has moved; the others keep theirs
    bone_of, weights: (T, V) moving bones that carry a vertex, and by which share; K and 0 where there are fewer
    basis_mean, basis: (P,) and (R, P), P = 3TV + 3K: carried vertices at rest (3, T, V), then joints of the moving bones (K, 3), as an
                    affine function of the R coefficients of a shape
    joints:         (N, V) rows sum to 1: joints made of the vertices, which together count as much as the vertices do
    regions:        (A, V) rows sum to 1: where the rotation of an anchor shows; anchors_above: (A,) the anchor it is turned against
    spread:         (A, K) 1 for the bones that share that turn; the first anchor is the root, and itself above
    freedoms:       (3K, D) a column turns one or more moving bones about axes of their own
    pose_mean, pose_precision: (D,), (D, D) of the turns, as their first bone has them
    shape_mean, shape_precision: (S,), (S, S); shape_range: (2, S) lowest and highest
    starts:         (G, S) shapes, of which the best fitting is the start
    """

    bone_ids: Tensor
    parents: Tensor
    rest_rotmats: Tensor
    bone_of: Tensor
    weights: Tensor
    basis_mean: Tensor
    basis: Tensor
    joints: Tensor
    regions: Tensor
    anchors_above: Tensor
    spread: Tensor
    freedoms: Tensor
    pose_mean: Tensor
    pose_precision: Tensor
    shape_mean: Tensor
    shape_precision: Tensor
    shape_range: Tensor
    starts: Tensor

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Rig":
        """The inverse of `tensors`, from any kinds of numbers; KeyError when something is missing."""
        found = {entry.name: tensors[entry.name] for entry in fields(cls)}
        return cls(**{name: tensor.float() if tensor.is_floating_point() else tensor.long() for name, tensor in found.items()})

    def tensors(self) -> dict[str, Tensor]:
        """All fields by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @property
    def num_moving(self) -> int:
        """K."""
        return len(self.bone_ids)

    @cached_property
    def ancestors(self) -> Tensor:
        """(K, K) 1 where the column's bone is the row's or above it."""
        table = torch.eye(self.num_moving)
        for bone, parent in enumerate(self.parents.tolist()):
            if parent >= 0:
                table[bone] += table[parent]
        return table

    @cached_property
    def parent_list(self) -> list[int]:
        """`parents` as numbers."""
        return self.parents.tolist()

    @cached_property
    def places(self) -> Tensor:
        """(3, T, V) where the coordinates of carried vertices lie in a flat table (K + 1, 3, V); the last row takes what is not there."""
        num_vertices = self.weights.shape[1]
        axes = torch.arange(3)[:, None, None]
        return (self.bone_of * 3 + axes) * num_vertices + torch.arange(num_vertices)

    @cached_property
    def carriers(self) -> tuple[Tensor, Tensor]:
        """(K, TV) 1 where a bone carries a vertex: spreads what bones have over what they carry; and the same times the weights."""
        there = torch.zeros(self.num_moving + 1, self.weights.numel()).scatter_(0, self.bone_of.flatten()[None], 1.0)[:-1]
        return there, there * self.weights.flatten()

    @cached_property
    def carried(self) -> Tensor:
        """(K, V) share of each vertex that a bone and its descendants carry."""
        table = torch.zeros(self.num_moving + 1, self.weights.shape[1]).scatter_(0, self.bone_of, self.weights)
        return self.ancestors.T @ table[:-1]

    @cached_property
    def measures(self) -> Tensor:
        """(3K, D) what reads a freedom's turn from the rotation vectors of the bones: its axis at its first bone."""
        by_bone = self.freedoms.view(self.num_moving, 3, -1)
        moved = by_bone.abs().sum(1) > 0
        first = moved & (moved.long().cumsum(0) == 1)
        return (by_bone * first[:, None]).flatten(0, 1)


@dataclass(frozen=True)
class Fit:
    """Parameters that pose the body onto a mesh.

    rotmats: (B, J, 3, 3) of each bone relative to its parent, camera axes; shape: (B, S)
    error_m: (B,) root mean square distance of vertices and joints, as they are weighed, before the last step
    """

    rotmats: Tensor
    shape: Tensor
    error_m: Tensor


class BodyFitter:
    """Meshes -> Fit, for the body of a rig, on the CPU.

    vertex_ids: (V,) the full mesh's vertices that are fitted; coefficients: shapes (B, S) -> (B, R), as the rig's basis wants them
    """

    def __init__(self, rig: Rig, vertex_ids: np.ndarray, coefficients: Callable[[Tensor], Tensor]) -> None:
        self.rig, self.vertex_ids, self.coefficients = rig, vertex_ids, coefficients
        rest = self._rest(rig.starts.mean(0, keepdim=True))[0].sum(2)  # (1, 3, V)
        weights = torch.tensor(AXIS_WEIGHTS)
        turn = _levi_civita()  # (w x a)_i = turn_ipq w_p a_q
        self._sizes = torch.diag(weights).flatten()  # a_q b_s -> a.b
        self._spins = (
            torch.einsum("i,ipq,irs->qspr", weights, turn, turn).flatten(2).flatten(0, 1)
        )  # a_q b_s -> (w x a).(u x b), for w_p u_r
        self._crosses = torch.einsum("i,ipq->qip", weights, turn).flatten(0, 1)  # a_q b_i -> (w x a).b, for w_p
        self._joint_rows = rig.joints.T * (rig.joints.shape[1] / len(rig.joints)) ** 0.5
        self._templates = (rig.regions[:, None] * (rest - (rest @ rig.regions.T).mT[0, :, :, None])).flatten(0, 1)  # (3A, V)

    @cached_property
    def shape_deviation(self) -> Tensor:
        """(S,) standard deviation of each value of the shape in the population."""
        return torch.linalg.inv(self.rig.shape_precision).diagonal().sqrt()

    @torch.inference_mode()
    def __call__(self, vertices: Tensor, shape: Tensor | None = None, start: Fit | None = None, num_steps: int = NUM_STEPS) -> Fit:
        """Fit. vertices: (B, V, 3) float32 in metres, rows of `vertex_ids`, anywhere in space.

        shape: (B, S) to keep, None to fit it as well; start: go on from there instead of from the closed form
        """
        rig, target = self.rig, vertices.mT
        local = self._anchored(target) if start is None else start.rotmats[:, rig.bone_ids]
        shapes = shape if shape is not None else start.shape if start is not None else self._start_shape(target, local)
        squared_m2 = target.new_zeros(len(target))
        for _ in range(num_steps):
            turn, grow, squared_m2 = self._step(target, local, shapes, fixed=shape is not None)
            local = local @ rotmats_from_rotvecs((turn.clamp(-MAX_TURN_RAD, MAX_TURN_RAD) @ rig.freedoms.T).unflatten(1, (-1, 3)))
            shapes = (shapes + grow.clamp(-MAX_SHAPE_STEP, MAX_SHAPE_STEP)).clamp(*rig.shape_range)
        rotmats = rig.rest_rotmats.repeat(len(target), 1, 1, 1)
        rotmats[:, rig.bone_ids] = local
        return Fit(rotmats, shapes, (squared_m2.clamp(min=0) / 2).sqrt())

    def _anchored(self, target: Tensor) -> Tensor:
        """(B, K, 3, 3) rotations of the anchors, each by Procrustes on its region, shared out among the bones between them."""
        rig = self.rig
        moments = (target @ self._templates.T).unflatten(2, (-1, 3)).transpose(1, 2)  # (B, A, 3, 3)
        turned = nearest_rotations(moments)
        turns = rotvecs_from_rotmats(turned[:, rig.anchors_above].mT @ turned) / rig.spread.sum(1)[:, None]
        local = rotmats_from_rotvecs(rig.spread.T @ turns)
        local[:, 0] = turned[:, 0]
        return local

    def _start_shape(self, target: Tensor, local: Tensor) -> Tensor:
        """(B, S) the best fitting of the start shapes."""
        carried, joints = self._rest(self.rig.starts)
        rotations = self._world(local)[:, None]
        posed = self._moved(rotations, self._moved_joints(rotations, joints)[1], carried).sum(3)  # (B, G, 3, V)
        left = target[:, None] - posed
        return self.rig.starts[(left - left.mean(3, keepdim=True)).square().sum((2, 3)).argmin(1)]

    def _step(self, target: Tensor, local: Tensor, shapes: Tensor, fixed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """One Gauss-Newton step: (B, D) turns, (B, S) changes of the shape, and (B,) mean squared distance before it.

        Where the body stands is solved for on the way.
        """
        rig, (count, _, num_vertices) = self.rig, target.shape
        values, slopes = self._shaped(shapes, fixed)
        (carried, joints), rotations = self._split(values), self._world(local)
        placed, shifts = self._moved_joints(rotations, joints)
        posed = self._moved(rotations, shifts, carried)
        table = posed.new_zeros(count, (rig.num_moving + 1) * 3 * num_vertices)
        table[:, rig.places.flatten()] = posed.flatten(1)
        table = table.view(count, rig.num_moving + 1, 3, num_vertices)[:, :-1]
        turned = (rig.ancestors.T @ table.flatten(2)).view_as(table) - placed[..., None] * rig.carried[:, None]
        rows = [turned.flatten(1, 2), target - posed.sum(2)]
        if not fixed:
            carried, joints = self._split(slopes)
            grown = self._moved(rotations[:, None], self._moved_joints(rotations[:, None], joints)[1], carried).sum(3)
            rows.insert(1, grown.flatten(1, 2))
        rows = torch.cat(rows, 1)
        rows = rows - rows.mean(2, keepdim=True)  # centred: each column with the translation that suits it best
        rows = torch.cat([rows, rows @ self._joint_rows], 2)
        gram = (rows @ rows.mT / num_vertices).unflatten(2, (-1, 3)).unflatten(1, (-1, 3))  # (B, N, 3, N, 3)
        return self._solved(gram, rotations, local, shapes)

    def _solved(self, gram: Tensor, rotations: Tensor, local: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turns and changes of the shape from the normal equations, with the priors' part in them."""
        rig, moving = self.rig, self.rig.num_moving
        num_grown = gram.shape[1] - moving - 1
        pairs = gram.transpose(2, 3).flatten(3)  # (B, N, N, 9)
        traces = pairs @ self._sizes  # (B, N, N)
        spin = (pairs[:, :moving, :moving] @ self._spins).unflatten(3, (3, 3)).transpose(2, 3)  # (B, K, 3, K, 3)
        cross = (pairs[:, :moving, moving:] @ self._crosses).transpose(2, 3)  # (B, K, 3, S + 1)
        axes = (rotations @ rig.freedoms.unflatten(0, (-1, 3))).flatten(1, 2)  # (B, 3K, D)
        spin = axes.mT @ spin.flatten(3).flatten(1, 2) @ axes
        cross = axes.mT @ cross.flatten(1, 2)  # (B, D, S + 1)
        weight = PRIOR_SHARE * traces[:, -1, -1, None].clamp(min=FLOOR_M2)
        pose = _short_rotvecs(local).flatten(1) @ rig.measures
        spin = spin + weight[..., None] * rig.pose_precision
        wanted = cross[..., -1] - weight * ((pose - rig.pose_mean) @ rig.pose_precision)
        if num_grown:
            grown = traces[:, moving:, moving:]
            sizes = grown[:, :-1, :-1] + weight[..., None] * rig.shape_precision
            wanted = torch.cat([wanted, grown[:, :-1, -1] - weight * ((shapes - rig.shape_mean) @ rig.shape_precision)], 1)
            spin = torch.cat([torch.cat([spin, cross[..., :-1]], 2), torch.cat([cross[..., :-1].mT, sizes], 2)], 1)
        spin.diagonal(dim1=1, dim2=2).add_(DAMPING_M2)
        solution = torch.cholesky_solve(wanted[..., None], torch.linalg.cholesky_ex(spin).L)[..., 0].nan_to_num(0, 0, 0)  # 0: no step
        num_turns = rig.freedoms.shape[1]
        return solution[:, :num_turns], solution[:, num_turns:] if num_grown else torch.zeros_like(shapes), traces[:, -1, -1]

    def _rest(self, shapes: Tensor) -> tuple[Tensor, Tensor]:
        """Carried vertices (B, 3, T, V) and joints (B, K, 3) at rest."""
        return self._split(self._shaped(shapes, fixed=True)[0])

    def _shaped(self, shapes: Tensor, fixed: bool) -> tuple[Tensor, Tensor]:
        """(B, P) what is at rest, and (B, S, P) how it moves with each value of the shape, by differences towards the range's middle."""
        rig, (count, size) = self.rig, shapes.shape
        if fixed:
            return torch.addmm(rig.basis_mean, self.coefficients(shapes), rig.basis), shapes.new_zeros(count, 0, len(rig.basis_mean))
        step = SHAPE_DIFFERENCE - 2 * SHAPE_DIFFERENCE * (shapes > rig.shape_range.mean(0))
        moved = (shapes[:, None] + torch.diag_embed(step)).flatten(0, 1)
        coefficients = self.coefficients(torch.cat([shapes, moved]))
        slopes = (coefficients[count:].unflatten(0, (count, size)) - coefficients[:count, None]) / step[..., None]
        return torch.addmm(rig.basis_mean, coefficients[:count], rig.basis), slopes @ rig.basis

    def _posed(self, local: Tensor, shapes: Tensor) -> Tensor:
        """(B, 3, V) the body as the rig has it, the root's joint at 0."""
        carried, joints = self._rest(shapes)
        rotations = self._world(local)
        return self._moved(rotations, self._moved_joints(rotations, joints)[1], carried).sum(2)

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        num_joints = self.rig.num_moving
        carried, joints = values.split([values.shape[-1] - 3 * num_joints, 3 * num_joints], -1)
        return carried.unflatten(-1, (3, *self.rig.weights.shape)), joints.unflatten(-1, (-1, 3))

    def _world(self, local: Tensor) -> Tensor:
        """Rotations of the moving bones against their parents -> against the world, (B, K, 3, 3)."""
        rotations: list[Tensor] = []
        for parent, own in zip(self.rig.parent_list, local.unbind(1), strict=True):
            rotations.append(own if parent < 0 else rotations[parent] @ own)
        return torch.stack(rotations, 1)

    def _moved_joints(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Where turned bones have their joints, the root's at 0; and shifts: what goes with a bone, x at rest, comes to rotation x + shift.

        rotations: (..., K, 3, 3); joints, and both results: (..., K, 3), linear in `joints`
        """
        rig = self.rig
        above = rig.parents[1:]
        offsets = (rotations[..., above, :, :] @ (joints[..., 1:, :] - joints[..., above, :])[..., None])[..., 0]
        placed = rig.ancestors[:, 1:] @ offsets
        return placed, placed - (rotations @ joints[..., None])[..., 0]

    def _moved(self, rotations: Tensor, shifts: Tensor, carried: Tensor) -> Tensor:
        """Pose what bones carry, linear in the last two: (..., K, 3, 3), (..., K, 3), (..., 3, T, V) -> (..., 3, T, V)."""
        there, weighted = self.rig.carriers
        by_axis = rotations.movedim(-3, -1)  # (..., 3, 3, K)
        spread = (by_axis.flatten(-3, -2) @ there).view(*by_axis.shape[:-1], *self.rig.weights.shape)
        return (spread * carried.unsqueeze(-4)).sum(-3) + (shifts.mT @ weighted).unflatten(-1, self.rig.weights.shape)


def _levi_civita() -> Tensor:
    """(3, 3, 3) sign of each permutation of the axes."""
    signs = torch.zeros(3, 3, 3)
    for first in range(3):
        second, third = (first + 1) % 3, (first + 2) % 3
        signs[first, second, third], signs[first, third, second] = 1, -1
    return signs


def _short_rotvecs(rotations: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3): rotvecs_from_rotmats in few operations; close to half a turn it is a little short, which a prior bears."""
    skew = rotations - rotations.mT
    cosine = ((rotations.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2).clamp(-0.9999, 0.9999)
    angle = torch.acos(cosine)
    return skew.flatten(-2)[..., [7, 2, 3]] * (angle / (2 * torch.sin(angle).clamp(min=1e-6)))
