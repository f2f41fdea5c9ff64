"""Renders one synthetic person into a 224x224 crop, with its truth: camera, frame edge, clothes, light, shadows, clutter."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.sparse import csr_matrix, diags, identity

from core.arrays import check_array
from core.bodies.anny import AnnyBody
from core.crop import CROP_SCALE
from core.mesh import edges_of
from core.raster import Fragments, rasterize
from core.training.appearance import NUM_CHANNELS, BodySurface, Outfit, Part, label, paint, waves
from core.training.scenery import Scenery
from core.types import CROP_SIZE_PX

CUTOUTS_KEPT = 24


@dataclass(frozen=True)
class CropCamera:
    """A pinhole camera looking along z and the square window of it that becomes the crop.

    distance_m: from the camera to the body's middle; crop units = (x / z - center) * zoom, in [-1, 1]
    frame: left, top, right, bottom of the picture in crop units; beyond it the crop is black
    """

    middle_m: np.ndarray
    distance_m: float
    center: np.ndarray
    zoom: float
    frame: tuple[float, float, float, float]

    def depth(self, points_m: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N,) metres from the camera plane."""
        return points_m[:, 2] - self.middle_m[2] + self.distance_m

    def project(self, points_m: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N, 2) crop units."""
        return ((points_m[:, :2] - self.middle_m[:2]) / self.depth(points_m)[:, None] - self.center) * self.zoom


@dataclass(frozen=True)
class SyntheticCrop:
    """image: (224, 224, 3) uint8 RGB. The rest is the truth of its person, in camera axes, pelvis at 0.

    joints_crop: (14, 2) crop units; joint_visibility: (14,) 1 where the joint lies in the picture and nothing hides its place
    camera: (3,) weak-perspective scale, tx, ty that fits the projection best
    """

    image: np.ndarray
    joints_crop: np.ndarray
    joint_visibility: np.ndarray
    camera: np.ndarray

    def __post_init__(self) -> None:
        check_array("SyntheticCrop.image", self.image, (CROP_SIZE_PX, CROP_SIZE_PX, 3), np.uint8)
        check_array("SyntheticCrop.camera", self.camera, (3,), np.float32)


class Renderer:
    """Draws people of one body. Seeded; keeps a few earlier people to put behind and before later ones."""

    def __init__(self, body: AnnyBody, seed: int, backgrounds: Path | None = None) -> None:
        self.random = np.random.default_rng(seed)
        self.scenery = Scenery(self.random, CROP_SIZE_PX, backgrounds)
        self.surface = BodySurface(body)
        self.faces = body.faces
        self.cutouts: list[tuple[np.ndarray, np.ndarray]] = []
        count = len(body.levels.template_m)
        rows, columns = self.faces.ravel(), np.repeat(np.arange(len(self.faces)), 3)
        self.corner_sum = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(count, len(self.faces)))
        edges = edges_of(self.faces)
        both = np.concatenate([edges, edges[:, ::-1]]).T
        near = csr_matrix((np.ones(both.shape[1], np.float32), both), shape=(count, count)) + identity(count, dtype=np.float32)
        once = diags(1 / np.asarray(near.sum(1)).ravel()) @ near
        self.blur = (once @ once).astype(np.float32)
        self.legs = [self._ring_anchors(side) for side in (1.0, -1.0)]

    def draw(self, vertices_m: np.ndarray, joints_m: np.ndarray, pelvis_m: np.ndarray) -> SyntheticCrop:
        """Render a body of (V, 3) vertices with (14, 3) joints; all in camera axes and metres."""
        random = self.random
        camera = self._camera(vertices_m)
        outfit = Outfit.draw(random)
        mesh, channels, faces = self._dress(vertices_m.astype(np.float32), outfit)
        points_px = (camera.project(mesh) + 1) * (CROP_SIZE_PX / 2)
        fragments = rasterize(points_px, camera.depth(mesh), faces, CROP_SIZE_PX, CROP_SIZE_PX)
        colours = self._shade(mesh, channels, faces, fragments, outfit)
        person, covered = np.zeros((CROP_SIZE_PX, CROP_SIZE_PX, 3), np.float32), fragments.covered
        person[covered] = colours
        image, hidden = self._compose(person, covered)
        pixels = self._develop(image)
        pixels[self._outside(camera)] = 0  # as core.crop leaves it
        joints_crop = camera.project(joints_m)
        return SyntheticCrop(
            image=pixels,
            joints_crop=joints_crop.astype(np.float32),
            joint_visibility=self._visibility(joints_crop, hidden, camera),
            camera=_weak_camera(vertices_m - pelvis_m, camera.project(vertices_m)),
        )

    def _camera(self, vertices_m: np.ndarray) -> CropCamera:
        """A random distance; sometimes the picture's edge cuts the person; the crop surrounds what is left, with jitter."""
        random = self.random
        low, high = vertices_m.min(0), vertices_m.max(0)
        middle = (low + high) / 2
        distance = max(np.exp(random.uniform(np.log(2.0), np.log(12.0))), (high - low)[2] / 2 + 0.9)
        rough = CropCamera(middle, distance, np.zeros(2), 1.0, (-9, -9, 9, 9))
        flat = rough.project(vertices_m)
        box = np.concatenate([flat.min(0), flat.max(0)])
        cut = box + np.array([-9, -9, 9, 9.0])
        kind, size = random.random(), box[2:] - box[:2]
        if kind < 0.24:  # the webcam case: the lower part is missing
            cut[3] = box[1] + size[1] * random.uniform(0.28, 0.95)
        elif kind < 0.31:
            side = random.integers(2)
            cut[2 * side] = box[0] + size[0] * (random.uniform(0.05, 0.45) if side == 0 else random.uniform(0.55, 0.95))
        elif kind < 0.34:
            cut[1] = box[1] + size[1] * random.uniform(0.03, 0.4)
        elif kind < 0.50:  # the edge is near, but cuts nothing
            margins = random.exponential(0.15, 4) * size.max()
            cut = box + margins * np.array([-1, -1, 1, 1])
        seen = np.concatenate([np.maximum(box[:2], cut[:2]), np.minimum(box[2:], cut[2:])])
        half = (seen[2:] - seen[:2]).max() / 2 * CROP_SCALE * np.exp(random.normal(0, 0.09))
        center = (seen[:2] + seen[2:]) / 2 + random.normal(0, 0.05, 2) * 2 * half
        frame = tuple(float(v) for v in (cut - np.tile(center, 2)) / half)
        return CropCamera(middle, distance, center, 1 / half, frame)

    def _dress(self, vertices_m: np.ndarray, outfit: Outfit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Push clothes and hair off the skin, and add a skirt: (mesh, channels, faces)."""
        random, channels = self.random, self.surface.channels
        parts = label(channels, outfit, self.surface)
        offset = np.zeros(len(vertices_m), np.float32)
        for part, amount in zip((Part.TOP, Part.BOTTOM, Part.HAIR, Part.SHOE), outfit.puff_m, strict=True):
            mask = parts == part
            if mask.any():
                offset[mask] = amount * (0.4 + 1.2 * waves(random, channels[mask, :3], random.uniform(4, 25)))
        mesh = vertices_m + self._normals(vertices_m, self.faces) * (self.blur @ offset)[:, None]
        if outfit.skirt == 0:
            return mesh, channels, self.faces
        points, description, extra = self._skirt(vertices_m, outfit)
        return np.concatenate([mesh, points]), np.concatenate([channels, description]), np.concatenate([self.faces, extra + len(mesh)])

    def _ring_anchors(self, side: float) -> list[np.ndarray]:
        """For places along one leg: the vertices whose mean is the leg's centre there."""
        channels = self.surface.channels
        on_leg = (channels[:, 9] > 0.4) & (np.sign(channels[:, 0]) == side)
        return [np.flatnonzero(on_leg & (np.abs(channels[:, 4] - place) < 0.12)) for place in np.linspace(0.1, 1.8, 8)]

    def _skirt(self, vertices_m: np.ndarray, outfit: Outfit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A tube around both legs: rings of an ellipse that holds them, wider towards the hem."""
        spokes = np.linspace(0, 2 * np.pi, 25)[:-1]
        places = np.linspace(0.1, 1.8, 8)
        rings, last = [], np.flatnonzero(places <= outfit.skirt)[-1]
        for k in range(last + 1):
            left, right = (vertices_m[anchor[k]].mean(0) for anchor in self.legs)
            after = [vertices_m[anchor[min(k + 1, 7)]].mean(0) for anchor in self.legs]
            before = [vertices_m[anchor[max(k - 1, 0)]].mean(0) for anchor in self.legs]
            down = sum(after) - sum(before)
            across = left - right
            width = np.linalg.norm(across) + 1e-6
            across, down = across / width, down / (np.linalg.norm(down) + 1e-6)
            out = np.cross(across, down)
            thick = 0.105 - 0.025 * places[k] + outfit.flare * places[k] * 0.5
            wave = 1 + 0.10 * places[k] * np.sin(spokes * 7)
            ring = np.cos(spokes)[:, None] * across * (width / 2 + thick) + np.sin(spokes)[:, None] * out * thick * 1.1
            rings.append((left + right) / 2 + ring * wave[:, None])
        count, spoke = len(rings), np.arange(24)
        faces = [
            corner for k in range(count - 1) for corner in
            (np.stack([k * 24 + spoke, k * 24 + (spoke + 1) % 24, (k + 1) * 24 + spoke], 1),
             np.stack([k * 24 + (spoke + 1) % 24, (k + 1) * 24 + (spoke + 1) % 24, (k + 1) * 24 + spoke], 1))
        ]  # fmt: skip
        description = np.zeros((24 * count, NUM_CHANNELS), np.float32)
        description[:, 0], description[:, 1] = np.tile(np.cos(spokes) * 0.25, count), np.repeat(places[:count], 24) * 0.4
        description[:, 13] = 1
        return np.concatenate(rings).astype(np.float32), description, np.concatenate(faces or [np.zeros((0, 3))]).astype(np.int32)

    def _normals(self, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """(V, 3) unit normals that point outwards."""
        a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
        u, v = b - a, c - a
        flat = np.stack(
            [u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1], u[:, 2] * v[:, 0] - u[:, 0] * v[:, 2], u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]], 1
        )
        if faces is self.faces:
            total = self.corner_sum @ flat
        else:
            total = np.stack([np.bincount(faces.ravel(), np.repeat(flat[:, i], 3), len(vertices)) for i in range(3)], 1)
        return (total / (np.sqrt((total**2).sum(1, keepdims=True)) + 1e-12)).astype(np.float32)

    def _shade(self, mesh: np.ndarray, channels: np.ndarray, faces: np.ndarray, fragments: Fragments, outfit: Outfit) -> np.ndarray:
        """(N, 3) colours of the covered pixels, row by row."""
        random, covered = self.random, fragments.covered
        corners, weights = faces[fragments.face_index[covered]], fragments.barycentric[covered][..., None]
        seen = (channels[corners] * weights).sum(1)
        normals = (self._normals(mesh, faces)[corners] * weights).sum(1)
        parts = label(seen, outfit, self.surface)
        albedo = paint(random, parts, seen[:, :3], outfit)
        cloth = np.isin(parts, (Part.TOP, Part.BOTTOM, Part.SKIRT))
        strength, frequency = np.where(cloth, random.uniform(0, 0.6), 0.05)[:, None], random.uniform(15, 60)
        wrinkles = np.stack([waves(random, seen[:, :3], frequency) for _ in range(3)], 1) - 0.5
        normals = normals + strength * wrinkles
        normals = (normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9)).astype(np.float32)
        light = (random.uniform(0.4, 0.9) * (0.75 - 0.25 * normals[:, 1]))[:, None] * (1 + random.normal(0, 0.04, 3))
        for lamp in range(random.integers(1, 3)):
            towards = random.normal(0, 1, 3) * [1, 0.6, 0.8] + [0, -0.9, -0.5]
            towards /= np.linalg.norm(towards)
            amount = np.clip(normals @ towards.astype(np.float32), 0, None) * random.uniform(0.2, 0.9)
            if lamp == 0 and random.random() < 0.5:
                spots = (mesh[corners] * weights).sum(1) + normals * 0.012
                amount = amount * np.where(_shadowed(mesh, faces, spots, towards), random.uniform(0, 0.4), 1)
            light = light + amount[:, None] * (1 + random.normal(0, 0.06, 3))
        rim = (np.clip(1 + normals[:, 2], 0, 1) ** 3 * random.uniform(0, 0.25))[:, None] if random.random() < 0.3 else 0.0
        return np.clip(albedo * light + rim, 0, 1)

    def _compose(self, person: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Background, others behind, the person, things and others in front: (image float32, hidden (S, S) bool)."""
        random, mask = self.random, covered.astype(np.float32)
        scene = self.scenery.background()
        if random.random() < 0.25:
            for _ in range(random.integers(1, 4)):
                scene = self._paste(scene, 0.6, (0.5, 1.2))[0]
        if random.random() < 0.4:
            lean = np.float32([[1, random.uniform(-0.5, 0.5), 0], [0, 0.3, CROP_SIZE_PX * 0.62]])
            shadow = cv2.GaussianBlur(cv2.warpAffine(mask, lean, mask.shape), (0, 0), 5)
            scene = scene * (1 - 0.5 * shadow[..., None] * random.random())
        soft = np.minimum(mask, np.maximum(cv2.GaussianBlur(mask, (0, 0), random.uniform(0.4, 0.8)), 0.35))[..., None]
        image = person * soft + scene * (1 - soft)
        hidden = np.zeros(mask.shape, bool)
        if covered.any() and random.random() < 0.28:
            cover = self.scenery.occluder(covered)
            if (cover & covered).sum() < 0.5 * covered.sum():
                image = np.where(cover[..., None], self.scenery.texture(), image)
                hidden |= cover
        if self.cutouts and random.random() < 0.08:
            front, alpha = self._paste(image, 0.9, (0.8, 1.3))
            if (alpha[covered] > 0.5).mean() < 0.35 if covered.any() else False:
                image, hidden = front, hidden | (alpha > 0.5)
        self._keep(person, mask)
        return image, hidden

    def _keep(self, person: np.ndarray, mask: np.ndarray) -> None:
        if len(self.cutouts) < CUTOUTS_KEPT:
            self.cutouts.append((person, mask))
        else:
            self.cutouts[self.random.integers(CUTOUTS_KEPT)] = (person, mask)

    def _paste(self, scene: np.ndarray, reach: float, scales: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Put an earlier person somewhere into the scene: (scene, alpha (S, S))."""
        random, size = self.random, CROP_SIZE_PX
        if not self.cutouts:
            return scene, np.zeros((size, size), np.float32)
        person, mask = self.cutouts[random.integers(len(self.cutouts))]
        scale = random.uniform(*scales)
        shift = (np.array([random.uniform(-reach, reach), random.uniform(-0.2, 0.25)]) + (1 - scale) / 2) * size
        place = np.float32([[scale, 0, shift[0]], [0, scale, shift[1]]])
        if random.random() < 0.5:
            place[0] = [-scale, 0, size - shift[0]]
        alpha = cv2.warpAffine(mask, place, (size, size))
        return scene * (1 - alpha[..., None]) + cv2.warpAffine(person, place, (size, size)) * alpha[..., None], alpha

    def _outside(self, camera: CropCamera) -> np.ndarray:
        """(S, S) bool: beyond the edge of the picture."""
        units = (np.arange(CROP_SIZE_PX) + 0.5) / (CROP_SIZE_PX / 2) - 1
        left, top, right, bottom = camera.frame
        return ((units < left) | (units > right))[None] | ((units < top) | (units > bottom))[:, None]

    def _visibility(self, joints_crop: np.ndarray, hidden: np.ndarray, camera: CropCamera) -> np.ndarray:
        """(14,) 1 where a joint's place is in the picture and in the crop and nothing in front covers it."""
        left, top, right, bottom = np.clip(camera.frame, -1, 1)
        x, y = joints_crop.T
        inside = (x > left) & (x < right) & (y > top) & (y < bottom)
        column, row = (np.clip(((v + 1) * CROP_SIZE_PX / 2).astype(int), 0, CROP_SIZE_PX - 1) for v in (x, y))
        return (inside & ~hidden[row, column]).astype(np.float32)

    def _develop(self, image: np.ndarray) -> np.ndarray:
        """The camera's own faults: low resolution, blur, motion, tone, colour cast, noise, grey."""
        random, size = self.random, CROP_SIZE_PX
        image = np.ascontiguousarray(image, np.float32)
        if random.random() < 0.15:
            small = int(size * random.uniform(0.2, 0.8))
            image = cv2.resize(
                cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size), interpolation=cv2.INTER_LINEAR
            )
        if random.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.2, 1.2))
        if random.random() < 0.07:
            streak, angle = np.zeros((9, 9), np.float32), random.random() * np.pi
            tip = int(4 - 4 * np.cos(angle)), int(4 - 4 * np.sin(angle))
            cv2.line(streak, tip, (8 - tip[0], 8 - tip[1]), 1, 1)
            image = cv2.filter2D(image, -1, streak / streak.sum())
        ramp = np.linspace(0, 1, 256)[:, None] ** np.exp(random.normal(-0.05, 0.2))
        ramp = ((ramp - 0.5) * np.exp(random.normal(0, 0.2)) + 0.5 + random.normal(0, 0.07)) * (1 + random.normal(0, 0.05, 3))
        table = (np.clip(ramp, 0, 1) * 255).astype(np.uint8)[None]
        pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
        if random.random() < 0.05:
            pixels = np.repeat(pixels[..., 1:2], 3, -1)
        toned = cv2.LUT(pixels, table)
        row, column = random.integers(0, size, 2)
        grain = self.scenery.grain[row : row + size, column : column + size]
        noise = grain[..., :1] * np.float32(random.uniform(0, 7)) + grain[..., 1:] * np.float32(random.uniform(0, 4))
        return np.clip(toned + noise, 0, 255).astype(np.uint8)


