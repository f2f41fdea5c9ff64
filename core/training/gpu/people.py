"""A plan becomes pictures and their truth, on the GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.bodies.anny import AnnyBody
from core.crop import CROP_SCALE
from core.joints import HIPS, JOINT_NAMES
from core.training.gpu.cameras import draw_cameras, levelled, weak_cameras
from core.training.gpu.pictures import Dice, compose, develop
from core.training.gpu.plan import Plan
from core.training.gpu.raster import rasterize_batch
from core.training.gpu.shading import shade
from core.training.gpu.wardrobe import BatchWardrobe
from core.training.losses import Targets
from core.types import CROP_SIZE_PX

POSED_AT_ONCE = 64
"""Bodies that are skinned and drawn together: about 5 GB on a GPU at 224 pixels, whatever the batch."""


@dataclass(frozen=True)
class Made:
    """pictures: (B, 3, S, S) uint8 RGB; targets: as the loss wants them; family, framing: (B,)."""

    pictures: Tensor
    targets: Targets
    family: Tensor
    framing: Tensor


class BatchPeople:
    """Makes the people of plans on one device."""

    def __init__(self, body: AnnyBody, device: torch.device, size_px: int = CROP_SIZE_PX, crop_scale: float = CROP_SCALE) -> None:
        """body: on the CPU. size_px: of the pictures; crop_scale: as in ModelConfig."""
        self.wardrobe = BatchWardrobe(body, device)
        self.body, self.device, self.size, self.crop_scale = body.to(device), device, size_px, crop_scale
        self.intermediate_ids = torch.from_numpy(body.levels.intermediate_ids).to(device)

    @torch.no_grad()
    def make(self, plan: Plan) -> Made:
        """Pictures and truth of a plan."""
        plan = plan.to(self.device)
        count = len(plan.uniform)
        chosen = self._plausible(plan, count)
        parts = [self._draw(plan, rows, chosen[rows]) for rows in torch.arange(count, device=self.device).split(POSED_AT_ONCE)]
        person, mask, outside, joints_crop, truth = (torch.cat(column) for column in zip(*parts, strict=True))
        dice = Dice(plan.seed, count, self.device)
        image, hidden = compose(person, mask, (mask[:, 0] > 0.5) & ~outside, plan, dice)
        image = develop(image, dice) * ~outside[:, None]
        joints_m, camera, intermediate_m = truth.split([3 * len(JOINT_NAMES), 3, 3 * len(self.intermediate_ids)], 1)
        targets = Targets(
            intermediate_m=intermediate_m.view(count, -1, 3),
            joints_m=joints_m.view(count, -1, 3),
            joints_crop=joints_crop,
            joint_visibility=self._visibility(joints_crop, hidden | outside),
            camera=camera,
        )
        return Made((image * 255).round().to(torch.uint8), targets, plan.family[chosen], plan.framing[chosen])

    def _plausible(self, plan: Plan, count: int) -> Tensor:
        """(B,) rows of the poses to take: those without a hand inside the trunk first."""
        blocks = zip(plan.rotmats.split(POSED_AT_ONCE), plan.shapes.split(POSED_AT_ONCE), strict=True)
        fine = [plausible_batch(self.body.joints(self.body.vertices(rotmats, shapes))) for rotmats, shapes in blocks]
        return torch.argsort((~torch.cat(fine)).to(torch.uint8), stable=True)[:count].sort().values

    def _draw(self, plan: Plan, rows: Tensor, chosen: Tensor) -> tuple[Tensor, ...]:
        """Some people of a plan alone: colours, mask, what is outside the picture, joints in the crop, and flat truth in metres."""
        part = _rows(plan, rows)
        vertices = self.body.vertices(plan.rotmats[chosen], plan.shapes[chosen])
        vertices = levelled(vertices, self.body.joints(vertices), plan.lean_rad[chosen])
        joints, pelvis = self.body.joints(vertices), self.body.pelvis(vertices)[:, None]
        cameras = draw_cameras(vertices, joints, plan.framing[chosen], part.uniform[:, :16], part.normal[:, :16], self.crop_scale)
        mesh = self.wardrobe.dress(vertices, part)
        points_px = (cameras.project(mesh) + 1) * (self.size / 2)
        fragments = rasterize_batch(points_px, cameras.depth(mesh), self.wardrobe.faces, self.size, self.size)
        person = fragments.spread(shade(fragments, mesh, self.wardrobe, part)).permute(0, 3, 1, 2)
        units = (torch.arange(self.size, device=self.device) + 0.5) / (self.size / 2) - 1
        left, top, right, bottom = cameras.frame[:, :, None].unbind(1)
        outside = ((units < left) | (units > right))[:, None] | ((units < top) | (units > bottom))[:, :, None]
        camera = weak_cameras(vertices - pelvis, cameras.project(vertices), cameras.frame)
        centred = joints - joints[:, HIPS].mean(1, keepdim=True)
        truth = torch.cat([centred.flatten(1), camera, (vertices - pelvis)[:, self.intermediate_ids].flatten(1)], 1)
        return person, fragments.covered[:, None].float(), outside, cameras.project(joints), truth

    def _visibility(self, joints_crop: Tensor, hidden: Tensor) -> Tensor:
        """(B, 14) 1 where a joint's place is in the picture and nothing in front covers it."""
        inside = (joints_crop.abs() < 1).all(-1)
        at = ((joints_crop + 1) * self.size / 2).long().clamp(0, self.size - 1)
        row = torch.arange(len(hidden), device=self.device)[:, None]
        return (inside & ~hidden[row, at[..., 1], at[..., 0]]).float()


PER_SCENE = ("scenes", "ambient", "turn", "lamps", "exposure", "seed", "rotmats", "shapes", "family", "framing", "lean_rad")
"""Fields of Plan that are not one row a picture."""


def _rows(plan: Plan, rows: Tensor) -> Plan:
    return Plan(**{name: value if name in PER_SCENE else value[rows] for name, value in vars(plan).items()})


def plausible_batch(joints_m: Tensor) -> Tensor:
    """(B, 14, 3) -> (B,) bool; as core.training.posing.plausible."""
    at = {name: joints_m[:, index] for index, name in enumerate(JOINT_NAMES)}
    hip, neck = (at["R_Hip"] + at["L_Hip"]) / 2, at["Neck"]
    trunk = neck - hip
    size = trunk.norm(dim=1)
    fine = torch.ones_like(size, dtype=torch.bool)
    for name in ("R_Wrist", "L_Wrist", "R_Elbow", "L_Elbow"):
        along = (((at[name] - hip) * trunk).sum(1) / trunk.square().sum(1)).clamp(-0.1, 1)
        fine &= (at[name] - hip - along[:, None] * trunk).norm(dim=1) > 0.26 * size
    for name in ("Knee", "Ankle"):
        fine &= (at[f"R_{name}"] - at[f"L_{name}"]).norm(dim=1) > 0.17 * size
    return fine
