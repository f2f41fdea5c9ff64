"""Cameras of many people at once: as core.training.views draws them one by one, from dice thrown beforehand."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.joints import HIPS
from core.training.views import CLEAR_M, FRAMING_NAMES, HEAD, KNEES, LOG_LOOSENESS, NECK, OFF_CENTRE, UNSEEN_SHARE

FAR = 9.0
"""Beyond any crop, in units of x / z."""
REACH_M = {"webcam": (0.5, 1.6), "wide": (1.2, 2.2)}
USUAL_REACH_M = (2.0, 14.0)
MIN_SEEN = 400
"""Vertices that a picture must show for its box to count."""
RATIOS, RATIO_BOUNDS = (16 / 9, 4 / 3, 1.0, 3 / 4), (0.52, 0.84, 0.92)


@dataclass(frozen=True)
class BatchCameras:
    """See core.training.views.CropCamera. middle_m: (B, 3); distance_m, zoom: (B,); centre: (B, 2); frame: (B, 4)."""

    middle_m: Tensor
    distance_m: Tensor
    centre: Tensor
    zoom: Tensor
    frame: Tensor

    def depth(self, points_m: Tensor) -> Tensor:
        """(B, N, 3) -> (B, N) metres from the camera plane."""
        return points_m[..., 2] + (self.distance_m - self.middle_m[:, 2])[:, None]

    def project(self, points_m: Tensor) -> Tensor:
        """(B, N, 3) -> (B, N, 2) crop units."""
        flat = (points_m[..., :2] - self.middle_m[:, None, :2]) / self.depth(points_m)[..., None]
        return (flat - self.centre[:, None]) * self.zoom[:, None, None]


def levelled(vertices_m: Tensor, joints_m: Tensor, lean_rad: Tensor) -> Tensor:
    """(B, V, 3) people turned in the picture until they lean as views.draw_leans says. joints_m: (B, 14, 3)"""
    trunk = joints_m[:, NECK] - joints_m[:, HIPS].mean(1)
    turn = lean_rad - torch.atan2(trunk[:, 0], -trunk[:, 1])
    turn = torch.where(turn.isfinite(), turn, 0.0)
    cosine, sine = turn.cos()[:, None], turn.sin()[:, None]
    x, y, z = vertices_m.unbind(-1)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y, z], -1)


def draw_cameras(vertices_m: Tensor, joints_m: Tensor, framing: Tensor, uniform: Tensor, normal: Tensor, crop_scale: float) -> BatchCameras:
    """Crops that surround what the picture shows of each body, as a detector's box would, with some jitter.

    vertices_m: (B, V, 3); joints_m: (B, 14, 3); framing: (B,) index into FRAMING_NAMES; uniform, normal: (B, 16) dice
    crop_scale: as in PeopleConfig
    """
    close = framing == FRAMING_NAMES.index("webcam")
    low, high = vertices_m.amin(1), vertices_m.amax(1)
    middle = torch.where(close[:, None], joints_m[:, [HEAD, NECK]].mean(1), (low + high) / 2)
    reach = torch.tensor([REACH_M.get(name, USUAL_REACH_M) for name in FRAMING_NAMES], device=framing.device).log()[framing]
    distance = (reach[:, 0] + uniform[:, 0] * (reach[:, 1] - reach[:, 0])).exp()
    distance = torch.maximum(distance, middle[:, 2] - low[:, 2] + CLEAR_M)
    aside = normal[:, :2] * 0.12 * torch.where(close, 0.4, 1.0)[:, None] * distance[:, None]
    middle = middle + torch.cat([aside, torch.zeros_like(aside[:, :1])], 1)
    zero = torch.zeros_like(distance)
    rough = BatchCameras(middle, distance, torch.stack([zero, zero], 1), zero + 1, torch.zeros(len(zero), 4, device=zero.device))
    flat, marks = rough.project(vertices_m), rough.project(joints_m)
    cut = _cuts(torch.cat([flat.amin(1), flat.amax(1)], 1), marks, framing, uniform[:, 1:], normal[:, 2:])
    inside = (flat > cut[:, None, :2]).all(-1) & (flat < cut[:, None, 2:]).all(-1)
    inside = inside | (inside.sum(1, keepdim=True) <= MIN_SEEN)
    low = torch.where(inside[..., None], flat, torch.inf).amin(1)
    high = torch.where(inside[..., None], flat, -torch.inf).amax(1)
    half = (high - low).amax(1) / 2 * crop_scale * (LOG_LOOSENESS[0] + LOG_LOOSENESS[1] * normal[:, 3]).exp()
    centre = (low + high) / 2 + normal[:, 4:6] * OFF_CENTRE * 2 * half[:, None]
    frame = (cut - centre.repeat(1, 2)) / half[:, None]
    return BatchCameras(middle, distance, centre, 1 / half, frame)


def _cuts(box: Tensor, marks: Tensor, framing: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
    """(B, 4) left, top, right, bottom of the pictures in units of x / z."""
    outwards = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=box.device)
    size = box[:, 2:] - box[:, :2]
    whole = box + FAR * outwards
    exponential = -(1 - uniform).clamp(min=1e-6).log()
    margins = torch.where(uniform[:, :4] < 0.45, exponential[:, 4:8] * 0.12 * size.amax(1, keepdim=True), FAR)
    below = _cut_below(box, size, marks, uniform, normal)
    left = whole.clone()
    left[:, 0] = box[:, 0] + size[:, 0] * (0.05 + 0.33 * uniform[:, 8])
    right = whole.clone()
    right[:, 2] = box[:, 0] + size[:, 0] * (0.62 + 0.33 * uniform[:, 8])
    above = whole.clone()
    above[:, 1] = box[:, 1] + size[:, 1] * (0.03 + 0.32 * uniform[:, 8])
    aside = torch.where((uniform[:, 9] < 0.5)[:, None], left, right)
    cuts = {"edge": box + margins * outwards, "webcam": below, "half": below, "side": aside, "headless": above}
    stacked = torch.stack([cuts.get(name, whole) for name in FRAMING_NAMES], 1)
    return stacked[torch.arange(len(framing), device=framing.device), framing]


def _cut_below(box: Tensor, size: Tensor, marks: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
    """Pictures from above the head down to the chest, the waist, the hips or the thighs, as wide as pictures are."""
    neck, hip, knee = marks[:, NECK, 1], marks[:, HIPS, 1].mean(1), marks[:, KNEES, 1].mean(1)
    lying = hip - neck < 0.1 * size[:, 1]
    place = 0.4 + 1.6 * uniform[:, 10]
    upright = neck + (hip - neck) * place.clamp(max=1.15) + (place - 1.15).clamp(min=0) * (knee - hip).clamp(min=0)
    bottom = torch.where(lying, box[:, 1] + size[:, 1] * (0.35 + 0.55 * uniform[:, 10]), upright)
    above = 0.1 - 0.6 * (1 - uniform[:, 11]).clamp(min=1e-6).log()
    top = box[:, 1] - (bottom - box[:, 1]) * above
    which = torch.bucketize(uniform[:, 12].contiguous(), torch.tensor(RATIO_BOUNDS, device=box.device))
    wide = (bottom - top) * torch.tensor(RATIOS, device=box.device)[which]
    x = marks[:, [HEAD, NECK], 0].mean(1) + normal[:, 6] * 0.10 * wide
    return torch.stack([x - wide / 2, top, x + wide / 2, bottom], 1)


def weak_cameras(points_m: Tensor, crop: Tensor, frame: Tensor) -> Tensor:
    """(B, 3) least-squares scale, tx, ty of (B, N, 3) pelvis-centred points at (B, N, 2) in the crop; what the crop shows counts most."""
    frame = frame.clamp(-1, 1)
    inside = ((crop > frame[:, None, :2]) & (crop < frame[:, None, 2:])).all(-1)
    count, total = inside.sum(1, keepdim=True).double(), crop.shape[1]
    some = (count > 50) & (count < total)
    weight = torch.where(inside, (1 - UNSEEN_SHARE) / count, UNSEEN_SHARE / (total - count))
    weight = torch.where(some, weight, 1 / total)[..., None]
    flat, crop = points_m[..., :2].double(), crop.double()
    mean, target = (weight * flat).sum(1), (weight * crop).sum(1)
    flat = flat - mean[:, None]
    scale = (weight * flat * (crop - target[:, None])).sum((1, 2)) / (weight * flat.square()).sum((1, 2))
    return torch.cat([scale[:, None], target / scale[:, None] - mean], 1).float()