def _shadowed(mesh: np.ndarray, faces: np.ndarray, spots: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """(N,) bool: spots from which the lamp in direction `towards` is hidden by the mesh (a shadow map)."""
    side = np.cross(towards, [0.3, 0.9, 0.1])
    side /= np.linalg.norm(side)
    basis = np.stack([side, np.cross(towards, side), -towards], 1).astype(np.float32)
    flat, size = (mesh - mesh.mean(0)) @ basis, 224
    low = flat[:, :2].min(0)
    scale = (size - 4) / (np.ptp(flat[:, :2], axis=0).max() + 1e-6)
    front = rasterize((flat[:, :2] - low) * scale + 2, flat[:, 2] + 10, faces, size, size).inverse_depth
    place = (spots - mesh.mean(0)) @ basis
    column, row = np.clip(((place[:, :2] - low) * scale + 2).astype(int), 0, size - 1).T
    return front[row, column] > 1 / (place[:, 2] + 10 - 0.015)


def _weak_camera(points_m: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Least-squares scale, tx, ty with crop = scale * (xy + t) for (N, 3) pelvis-centred points."""
    flat = points_m[:, :2]
    mean, target = flat.mean(0), crop.mean(0)
    scale = ((flat - mean) * (crop - target)).sum() / ((flat - mean) ** 2).sum()
    return np.array([scale, *(target / scale - mean)], np.float32)
