"""Light on many people at once: as core.training.render shades one, with soft light, lamps, shadows, gloss and folds."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its usual name

from core.training.appearance import Part
from core.training.gpu.plan import Plan
from core.training.gpu.raster import BatchFragments, interpolate_batch, rasterize_batch, vertex_normals_batch
from core.training.gpu.wardrobe import BatchWardrobe, Wearing, label_batch

GLOSS = {Part.SKIN: 0.16, Part.HAIR: 0.22, Part.SHOE: 0.25, Part.PROP: 0.4, Part.GLASSES: 0.8, Part.IRIS: 0.8, Part.SCLERA: 0.4}
CLOTH_GLOSS, WHITE_BALANCE, SKIN_WRAP = 0.03, 0.7, (0.30, 0.14, 0.10)
"""As in core.training.render."""
SHADOW_PX, SHADOW_SHARE = 192, 0.7
FOLDED = (Part.TOP, Part.BOTTOM, Part.SKIRT, Part.INNER)


def shade(fragments: BatchFragments, mesh_m: Tensor, wardrobe: BatchWardrobe, plan: Plan) -> Tensor:
    """(N, 3) sRGB colours of the covered pixels of B dressed bodies (B, V, 3)."""
    picture, faces = fragments.picture, wardrobe.faces
    seen = interpolate_batch(fragments, torch.cat([vertex_normals_batch(mesh_m, faces), mesh_m], 2), faces)
    channels = interpolate_batch(fragments, wardrobe.channels, faces)
    parts = label_batch(channels, Wearing.of(plan).at(picture), wardrobe.surface)
    albedo = wardrobe.paint(channels, picture, parts, plan) ** 2
    normals, spots = seen[:, :3], seen[:, 3:]
    two_sided = (parts >= Part.BRIM) | (parts == Part.SKIRT)
    normals = F.normalize(torch.where(two_sided, -normals[:, 2].sign(), torch.ones_like(normals[:, 2]))[:, None] * normals, dim=1)
    normals = F.normalize(normals + folds(channels, parts, plan, picture), dim=1)
    owner = plan.scene[picture]
    soft = (harmonics((normals[:, None] * plan.turn[owner]).sum(2))[..., None] * plan.ambient[owner]).sum(1).clamp(min=0.01)
    soft = soft * occlusion(fragments)[:, None]
    gloss = torch.full((len(Part),), CLOTH_GLOSS, device=parts.device)
    for part, value in GLOSS.items():
        gloss[part] = value
    gloss = gloss[parts]
    hard, shine = lamps(normals, spots, parts, gloss, mesh_m, faces, plan, picture)
    total = soft + hard
    rim = (gloss + 0.05)[:, None] * (1 + normals[:, 2:]).clamp(0, 1) ** 4 * soft
    tint = means(total, picture, len(mesh_m)) + 1e-6
    level = tint.mean(1, keepdim=True)
    scale = plan.exposure[plan.scene][:, None] / level * (level / tint) ** WHITE_BALANCE
    colour = (albedo * total + shine + rim) * scale[picture]
    return (colour / (1 + 0.22 * colour)).clamp(0, 1).sqrt()


def lamps(
    normals: Tensor, spots: Tensor, parts: Tensor, gloss: Tensor, mesh_m: Tensor, faces: Tensor, plan: Plan, picture: Tensor
) -> tuple[Tensor, Tensor]:
    """(N, 3) light of the lamps on the spots, and what shines."""
    hard, shine = torch.zeros_like(normals), torch.zeros_like(normals)
    wrap = torch.tensor(SKIN_WRAP, device=normals.device)
    skin = (parts == Part.SKIN)[:, None]
    for number in range(plan.lamps.shape[1]):
        row = plan.lamps[plan.scene, number]
        direction, colour = row[:, :3][picture], row[:, 3:][picture]
        incidence = (normals * direction).sum(1, keepdim=True)
        lit = torch.where(skin, ((incidence + wrap) / (1 + wrap)).clamp(min=0), incidence.clamp(min=0).expand(-1, 3))
        if number == 0:
            dark = shadowed(mesh_m, faces, spots + normals * 0.012, row[:, :3], picture)
            strength = torch.where(plan.uniform[:, 20] < SHADOW_SHARE, 0.3 * plan.uniform[:, 21], torch.ones_like(plan.uniform[:, 21]))
            lit = lit * torch.where(dark, strength[picture], torch.ones_like(dark, dtype=torch.float32))[:, None]
        hard = hard + lit * colour
        half = F.normalize(direction - torch.tensor([0.0, 0.0, 1.0], device=normals.device), dim=1)
        shine = shine + lit * colour * (gloss * (normals * half).sum(1).clamp(0, 1) ** 24)[:, None]
    return hard, shine


def harmonics(directions: Tensor) -> Tensor:
    """(N, 3) unit -> (N, 9) real spherical harmonics of bands 0 to 2; as core.training.lighting.harmonics."""
    x, y, z = directions.unbind(1)
    return torch.stack([
        torch.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y, 1.092548 * y * z,
        0.315392 * (3 * z * z - 1), 1.092548 * x * z, 0.546274 * (x * x - y * y),
    ], 1)  # fmt: skip


def folds(channels: Tensor, parts: Tensor, plan: Plan, picture: Tensor) -> Tensor:
    """(N, 3) that cloth's folds add to the normals, stronger about elbows, knees and the waist; hair's strands."""
    points, arm, leg = channels[:, :3], channels[:, 3], channels[:, 4]
    cloth = sum(parts == part for part in FOLDED) > 0
    bend = (-(((arm - 1) / 0.3) ** 2)).exp() + (-(((leg - 1) / 0.25) ** 2)).exp() + (-(((points[:, 1] + 0.02) / 0.1) ** 2)).exp()
    loose = 0.25 + 12 * plan.puff_m[:, :2].amax(1)
    amount = ((0.1 + 0.8 * plan.uniform[:, 22]) * loose)[picture] * (0.45 + bend)
    total = torch.zeros_like(points)
    dice = plan.normal[:, 16:46].view(-1, 5, 6)
    for k in range(dice.shape[1]):
        direction = F.normalize(dice[:, k, :3] * torch.tensor([0.6, 1.0, 0.6], device=points.device), dim=1)
        frequency, start = 18 + 57 * plan.uniform[:, 24 + k], 6.3 * plan.uniform[:, 30 + k]
        phase = (points * (direction * frequency[:, None])[picture]).sum(1) + start[picture]
        bent = (points * (dice[:, k, 3:] * 9)[picture]).sum(1)
        total = total + (phase + 1.3 * bent.sin()).sin()[:, None] * direction[picture]
    slope = total * (amount * 0.4 * cloth)[:, None]
    strands = (points[:, :1] * 260).sin() * torch.tensor([0.25, 0.0, 0.1], device=points.device)
    return slope + (parts == Part.HAIR)[:, None] * strands


def occlusion(fragments: BatchFragments) -> Tensor:
    """(N,) share of soft light that reaches the covered pixels: less where near surfaces stand around them."""
    both = fragments.spread(torch.stack([fragments.inverse_depth, torch.ones_like(fragments.inverse_depth)], 1)).permute(0, 3, 1, 2)
    relative = torch.zeros_like(fragments.inverse_depth)
    for size, strength in ((7, 5.0), (19, 4.0)):
        around = F.avg_pool2d(both, size, 1, size // 2).permute(0, 2, 3, 1).reshape(-1, 2)[fragments.pixel]
        relative = relative + strength * (around[:, 0] / (around[:, 1] + 1e-6) / fragments.inverse_depth - 1).clamp(min=0)
    return 1 - 0.65 * relative.clamp(0, 1)


def shadowed(mesh_m: Tensor, faces: Tensor, spots_m: Tensor, direction: Tensor, picture: Tensor) -> Tensor:
    """(N,) bool: spots of pictures (N,) from which the lamp in direction (B, 3) is hidden by the mesh (a shadow map)."""
    fixed = torch.tensor([0.3, 0.9, 0.1], device=mesh_m.device).expand_as(direction)
    side = F.normalize(torch.linalg.cross(direction, fixed, dim=1), dim=1)
    basis = torch.stack([side, torch.linalg.cross(direction, side, dim=1), -direction], 2)
    middle = mesh_m[:, :1]
    flat = (mesh_m - middle) @ basis
    low, high = flat.amin(1), flat.amax(1)
    scale = (SHADOW_PX - 4) / ((high - low)[:, :2].amax(1) + 1e-6)
    near = low[:, 2] - 1
    points = (flat[..., :2] - low[:, None, :2]) * scale[:, None, None] + 2
    front = rasterize_batch(points, flat[..., 2] - near[:, None], faces, SHADOW_PX, SHADOW_PX)
    depths = front.spread(front.inverse_depth[:, None])[..., 0]
    place = ((spots_m - middle[picture, 0])[:, None] @ basis[picture])[:, 0]
    at = ((place[:, :2] - low[picture, :2]) * scale[picture, None] + 2).long().clamp(0, SHADOW_PX - 1)
    return depths[picture, at[:, 1], at[:, 0]] * (place[:, 2] - near[picture] - 0.015) > 1


def means(values: Tensor, picture: Tensor, count: int) -> Tensor:
    """(N, C) -> (count, C) means over each picture's rows; 0 where it has none."""
    total = torch.zeros(count, values.shape[1], device=values.device).index_add_(0, picture, values)
    number = torch.zeros(count, device=values.device).index_add_(0, picture, torch.ones_like(values[:, 0]))
    return total / number.clamp(min=1)[:, None]
