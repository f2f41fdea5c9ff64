"""Clothes, skin and hair of many people at once, from the same surface description as core.training.appearance.

`label_batch` says for every spot what core.training.appearance.label says; a test holds them together. Colours and patterns are drawn
by core.training.gpu.plan and painted here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.bodies.anny import AnnyBody
from core.mesh import edges_of, tube_faces
from core.training.appearance import NUM_CHANNELS, BodySurface, Part
from core.training.gpu.plan import CLOTHS, COLOURS, COVERED, HAIRS, OUTFIT_NUMBERS, PATTERN_NAMES, Plan
from core.training.gpu.raster import vertex_normals_batch

SPOKES = 24
RING_PLACES = np.linspace(0.0, 1.8, 9)
"""Places along the legs where a skirt has a ring; as in core.training.garments."""
PART_COLOURS = {
    Part.SHOE: "leather", Part.BRIM: "brim", Part.PROP: "prop", Part.MASK: "mask", Part.HAIR: "hair",
}  # fmt: skip
FIXED_COLOURS = {Part.IRIS: (0.08, 0.06, 0.05), Part.SCLERA: (0.80, 0.78, 0.76), Part.GLASSES: (0.05, 0.05, 0.06)}


@dataclass(frozen=True)
class Wearing:
    """What each of some spots' owners wear: tensors whose shape goes with the spots'. Fields as in Outfit; see `Wearing.of`."""

    numbers: dict[str, Tensor]
    hair: Tensor
    glasses: Tensor

    @staticmethod
    def of(plan: Plan) -> "Wearing":
        """(B, 1) each, to go with (B, V) spots."""
        numbers = {name: plan.outfit[:, k, None] for k, name in enumerate(OUTFIT_NUMBERS)}
        return Wearing(numbers, plan.hair[:, None], plan.glasses[:, None])

    def at(self, picture: Tensor) -> "Wearing":
        """(N,) each, to go with spots of these pictures."""
        return Wearing({name: value[picture, 0] for name, value in self.numbers.items()}, self.hair[picture, 0], self.glasses[picture, 0])

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.numbers[name]
        except KeyError:
            raise AttributeError(name) from None

    def has_hair(self, *names: str) -> Tensor:
        """Whose hair is one of these."""
        return sum(self.hair == HAIRS.index(name) for name in names) > 0


def label_batch(channels: Tensor, wearing: Wearing, surface: BodySurface) -> Tensor:
    """(..., NUM_CHANNELS) surface description -> (...) int64 Part values, as core.training.appearance.label."""
    w = wearing
    x, y, z, arm, leg = channels[..., :5].unbind(-1)
    region = channels[..., 5:12].argmax(-1)
    head, neck, arms, hand, legs, foot, torso = (region == i for i in range(7))
    top, dress = w.top > 0.5, w.dress > 0.5
    throat = surface.neck_y_m + w.neckline_m
    trunk = torso | (neck & (y > throat))
    parts = torch.full(torch.broadcast_shapes(y.shape, w.sleeve.shape), int(Part.SKIN), device=channels.device)

    def put(mask: Tensor, part: Part) -> None:
        parts.masked_fill_(mask, int(part))

    put(top & trunk & (y > throat - 0.03 * (z > 0)), Part.TOP)
    put(top & arms & (arm < w.sleeve), Part.TOP)
    put((torso & (y > -w.waist_m)) | (legs & (leg < w.leg)), Part.BOTTOM)
    put(dress & torso, Part.TOP)
    put(foot & (w.shoes > 0.5), Part.SHOE)
    put(hand & (w.gloves > 0.5), Part.SHOE)
    _label_head(put, (x, y, z), (head, neck, torso), channels, w, surface)
    width = w.opening_m * (0.5 + ((y - surface.neck_y_m) * 1.4).clamp(0, 1))
    put((w.opening_m > 0) & (parts == Part.TOP) & (torso | neck) & (x.abs() < width) & (z < 0), Part.INNER)
    extra = channels[..., 13]
    return torch.where(extra > 0.5, extra.round().long(), parts)


def _label_head(
    put: object, at: tuple[Tensor, ...], regions: tuple[Tensor, ...], channels: Tensor, w: Wearing, surface: BodySurface
) -> None:
    (x, y, z), (head, neck, torso) = at, regions
    eye_x, eye_y, eye_z = (float(value) for value in surface.eye_m)
    up, back, side = eye_y - y, z - eye_z, x.abs()
    hairline = torch.where(back < 0.03, 0.052, torch.where(back < 0.075, 0.016, -0.05))
    front = head & (back < 0.012)
    jaw = head & (back < 0.10) & (up < -0.058 + 0.5 * (side - 0.03).clamp(0, 0.1)) & (up > -0.135)
    put((w.beard > 0) & jaw & ~(((up + 0.074).abs() < 0.012) & (side < 0.026)), Part.BEARD)
    hairline = hairline - 0.02 * w.has_hair("helmet")
    put(~w.has_hair("bald") & head & (up > hairline), Part.HAIR)
    long = w.has_hair("long", "hood")
    put(long & (head | neck) & (back > 0.075), Part.HAIR)
    put(long & torso & (z > 0.02) & (y < surface.neck_y_m + w.hair_end_m), Part.HAIR)
    put(front & ((up - 0.030 + 0.25 * (side - 0.035).clamp(min=0)).abs() < 0.0045) & ((side - eye_x).abs() < 0.022), Part.BROW)
    put(front & ((up + 0.074).abs() < 0.007) & (side < 0.026), Part.LIP)
    eye = channels[..., 12] > 0.6
    put(eye, Part.SCLERA)
    put(eye & (torch.hypot(side - eye_x, up) < 0.006), Part.IRIS)
    put((w.mask > 0.5) & head & (back < 0.06) & (up < -0.022) & (up > -0.12) & (side < 0.065), Part.MASK)
    ring = torch.hypot(side - eye_x, (up + 0.004) * 1.25)
    rim = front & (((ring - 0.024).abs() < 0.0028) | ((up.abs() < 0.003) & (side < 0.012)))
    put((w.glasses > 0) & rim, Part.GLASSES)
    put((w.glasses == 2) & front & (ring < 0.024), Part.GLASSES)


def waves_at(points: Tensor, waves: Tensor) -> Tensor:
    """(..., 3) places and (..., WAVES, 4) plane waves that broadcast -> (...) smooth noise in 0..1."""
    phase = (waves[..., :3] * points[..., None, :]).sum(-1) + waves[..., 3]
    share = 1 / (1 + 0.4 * torch.arange(waves.shape[-2], device=points.device))
    return ((phase.sin() * share).sum(-1) / waves.shape[-2] + 0.5).clamp(0, 1)


class BatchWardrobe:
    """Dresses and paints many bodies of one kind at once."""

    def __init__(self, body: AnnyBody, device: torch.device) -> None:
        """body: on the CPU."""
        self.surface, self.device = BodySurface(body), device
        count = len(self.surface.channels)
        self.num_body = count
        skirt = np.zeros((SPOKES * len(RING_PLACES), NUM_CHANNELS), np.float32)
        spokes = np.linspace(0, 2 * np.pi, SPOKES, endpoint=False)
        skirt[:, 0] = np.tile(np.cos(spokes) * 0.25, len(RING_PLACES))
        skirt[:, 1] = np.repeat(RING_PLACES, SPOKES) * 0.4
        skirt[:, 13] = Part.SKIRT
        self.channels = torch.from_numpy(np.concatenate([self.surface.channels, skirt])).to(device)
        self.body_faces = torch.from_numpy(body.faces.astype(np.int64)).to(device)
        self.faces = torch.cat([self.body_faces, torch.from_numpy(tube_faces(len(RING_PLACES), SPOKES)).to(self.body_faces) + count])
        self.spokes = torch.from_numpy(spokes.astype(np.float32)).to(device)
        self.edges = torch.from_numpy(edges_of(body.faces).astype(np.int64)).to(device)
        self.degree = torch.ones(count, device=device).index_add_(0, self.edges.flatten(), torch.ones(self.edges.numel(), device=device))
        self.rings = self._ring_weights().to(device)
        self.grain = torch.from_numpy(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)).to(device)
        fixed = torch.zeros(len(Part), 3)
        for part, colour in FIXED_COLOURS.items():
            fixed[part] = torch.tensor(colour)
        self.fixed = fixed.to(device)

    def _ring_weights(self) -> Tensor:
        """(2, rings, V) whose product with a body is the middle of each leg at each place, left and right."""
        channels = self.surface.channels
        rings = np.zeros((2, len(RING_PLACES), len(channels)), np.float32)
        for side, sign in enumerate((1.0, -1.0)):
            on_leg = (channels[:, 9] > 0.4) & (np.sign(channels[:, 0]) == sign)
            for k, place in enumerate(RING_PLACES):
                near = on_leg & (np.abs(channels[:, 4] - max(place, 0.1)) < 0.12)
                rings[side, k, near] = 1 / near.sum()
        return torch.from_numpy(rings)

    def dress(self, vertices_m: Tensor, plan: Plan) -> Tensor:
        """(B, V, 3) posed bodies -> (B, V + skirt, 3): clothes and hair stand off the skin; who wears no skirt has one of no size."""
        offset = self._offset(plan)
        clothed = vertices_m + vertex_normals_batch(vertices_m, self.body_faces) * offset[..., None]
        return torch.cat([clothed, self._skirt(vertices_m, plan)], 1)

    def _offset(self, plan: Plan) -> Tensor:
        """(B, V) metres."""
        wearing, channels = Wearing.of(plan), self.channels[: self.num_body]
        parts = label_batch(channels, wearing, self.surface)
        rough = waves_at(channels[None, :, :3], plan.waves[:, 0, None] * 0.5)
        curly = wearing.has_hair("curly")
        offset = torch.zeros(parts.shape, device=parts.device)
        for part, amount in zip((Part.TOP, Part.BOTTOM, Part.HAIR, Part.SHOE), plan.puff_m.unbind(1), strict=True):
            bumps = torch.where(curly, rough, torch.full_like(rough, 0.5)) if part == Part.HAIR else rough
            offset = torch.where(parts == part, amount[:, None] * (0.4 + 1.2 * bumps), offset)
        offset = offset + wearing.baggy_m * (channels[:, 4] - 0.3).clamp(0, 1.2) * (parts == Part.BOTTOM) + 0.006 * (parts == Part.MASK)
        for _ in range(2):
            offset = self._smoothed(offset)
        return offset

    def _smoothed(self, values: Tensor) -> Tensor:
        """(B, V) means over each vertex and its neighbours."""
        first, second = self.edges.unbind(1)
        total = values.index_add(1, first, values[:, second]).index_add(1, second, values[:, first])
        return total / self.degree

    def _skirt(self, vertices_m: Tensor, plan: Plan) -> Tensor:
        """(B, rings * SPOKES, 3): rings of an ellipse around both legs, wider towards the hem; as core.training.garments makes them."""
        length, flare, coat = (plan.outfit[:, OUTFIT_NUMBERS.index(name)] for name in ("skirt", "flare", "coat"))
        centres = torch.einsum("srv,bvc->bsrc", self.rings, vertices_m)  # (B, 2, R, 3)
        middle, across = centres.mean(1), centres[:, 0] - centres[:, 1]
        after = torch.cat([middle[:, 1:], middle[:, -1:]], 1)
        before = torch.cat([middle[:, :1], middle[:, :-1]], 1)
        down = torch.nn.functional.normalize(after - before, dim=-1)
        width = across.norm(dim=-1, keepdim=True) + 1e-6
        across = across / width
        out = torch.linalg.cross(across, down, dim=-1)
        place = torch.from_numpy(RING_PLACES.astype(np.float32)).to(self.device)
        widest = width[:, 1, 0] / 0.26
        thick = (0.115 - 0.025 * place + 0.02 * coat[:, None]) * widest[:, None] + flare[:, None] * place * 0.5
        wave = 1 + 0.10 * place[:, None] * (self.spokes * 7).sin()
        ring = self.spokes.cos()[:, None] * (across * (width / 2 + thick[..., None]))[:, :, None]
        ring = ring + self.spokes.sin()[:, None] * (out * thick[..., None] * 1.1)[:, :, None]
        tube = middle[:, :, None] + ring * wave[..., None]
        last = (length[:, None] >= place).long().sum(1).sub(1).clamp(min=1)  # rings below the hem fall together on it
        which = torch.minimum(torch.arange(len(place), device=self.device), last[:, None])
        tube = torch.gather(tube, 1, which[..., None, None].expand(-1, -1, SPOKES, 3))
        tube = torch.where((length > 0)[:, None, None, None], tube, tube[:, :1, :1])
        return tube.flatten(1, 2)

    def paint(self, channels: Tensor, picture: Tensor, parts: Tensor, plan: Plan) -> Tensor:
        """Spots (N, NUM_CHANNELS) of pictures (N,) that show parts (N,) -> (N, 3) sRGB albedo in 0..1."""
        points = channels[:, :3]
        colours = {name: plan.colours[picture, k] for k, name in enumerate(COLOURS)}
        skin = self._skin(points, colours["skin"], plan.waves[picture, 3])
        natural = self._strands(points, colours["natural"], plan.waves[picture, 4])
        beard = plan.outfit[picture, OUTFIT_NUMBERS.index("beard")][:, None]
        covered = sum(plan.hair == HAIRS.index(name) for name in COVERED)[picture, None] > 0
        albedo = torch.where((parts == Part.SKIN)[:, None], skin, self.fixed[parts])
        fills = {part: colours[name] for part, name in PART_COLOURS.items()}
        fills[Part.HAIR] = torch.where(covered, colours["hair"], self._strands(points, colours["hair"], plan.waves[picture, 4]))
        fills[Part.BROW] = colours["natural"] * 0.55 + skin * 0.4
        fills[Part.LIP] = skin * torch.tensor([0.92, 0.62, 0.62], device=skin.device)
        fills[Part.BEARD] = skin * (1 - beard) + natural * beard
        fills[Part.SHOE] = torch.where(points[:, 1:2] > self.surface.sole_y_m, colours["sole"], colours["leather"])
        for part, colour in fills.items():
            albedo = torch.where((parts == part)[:, None], colour, albedo)
        return self._clothed(albedo, points, picture, parts, plan).clamp(0, 1)

    def _clothed(self, albedo: Tensor, points: Tensor, picture: Tensor, parts: Tensor, plan: Plan) -> Tensor:
        """Albedo with the garments filled in."""
        own_skirt = plan.outfit[picture, OUTFIT_NUMBERS.index("dress")] + plan.outfit[picture, OUTFIT_NUMBERS.index("coat")] > 0.5
        slot = torch.full_like(parts, -1)
        for part, name in ((Part.TOP, "top"), (Part.BOTTOM, "bottom"), (Part.INNER, "inner")):
            slot[parts == part] = CLOTHS.index(name)
        slot = torch.where(parts == Part.SKIRT, torch.where(own_skirt, CLOTHS.index("top"), CLOTHS.index("bottom")), slot)
        rows = torch.nonzero(slot >= 0)[:, 0]
        owner, slot = picture[rows], slot[rows]
        albedo[rows] = self._cloth(points[rows], plan.pattern[owner, slot], plan.cloth[owner, slot], plan.numbers[owner, slot],
                                   plan.waves[owner, slot])  # fmt: skip
        return albedo

    def _cloth(self, points: Tensor, pattern: Tensor, colours: Tensor, numbers: Tensor, waves: Tensor) -> Tensor:
        frequency, first, second, upright, grain, fade = numbers.unbind(1)
        x, y, z = points.unbind(1)
        wave, turn = waves_at(points, waves), x + z
        along = torch.where(upright > 0.5, y, x + 0.5 * z)
        blends = {
            "stripes": ((along * frequency).sin() > first).float(),
            "plaid": (((y * frequency).sin() > first).float() + ((turn * frequency).sin() > second).float()) / 2,
            "dots": ((y * frequency).sin() * (turn * frequency).sin() > 0.55 + 0.3 * first).float(),
            "flowers": (wave > 0.52 + 0.1 * first).float(),
            "gradient": ((y - 0.5 * first) * (4 + 12 * fade) + 0.5).clamp(0, 1),
            "tie-dye": wave,
            "blocks": torch.where(upright > 0.5, y < -0.32 + 0.15 * first, x.abs() > 0.13 + 0.03 * first).float(),
            "knit": 0.25 * (1 + ((x + 0.6 * z) * frequency).sin()),
            "denim": fade * (wave * 2 - 0.8).clamp(0, 1),
        }
        blend = torch.zeros_like(x)
        for name, value in blends.items():
            blend = torch.where(pattern == PATTERN_NAMES.index(name), value, blend)
        colour = colours[:, 0] + (colours[:, 1] - colours[:, 0]) * blend[:, None]
        return colour * (1 + grain * self._speckle(points, 400, 400))[:, None]

    def _speckle(self, points: Tensor, across_per_m: float, along_per_m: float) -> Tensor:
        """(N,) unit noise with one value for each small cell of the surface."""
        column = ((points[:, 0] + points[:, 2]) * across_per_m).long() & 255
        return self.grain[(points[:, 1] * along_per_m).long() & 255, column]

    def _skin(self, points: Tensor, tone: Tensor, waves: Tensor) -> Tensor:
        """Blotchy, redder about nose and cheeks, darker around the eyes; as core.training.appearance has it."""
        blotch = 1 + 0.05 * (waves_at(points, waves) - 0.5) + 0.02 * self._speckle(points, 500, 500)
        x, y, z = points.unbind(1)
        eye = [float(value) for value in self.surface.eye_m]
        up, side = eye[1] - y, x.abs()
        face = (z < -0.03) & (up > -0.13) & (up < 0.1) & (y < self.surface.neck_y_m)
        red = (-(((up + 0.045) / 0.03) ** 2) - ((side - 0.03) / 0.03) ** 2).exp() * face
        socket = (-((up / 0.014) ** 2) - ((side - eye[0]) / 0.02) ** 2).exp() * face
        nostril = (-(((up + 0.051) / 0.005) ** 2) - ((side - 0.009) / 0.005) ** 2).exp() * (z < -0.115)
        tint = torch.tensor([0.04, -0.10, -0.10], device=points.device)
        return tone * (blotch - 0.10 * socket - 0.45 * nostril)[:, None] * (1 + red[:, None] * tint)

    def _strands(self, points: Tensor, hair: Tensor, waves: Tensor) -> Tensor:
        squeezed = points * torch.tensor([1, 0.25, 1], device=points.device)
        fine = 1 + 0.07 * self._speckle(points, 420, 60) + 0.6 * (waves_at(squeezed, waves) - 0.5)
        return hair * fine.clamp(0.3, 2)[:, None]
