"""From people to photographs, many at once: background, others, things in the way, and what a camera and a file do to a picture."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name

from core.training.gpu.plan import COLOURS, Plan

OTHERS_BEHIND, OTHERS_IN_FRONT, COVERED = 0.26, 0.10, 0.25
"""Shares of pictures, as in core.training.render."""
BLUR_PX, MAX_SIGMA = 13, 3.0
SOFT_SIGMA = 0.6
JPEG_SHARE = 0.6
LUMA_STEPS = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
"""Quantisation of brightness at quality 50. Source: ITU-T T.81, table K.1; colour is quantised by the same table, which is milder."""


class Dice:
    """Numbers on the GPU for B pictures, from one seed."""

    def __init__(self, seed: Tensor, count: int, device: torch.device) -> None:
        self.generator = torch.Generator(device).manual_seed(int(seed))
        self.count, self.device = count, device

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
        """(B, *shape)."""
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.generator, device=self.device)

    def normal(self, deviation: float = 1.0, *shape: int) -> Tensor:
        """(B, *shape)."""
        return deviation * torch.randn(self.count, *shape, generator=self.generator, device=self.device)

    def chance(self, share: float) -> Tensor:
        """(B,) bool."""
        return self.uniform() < share

    def grain(self, *shape: int) -> Tensor:
        """(B, *shape) unit noise."""
        return torch.randn(self.count, *shape, generator=self.generator, device=self.device)


def like(values: Tensor, picture: Tensor) -> Tensor:
    """(B,) or (B, C) values with the axes of (B, C, H, W)."""
    return values.view(*values.shape, *[1] * (picture.dim() - values.dim()))


def compose(person: Tensor, mask: Tensor, shown: Tensor, plan: Plan, dice: Dice) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, S, S) in 0..1 and what is hidden (B, S, S) bool.

    person: (B, 3, S, S), black around it; mask: (B, 1, S, S) its pixels, 0 or 1; shown: (B, S, S) bool, those within the picture
    """
    image = backgrounds(plan, dice)
    beside = dice.chance(OTHERS_BEHIND)
    alpha, other = somebody(person, mask, dice, dice.uniform(0.15, 0.75), dice.uniform(0.6, 1.1))
    alpha = alpha * like(beside.float(), alpha)
    image = image * (1 - alpha) + other * alpha
    strength = 0.5 * dice.uniform() * dice.chance(0.4)
    image = image * (1 - like(strength, image) * ground_shadow(mask, dice))
    soft = torch.minimum(mask, torch.maximum(blurred(mask, torch.full_like(strength, SOFT_SIGMA)), torch.full_like(mask, 0.35)))
    image = person * soft + image * (1 - soft)
    cover = occluders(shown, dice)
    size = shown.sum((1, 2)).clamp(min=1)
    cover = cover & like(dice.chance(COVERED) & ((cover & shown).sum((1, 2)) < 0.55 * size), cover)
    image = torch.where(cover[:, None], surface(plan, dice, image), image)
    alpha, other = somebody(person, mask, dice, dice.uniform(0.2, 0.7), dice.uniform(0.8, 1.4))
    before = alpha[:, 0] > 0.5
    some = dice.chance(OTHERS_IN_FRONT) & ((before & shown).sum((1, 2)) < 0.4 * size)
    alpha = alpha * like(some.float(), alpha)
    return image * (1 - alpha) + other * alpha, cover | (before & like(some, before))


def backgrounds(plan: Plan, dice: Dice) -> Tensor:
    """(B, 3, S, S) views of the plan's scenes: each is used a few times, moved, mirrored and tinted."""
    scenes = plan.scenes.permute(0, 3, 1, 2)[plan.scene].float() / 255
    zoom, mirror = dice.uniform(0.6, 1.0), torch.where(dice.chance(0.5), -1.0, 1.0)
    shift = (1 - zoom)[:, None] * dice.uniform(-1, 1, 2)
    place = torch.zeros(len(zoom), 2, 3, device=zoom.device)
    place[:, 0, 0], place[:, 1, 1], place[:, :, 2] = zoom * mirror, zoom, shift
    view = sampled(scenes, place, "border")
    return (view * like((1 + dice.normal(0.06, 3)) * dice.uniform(0.85, 1.15, 1), view)).clamp(0, 1)


