"""From where synthetic people are seen, and how much of them: heading, pitch, roll, distance, and where the picture's edge cuts.

Everything is in camera axes: x right, y down, z away.
"""

from dataclasses import dataclass

import numpy as np

from core.joints import HIPS, JOINT_NAMES, indices
from core.levelling import lean_rad
from core.rotations import about_x, about_y, about_z

FRAMINGS = {"full": 0.36, "edge": 0.10, "wide": 0.09, "webcam": 0.24, "half": 0.13, "side": 0.05, "headless": 0.03}
"""Share of each. full: nothing cut; edge: the edge is near; wide: the whole body from 1.2 to 2.2 m; webcam: cut from chest to thigh,
seen from 0.5 to 1.6 m; half: the same from farther; side: cut on a side; headless: cut from above."""
FRAMING_NAMES = tuple(FRAMINGS)
HEADINGS = {"front": (0.0, 0.38), "left": (90.0, 0.20), "right": (270.0, 0.20), "back": (180.0, 0.22)}
"""Degrees about the vertical at the middle of each quarter, and its share."""
UNSEEN_SHARE = 0.03
"""Weight in the weak camera of all that the crop does not show."""
LOG_LOOSENESS, OFF_CENTRE = (0.03, 0.14), 0.05
"""How detectors' boxes differ from the person's own: mean and deviation of the logarithm of their size, deviation of their centre from
the right one, in sides of the crop."""
CLEAR_M = 0.4
"""The camera keeps so far from everybody's nearest point."""
OUTWARDS = np.array([-1.0, -1.0, 1.0, 1.0])
KNEES = indices(("R_Knee", "L_Knee"))
NECK, HEAD = JOINT_NAMES.index("Neck"), JOINT_NAMES.index("Head")


@dataclass(frozen=True)
class Views:
    """rotmats: (B, 3, 3) from a body that stands upright and faces -z to the camera; framing: (B,) index into FRAMING_NAMES."""

    rotmats: np.ndarray
    framing: np.ndarray


def draw_views(random: np.random.Generator, count: int) -> Views:
    """Headings in their shares (from a webcam mostly the front), camera pitch from below to far above, roll."""
    framing = random.choice(len(FRAMINGS), count, p=list(FRAMINGS.values()))
    close = np.isin(framing, [FRAMING_NAMES.index("webcam")])
    quarter = random.choice(len(HEADINGS), count, p=[share for _, share in HEADINGS.values()])
    quarter = np.where(close & (random.random(count) < 0.7), 0, quarter)
    yaw = np.array([middle for middle, _ in HEADINGS.values()])[quarter] + random.uniform(-45, 45, count)
    yaw = np.where((quarter == 0) & (random.random(count) < 0.5), random.normal(0, 14, count), yaw)
    kind = random.random(count)
    pitch = np.select(
        [close, kind < 0.58, kind < 0.83, kind < 0.92],
        [random.normal(4, 9, count), random.normal(3, 5, count), random.normal(13, 13, count), random.uniform(-35, -3, count)],
        random.uniform(25, 75, count),
    )
    roll = random.normal(0, np.where(random.random(count) < 0.12, 20, 4))
    return Views(about_z(roll) @ about_x(pitch) @ about_y(yaw), framing)


def draw_leans(random: np.random.Generator, count: int, share: float) -> np.ndarray:
    """(B,) radians by which trunks shall lean in the picture: for that share what an app that levels crops leaves, inf (as posed) else."""
    left_deg = random.normal(0, np.where(random.random(count) < 0.2, 30, 8))
    return np.where(random.random(count) < share, np.radians(left_deg), np.inf)


def levelling(joints_m: np.ndarray, wanted_rad: np.ndarray) -> np.ndarray:
    """(B, 14, 3) joints -> (B, 3, 3) what turns people in the picture until they lean as `draw_leans` says."""
    turn = wanted_rad - lean_rad(joints_m)
    return about_z(np.degrees(np.where(np.isfinite(turn), turn, 0.0)))


@dataclass(frozen=True)
class CropCamera:
    """A pinhole camera looking along z and the square window of it that becomes the crop.

    middle_m: (3,) the optical axis passes its x and y; distance_m: from the camera to its depth
    crop units = (x / z - center) * zoom, in [-1, 1]
    frame: left, top, right, bottom of the picture in crop units; beyond it the crop is black
    """

    middle_m: np.ndarray
    distance_m: float
    center: np.ndarray
    zoom: float
    frame: tuple[float, float, float, float]

    def depth(self, points_m: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N,) metres from the camera plane."""
        return points_m[:, 2] + np.float32(self.distance_m - self.middle_m[2])

    def project(self, points_m: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N, 2) crop units."""
        scale = np.float32(self.zoom) / self.depth(points_m)
        shift = np.float32(self.center * self.zoom)
        columns = [(points_m[:, k] - np.float32(self.middle_m[k])) * scale - shift[k] for k in range(2)]
        return np.stack(columns, 1)