def sampled(pictures: Tensor, place: Tensor, padding: str) -> Tensor:
    """Pictures looked at through (B, 2, 3) affine maps from the result to the picture, both in -1..1."""
    grid = F.affine_grid(place, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def bounds(mask: Tensor) -> Tensor:
    """(B, 1, S, S) -> (B, 4) left, top, right, bottom in -1..1; the whole where it is empty."""
    size = mask.shape[-1]
    places = torch.arange(size, device=mask.device) + 0.5
    ends = []
    for axis in (2, 1):  # columns first
        filled = (mask[:, 0] > 0.5).any(3 - axis)
        low = torch.where(filled, places, torch.inf).amin(1)
        high = torch.where(filled, places, -torch.inf).amax(1)
        empty = ~filled.any(1)
        ends.append((torch.where(empty, torch.zeros_like(low), low), torch.where(empty, torch.full_like(high, size), high)))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], 1) / size * 2 - 1


def somebody(person: Tensor, mask: Tensor, dice: Dice, apart: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Another person of the batch beside each one, at about its size and on the same ground: (alpha (B, 1, S, S), colours)."""
    box = bounds(mask)
    step = 1 + int(torch.randint(max(len(mask) - 1, 1), (1,), generator=dice.generator, device=dice.device))
    other_box, both = box.roll(step, 0), torch.cat([person, mask], 1).roll(step, 0)
    size = scale * (box[:, 3] - box[:, 1] + 0.2) / (other_box[:, 3] - other_box[:, 1] + 0.2)
    side, mirror = (torch.where(dice.chance(0.5), 1.0, -1.0) for _ in range(2))
    x = (box[:, 0] + box[:, 2]) / 2 + side * apart * 2
    y = box[:, 3] + dice.normal(0.05)
    place = torch.zeros(len(mask), 2, 3, device=mask.device)
    place[:, 0, 0], place[:, 1, 1] = mirror / size, 1 / size
    place[:, 0, 2] = (other_box[:, 0] + other_box[:, 2]) / 2 - mirror * x / size
    place[:, 1, 2] = other_box[:, 3] - y / size
    found = sampled(both, place, "zeros")
    return found[:, 3:], (found[:, :3] * like(dice.uniform(0.6, 1.15), found)).clamp(0, 1)


def ground_shadow(mask: Tensor, dice: Dice) -> Tensor:
    """(B, 1, S, S) the person's shadow on the ground: its outline, leaning and flat."""
    place = torch.zeros(len(mask), 2, 3, device=mask.device)
    place[:, 0, 0], place[:, 0, 1], place[:, 1, 1], place[:, 1, 2] = 1, dice.uniform(-1.5, 1.5), 3.3, -1.9
    return blurred(sampled(mask, place, "zeros"), torch.full((len(mask),), 2.5, device=mask.device))


def surface(plan: Plan, dice: Dice, image: Tensor) -> Tensor:
    """(B, 3, S, S) plain or noisy things, shaded from one side."""
    size = image.shape[-1]
    colour = plan.colours[:, COLOURS.index("occluder")]
    ramp = 1 + torch.linspace(-0.5, 0.5, size, device=image.device) * dice.normal(0.5)[:, None]
    across = torch.where(like(dice.chance(0.5), image), ramp[:, None, None], ramp[:, None, :, None])
    coarse = F.interpolate(dice.grain(1, 14, 14), size=(size, size), mode="bilinear", align_corners=False)
    return ((like(colour, image) + coarse * like(dice.uniform(0.01, 0.08), image)) * across).clamp(0, 1)


def occluders(shown: Tensor, dice: Dice) -> Tensor:
    """(B, S, S) bool: a box, a blob, a pole, bars, leaves, or all below some height, at a place of the person."""
    size = shown.shape[-1]
    box = bounds(shown[:, None].float())
    top, bottom = ((box[:, k] + 1) / 2 * size for k in (1, 3))
    spot = torch.multinomial(shown.flatten(1).float() + 1e-9, 1, generator=dice.generator)[:, 0]
    at = torch.stack([spot % size, spot // size], 1) + 0.5
    place = torch.arange(size, device=shown.device) + 0.5
    dx, dy = place[None, None] - at[:, 0, None, None], place[None, :, None] - at[:, 1, None, None]
    turn = like(dice.normal(0.3), dx)
    u, v = dx * turn.cos() + dy * turn.sin(), dy * turn.cos() - dx * turn.sin()
    half = dice.uniform(6, 60, 2)
    wide, high = like(half[:, 0], dx), like(half[:, 1], dx)
    level = top + (bottom - top) * dice.uniform(0.45, 0.95)
    below = dy + like(at[:, 1] - level, dy) > like(dice.normal(0.05), dx) * dx
    gap, thick = like(dice.uniform(12, 40), dx), like(dice.uniform(2, 6), dx)
    leaves = F.interpolate(dice.grain(1, 32, 32), size=(size, size), mode="bilinear", align_corners=False)[:, 0] > 0.7
    kinds = torch.stack([
        (u.abs() < wide) & (v.abs() < high),
        (u / wide).square() + (v / high).square() < 1,
        leaves & (dx.square() + dy.square() < 40**2),
        (dx.abs() < wide / 4).expand_as(below),
        ((dx % gap) < thick) & below,
        below,
        below & (dx.abs() < 2 * wide) & (dy + like(at[:, 1] - level, dy) < 3 * thick),
    ], 1)  # fmt: skip
    which = torch.randint(kinds.shape[1], (len(shown),), generator=dice.generator, device=shown.device)
    return kinds[torch.arange(len(shown), device=shown.device), which]


def blurred(pictures: Tensor, sigma: Tensor) -> Tensor:
    """(B, C, H, W) each with a gaussian of its own, (B,) pixels; below 0.2 nothing changes to speak of."""
    count, channels = pictures.shape[:2]
    offsets = torch.arange(BLUR_PX, device=pictures.device) - BLUR_PX // 2
    kernel = (-0.5 * (offsets / sigma.clamp(0.1, MAX_SIGMA)[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = pictures.reshape(1, count * channels, *pictures.shape[2:])
    for shape, padding in (
        ((-1, 1, 1, BLUR_PX), (BLUR_PX // 2, BLUR_PX // 2, 0, 0)),
        ((-1, 1, BLUR_PX, 1), (0, 0, BLUR_PX // 2, BLUR_PX // 2)),
    ):
        flat = F.conv2d(F.pad(flat, padding, mode="replicate"), kernel.view(shape), groups=count * channels)
    return flat.view_as(pictures)


def develop(image: Tensor, dice: Dice) -> Tensor:
    """(B, 3, S, S) in 0..1 -> the same as a camera and a file leave it: blur, tone, dim light, colour cast, noise, grey, JPEG."""
    small = dice.chance(0.16)
    sigma = torch.where(small, (dice.uniform() * math.log(6.0)).exp() * 0.5, torch.where(dice.chance(0.4), dice.uniform(0.2, 1.3), 0.0))
    image = blurred(image, sigma)
    dim = dice.chance(0.05)
    contrast, brightness, gamma = dice.normal(0.18).exp(), dice.normal(0.05), dice.normal(0.18).exp()
    toned = (image.clamp(1e-4, 1) ** like(gamma, image) - 0.5) * like(contrast, image) + 0.5 + like(brightness, image)
    toned = toned * like(torch.where(dim, dice.uniform(0.3, 0.65), torch.ones_like(contrast)), image)
    toned = toned * (1 + like(dice.normal(1.0, 3) * torch.where(dim, 0.09, 0.04)[:, None], image))
    grey = like(dice.chance(0.05), image)
    toned = torch.where(grey, toned[:, 1:2], toned).clamp(0, 1)
    exponential = [-dice.uniform().clamp(min=1e-6).log() * mean for mean in (1.6, 0.9)]
    amounts = [torch.where(dim, dice.uniform(2, 9), exponential[0]), torch.where(dim, dice.uniform(0, 6), exponential[1])]
    size = image.shape[-1]
    noise = dice.grain(1, size, size) * like(amounts[0], image) + dice.grain(3, size, size) * like(amounts[1], image)
    noisy = (toned + noise / 255).clamp(0, 1)
    return torch.where(like(dice.chance(JPEG_SHARE), image), compressed(noisy, dice.uniform(35, 96)), noisy)


def compressed(image: Tensor, quality: Tensor) -> Tensor:
    """(B, 3, S, S) in 0..1 after a JPEG of qualities (B,): blocks of 8 x 8, their cosine transform rounded; S a multiple of 8."""
    device, size = image.device, image.shape[-1]
    k = torch.arange(8, device=device)
    basis = (torch.pi * (2 * k + 1) * k[:, None] / 16).cos() * torch.where(k == 0, 0.125**0.5, 0.5)[:, None]
    to_ycc = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], device=device)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    steps = (torch.tensor(LUMA_STEPS, device=device, dtype=torch.float32).view(8, 8) * scale[:, None, None]).round().clamp(min=1)
    ycc = torch.einsum("ij,bjhw->bihw", to_ycc, image * 255 - 128)
    blocks = ycc.view(len(image), 3, size // 8, 8, size // 8, 8).transpose(3, 4)
    steps = steps[:, None, None, None]
    blocks = basis.T @ ((basis @ blocks @ basis.T / steps).round() * steps) @ basis
    ycc = blocks.transpose(3, 4).reshape(image.shape)
    return ((torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_ycc), ycc) + 128) / 255).clamp(0, 1)