def draw_camera(random: np.random.Generator, vertices_m: np.ndarray, joints_m: np.ndarray, framing: str, crop_scale: float) -> CropCamera:
    """A camera whose crop surrounds what the picture shows of the body, as a detector's box would, with some jitter.

    crop_scale: as in PeopleConfig
    """
    close = framing == "webcam"
    low, high = (np.array([pick(vertices_m[:, k]) for k in range(3)]) for pick in (np.min, np.max))
    middle = joints_m[[HEAD, NECK]].mean(0) if close else (low + high) / 2
    reach = {"webcam": (0.5, 1.6), "wide": (1.2, 2.2)}.get(framing, (2.0, 14.0))
    distance = max(np.exp(random.uniform(*np.log(reach))), middle[2] - low[2] + CLEAR_M)
    off_axis = random.normal(0, 0.12, 2) * (0.4 if close else 1.0)
    middle = middle + np.array([*off_axis * distance, 0.0])
    rough = CropCamera(middle, distance, np.zeros(2), 1.0, (-9, -9, 9, 9))
    flat = rough.project(vertices_m)
    body = Flat(_box_of(flat), rough.project(joints_m))
    cut = CUTS[framing](random, body) if framing in CUTS else body.box + 9.0 * OUTWARDS
    inside = (flat[:, 0] > cut[0]) & (flat[:, 1] > cut[1]) & (flat[:, 0] < cut[2]) & (flat[:, 1] < cut[3])
    seen = flat[inside] if inside.sum() > 400 else flat
    box = _box_of(seen)
    half = max(box[2] - box[0], box[3] - box[1]) / 2 * crop_scale * np.exp(random.normal(*LOG_LOOSENESS))
    center = (box[:2] + box[2:]) / 2 + random.normal(0, OFF_CENTRE, 2) * 2 * half
    frame = tuple(float(v) for v in (cut - np.tile(center, 2)) / half)
    return CropCamera(middle, float(distance), center, 1 / half, frame)


@dataclass(frozen=True)
class Flat:
    """A body in the picture, in units of x / z. box: (4,) around all of it; marks: (14, 2) joints."""

    box: np.ndarray
    marks: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """(2,) width and height."""
        return self.box[2:] - self.box[:2]


def _box_of(flat: np.ndarray) -> np.ndarray:
    return np.array([flat[:, 0].min(), flat[:, 1].min(), flat[:, 0].max(), flat[:, 1].max()], np.float64)


def _cut_near(random: np.random.Generator, body: Flat) -> np.ndarray:
    margins = np.where(random.random(4) < 0.45, random.exponential(0.12, 4) * body.size.max(), 9)
    return body.box + margins * OUTWARDS


def _cut_below(random: np.random.Generator, body: Flat) -> np.ndarray:
    """A picture from above the head down to the chest, the waist, the hips or the thighs, as wide as pictures are."""
    box, size, marks = body.box, body.size, body.marks
    neck, hip, knee = marks[NECK, 1], marks[HIPS, 1].mean(), marks[KNEES, 1].mean()
    if hip - neck < 0.1 * size[1]:  # lying or upside down
        bottom = box[1] + size[1] * random.uniform(0.35, 0.9)
    else:
        place = random.uniform(0.4, 2.0)
        bottom = neck + (hip - neck) * min(place, 1.15) + max(place - 1.15, 0) * max(knee - hip, 0.0)
    top = box[1] - (bottom - box[1]) * (0.1 + random.exponential(0.6))
    tall = bottom - top
    wide = tall * random.choice([16 / 9, 4 / 3, 1.0, 3 / 4], p=[0.52, 0.32, 0.08, 0.08])
    x = marks[[HEAD, NECK], 0].mean() + random.normal(0, 0.10) * wide
    return np.array([x - wide / 2, top, x + wide / 2, bottom])


def _cut_aside(random: np.random.Generator, body: Flat) -> np.ndarray:
    box, size = body.box, body.size
    cut, side = box + 9.0 * OUTWARDS, random.integers(2)
    cut[2 * side] = box[0] + size[0] * (random.uniform(0.05, 0.38) if side == 0 else random.uniform(0.62, 0.95))
    return cut


def _cut_above(random: np.random.Generator, body: Flat) -> np.ndarray:
    box, size = body.box, body.size
    cut = box + 9.0 * OUTWARDS
    cut[1] = box[1] + size[1] * random.uniform(0.03, 0.35)
    return cut


CUTS = {"edge": _cut_near, "webcam": _cut_below, "half": _cut_below, "side": _cut_aside, "headless": _cut_above}
"""Framing -> left, top, right, bottom of the picture in units of x / z."""


def weak_camera(points_m: np.ndarray, crop: np.ndarray, frame: tuple[float, float, float, float]) -> np.ndarray:
    """Least-squares scale, tx, ty with crop = scale * (xy + t) for (N, 3) pelvis-centred points; what the crop shows counts most."""
    left, top, right, bottom = np.clip(frame, -1, 1)
    x, y = crop.T
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    count = int(inside.sum())
    if 50 < count < len(crop):
        weight = np.where(inside, (1 - UNSEEN_SHARE) / count, UNSEEN_SHARE / (len(crop) - count))
    else:
        weight = np.full(len(crop), 1 / len(crop))
    flat, crop = points_m[:, :2].astype(np.float64), crop.astype(np.float64)
    mean, target = weight @ flat, weight @ crop
    flat = flat - mean
    scale = (weight @ (flat * (crop - target))).sum() / (weight @ flat**2).sum()
    return np.array([scale, *(target / scale - mean)], np.float32)
