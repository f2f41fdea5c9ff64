"""Poses for synthetic people: procedural families over joint ranges, seen from any side.

Angles are in degrees, one row a person, two columns left and right. Axes are the camera's: x right, y down, z away, the
body facing the camera (towards -z), so its left side is at +x.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from core.bodies.anny import AVERAGE_ADULT, AnnyBody
from core.rotations import about_x, about_y, about_z, frame, rotation, swing, unit
from core.training.views import draw_views

FAMILIES = (
    "standing",
    "walking",
    "sitting",
    "reaching",
    "crouching",
    "stepping",
    "kicking",
    "kneeling",
    "cross-legged",
    "free",
    "lying",
    "inverted",
)
FAMILY_WEIGHTS = (0.18, 0.16, 0.14, 0.08, 0.08, 0.06, 0.05, 0.05, 0.03, 0.06, 0.08, 0.03)
CLOSE_WEIGHTS = (0.32, 0.06, 0.44, 0.08, 0.01, 0.02, 0.0, 0.01, 0.03, 0.02, 0.01, 0.0)
"""Shares of the families before a webcam."""
EVERYDAY_FAMILIES = FAMILIES[:4]

SIDES = (("L", 1.0), ("R", -1.0))
SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
NECK = ("neck01", "neck02", "neck03", "head")
ARM_RANGES = {  # elevation from hanging, azimuth from sideways to the front, elbow flexion, share
    "hanging": ((3, 40), (-60, 110), (4, 35), 0.33),
    "bent": ((3, 45), (-20, 100), (30, 140), 0.17),
    "low": ((15, 90), (-35, 110), (5, 140), 0.20),
    "forward": ((55, 120), (-25, 105), (0, 130), 0.20),
    "overhead": ((110, 178), (-20, 85), (0, 80), 0.10),
}
AIMS = {  # where the wrist goes, metres from the neck's root: outwards, down, away; share
    "chin": (0.06, -0.03, -0.20, 0.11), "cheek": (0.11, -0.06, -0.13, 0.08), "ear": (0.15, -0.12, -0.08, 0.09),
    "brow": (0.08, -0.17, -0.18, 0.05), "crown": (0.08, -0.30, -0.05, 0.04), "neck": (0.12, -0.06, 0.08, 0.03),
    "chest": (0.02, 0.22, -0.20, 0.08), "crossed": (-0.10, 0.26, -0.20, 0.11), "belly": (0.05, 0.42, -0.18, 0.09),
    "hip": (0.22, 0.50, -0.02, 0.09), "desk": (0.17, 0.42, -0.33, 0.13), "camera": (0.20, 0.02, -0.40, 0.05),
    "back": (0.05, 0.45, 0.16, 0.05),
}  # fmt: skip


@dataclass(frozen=True)
class PoseBatch:
    """rotmats: (B, 104, 3, 3) float32, each bone relative to its parent, the root first; family: (B,) index into FAMILIES."""

    rotmats: Tensor
    family: np.ndarray


class PoseSampler:
    """Draws poses of an Anny body; seeded, so that a seed and a count always give the same poses."""

    def __init__(self, body: AnnyBody, seed: int) -> None:
        self.body = body
        self.random = np.random.default_rng(seed)
        heads = reference_heads(body)
        at = body.bone_index
        self.arm, self.forearm, self.elbow_axis, self.fingers = {}, {}, {}, {}
        for side, sign in SIDES:
            upper, lower, wrist = (heads[at(f"{name}.{side}")] for name in ("upperarm01", "lowerarm01", "wrist"))
            self.arm[side], self.forearm[side] = unit(lower - upper), unit(wrist - lower)
            self.elbow_axis[side] = unit(np.cross(self.arm[side], self.forearm[side]))
            palm = sign * unit(np.cross(heads[at(f"finger2-1.{side}")] - wrist, heads[at(f"finger5-1.{side}")] - wrist))
            for finger in range(2, 6):
                direction = unit(heads[at(f"finger{finger}-3.{side}")] - heads[at(f"finger{finger}-1.{side}")])
                self.fingers[side, finger] = unit(np.cross(direction, palm))
        self.shoulder = {side: heads[at(f"upperarm01.{side}")] - heads[at("neck01")] for side, _ in SIDES}
        nodes = [heads[at(f"{name}.L")] for name in ("upperarm01", "lowerarm01", "wrist")]
        self.arm_lengths = tuple(float(np.linalg.norm(end - start)) for start, end in pairwise(nodes))
        self.rest_elbow = {side: np.degrees(np.arccos(self.arm[side] @ self.forearm[side])) for side, _ in SIDES}

    def sample(self, count: int, family: np.ndarray | None = None, view: np.ndarray | None = None) -> PoseBatch:
        """Draw `count` poses; family (count,) fixes the families, else they follow FAMILY_WEIGHTS.

        view: (count, 3, 3) from a body that stands upright and faces -z to the camera; None draws them as core.training.views does
        """
        random = self.random
        if family is None:
            family = random.choice(len(FAMILIES), count, p=FAMILY_WEIGHTS)
        if view is None:
            view = draw_views(random, count).rotmats
        rotmats = np.tile(np.eye(3), (count, len(self.body.bone_names), 1, 1))
        lean = self._legs(rotmats, family)
        self._torso(rotmats, lean)
        self._arms(rotmats, family)
        rotmats[:, 0] = view @ self._tilt(family)
        return PoseBatch(torch.from_numpy(rotmats.astype(np.float32)), family)

    def _set(self, rotmats: np.ndarray, bone: str, value: np.ndarray) -> None:
        rotmats[:, self.body.bone_index(bone)] = value

    def _legs(self, rotmats: np.ndarray, family: np.ndarray) -> np.ndarray:
        """Fill hips, knees and feet; returns (B,) degrees that the upper body leans forward to keep its balance."""
        count = len(family)
        flexion, abduction, knee, twist = (np.zeros((count, 2)) for _ in range(4))
        lean = np.zeros(count)
        for index, name in enumerate(FAMILIES):
            rows = np.flatnonzero(family == index)
            if len(rows):
                values = LEGS[name](self.random, len(rows))
                flexion[rows], abduction[rows], knee[rows], twist[rows], lean[rows] = values
        normal = self.random.normal
        for column, (side, sign) in enumerate(SIDES):
            flex, spread = np.radians(flexion[:, column]), np.radians(np.clip(abduction[:, column], -25, 65))
            thigh = np.stack([sign * np.sin(spread), np.cos(spread) * np.cos(flex), -np.cos(spread) * np.sin(flex)], 1)
            turn = rotation(thigh, sign * -twist[:, column])
            self._set(rotmats, f"upperleg01.{side}", turn @ swing(np.array([0, 1.0, 0]), thigh))
            bend = about_x(np.clip(knee[:, column], 0, 150)) @ about_y(normal(0, 5, count))
            self._set(rotmats, f"lowerleg01.{side}", bend)
            point = normal(0, 12, count) + np.where(self.random.random(count) < 0.2, self.random.uniform(0, 35, count), 0)
            self._set(rotmats, f"foot.{side}", about_x(point) @ about_z(normal(0, 6, count)) @ about_y(normal(0, 8, count)))
        return lean

    def _torso(self, rotmats: np.ndarray, lean: np.ndarray) -> None:
        random, count = self.random, len(lean)
        bend = np.where(random.random(count) < 0.18, random.uniform(0, 85, count), random.normal(4, 10, count)) + lean
        side = random.normal(0, np.where(random.random(count) < 0.15, 22, 7))
        turn = random.normal(0, np.where(random.random(count) < 0.2, 25, 8))
        step = about_y(turn / 5) @ about_z(side / 5) @ about_x(bend / 5)
        for bone in SPINE:
            self._set(rotmats, bone, step)
        nod = random.normal(0, 14, count) - bend * 0.3 * random.random(count)
        look = np.clip(random.normal(0, np.where(random.random(count) < 0.3, 35, 12)), -75, 75)
        step = about_y(look / 4) @ about_z(random.normal(0, 9, count) / 4) @ about_x(nod / 4)
        for bone in NECK:
            self._set(rotmats, bone, step)

    def _arms(self, rotmats: np.ndarray, family: np.ndarray) -> None:
        random, count = self.random, len(family)
        symmetric, first = random.random(count) < 0.3, None
        for side, sign in SIDES:
            angles = self._arm_angles(family)
            if first is not None:
                angles = np.where(symmetric, first + random.normal(0, 8, first.shape), angles)
            first = angles
            elevation, azimuth, flexion, twist = angles
            elevation, flexion = np.clip(elevation, 0, 178), np.clip(flexion, 2, 148)
            up, around = np.radians(elevation), np.radians(azimuth)
            direction = np.stack([sign * np.sin(up) * np.cos(around), np.cos(up), -np.sin(up) * np.sin(around)], 1)
            shrug = np.maximum(elevation - 50, 0) * 0.22 + random.normal(0, 4, count)
            clavicle = about_z(-sign * shrug) @ about_y(sign * random.normal(0, 6, count))
            reach = rotation(direction, sign * np.clip(twist, -85, 85)) @ swing(self.arm[side], direction)
            aimed, aimed_reach, aimed_flexion = self._aimed(family, side, sign)
            reach = np.where(aimed[:, None, None], aimed_reach, reach)
            flexion = np.where(aimed, aimed_flexion, flexion)
            clavicle = np.where(aimed[:, None, None], np.eye(3), clavicle)
            self._set(rotmats, f"clavicle.{side}", clavicle)
            self._set(rotmats, f"upperarm01.{side}", clavicle.swapaxes(1, 2) @ reach)
            self._set(rotmats, f"lowerarm01.{side}", rotation(self.elbow_axis[side], flexion - self.rest_elbow[side]))
            self._set(rotmats, f"lowerarm02.{side}", rotation(self.forearm[side], np.clip(random.normal(0, 35, count), -80, 80)))
            self._set(rotmats, f"wrist.{side}", about_x(random.normal(0, 14, count)) @ about_z(random.normal(0, 14, count)))
            self._hand(rotmats, side)

    def _aimed(self, family: np.ndarray, side: str, sign: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arms that bring the hand to a place of AIMS: (B,) which ones, (B, 3, 3) rotation of the upper arm, (B,) elbow flexion."""
        random, count = self.random, len(family)
        aims = np.array([row[:3] for row in AIMS.values()])
        kind = random.choice(len(AIMS), count, p=[row[3] for row in AIMS.values()])
        target = aims[kind] * [sign, 1, 1] + random.normal(0, 0.035, (count, 3))
        shoulder, upper, lower = self.shoulder[side], *self.arm_lengths
        offset = target - shoulder
        span = np.linalg.norm(offset, axis=1)
        distance = np.clip(span, abs(upper - lower) + 0.06, (upper + lower) * 0.985)
        towards = offset / span[:, None]
        along = (upper**2 + distance**2 - lower**2) / (2 * distance)
        away = np.sqrt(np.maximum(upper**2 - along**2, 0))
        pole = np.stack([sign * random.uniform(0.2, 1.2, count), random.uniform(0.2, 1.2, count), random.uniform(-0.3, 0.5, count)], 1)
        pole = unit(pole - (pole * towards).sum(1, keepdims=True) * towards)
        arm = unit(along[:, None] * towards + away[:, None] * pole)
        forearm = unit(distance[:, None] * towards - upper * arm)
        hinge = unit(np.cross(arm, forearm) + 1e-9)
        reach = frame(arm, hinge) @ frame(self.arm[side], self.elbow_axis[side]).T
        flexion = np.degrees(np.arccos(np.clip((arm * forearm).sum(1), -1, 1)))
        everyday = np.isin(family, [FAMILIES.index(name) for name in ("standing", "sitting", "cross-legged", "kneeling")])
        return (random.random(count) < np.where(everyday, 0.42, 0.12)) & (family != FAMILIES.index("reaching")), reach, flexion

    def _arm_angles(self, family: np.ndarray) -> np.ndarray:
        """(4, B) elevation, azimuth, elbow flexion, twist of one arm."""
        random, count = self.random, len(family)
        kinds = list(ARM_RANGES.values())
        kind = random.choice(len(kinds), count, p=[row[3] for row in kinds])
        kind = np.where(np.isin(family, [FAMILIES.index("reaching"), FAMILIES.index("inverted")]), len(kinds) - 1, kind)
        low, high = (np.array([[row[part][end] for row in kinds] for part in range(3)])[:, kind] for end in (0, 1))
        angles = random.uniform(low, high)
        return np.concatenate([angles, random.normal(0, 32, (1, count))])

    def _hand(self, rotmats: np.ndarray, side: str) -> None:
        random, count = self.random, len(rotmats)
        curl = np.where(random.random(count) < 0.3, random.uniform(30, 80, count), random.uniform(-5, 35, count))
        for finger in range(2, 6):
            step = rotation(self.fingers[side, finger], curl + random.normal(0, 5, count))
            for part in (1, 2, 3):
                self._set(rotmats, f"finger{finger}-{part}.{side}", step)

    def _tilt(self, family: np.ndarray) -> np.ndarray:
        """(B, 3, 3) of the whole body against upright: slight, lying on the back, the face or a side, or upside down."""
        random, count = self.random, len(family)
        loose = random.random(count) < 0.08
        tilt = about_x(random.normal(0, np.where(loose, 35, 8))) @ about_z(random.normal(0, np.where(loose, 25, 6)))
        face = about_x(np.where(random.random(count) < 0.6, -90.0, 90.0) + random.normal(0, 12, count)) @ about_y(
            np.where(random.random(count) < 0.3, random.choice([-90, 90], count), 0) + random.normal(0, 30, count)
        )
        face = about_y(random.uniform(0, 360, count)) @ face
        lying, inverted = (family == FAMILIES.index(name) for name in ("lying", "inverted"))
        tilt = np.where(lying[:, None, None], face, tilt)
        return np.where(inverted[:, None, None], about_z(180 + random.normal(0, 14, count)) @ tilt, tilt)


def reference_heads(body: AnnyBody) -> np.ndarray:
    """(104, 3) bone heads of an average adult with identity rotations, metres, camera axes."""
    _, heads, alignments = body.rest(AVERAGE_ADULT)
    identity = torch.eye(3).expand(1, len(body.bone_names), 3, 3)
    return body.bone_transforms(identity, heads, alignments)[1][0].double().numpy()


Legs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Flexion, abduction, knee and outward twist, each (B, 2) degrees for left and right, and the forward lean (B,)."""


def _standing(random: np.random.Generator, count: int) -> Legs:
    normal, size = random.normal, (count, 2)
    wide = random.uniform(0, 12, (count, 1)) * (random.random((count, 1)) < 0.5)
    return normal(0, 7, size), normal(3, 5, size) + wide, np.maximum(normal(3, 6, size), 0), normal(6, 10, size), np.zeros(count)


def _walking(random: np.random.Generator, count: int) -> Legs:
    normal, size = random.normal, (count, 2)
    reach, phase = random.uniform(10, 55, (count, 1)), random.uniform(0, 2 * np.pi, (count, 1))
    wave = np.concatenate([np.cos(phase), -np.cos(phase)], 1)
    lift = np.concatenate([np.sin(phase), -np.sin(phase)], 1)
    knee = normal(8, 6, size) + (np.maximum(lift, 0) + 0.3 * np.maximum(wave, 0)) * reach * 1.6
    return reach * (wave + 0.15) + normal(0, 5, size), normal(2, 5, size), np.clip(knee, 0, 130), normal(4, 8, size), reach[:, 0] * 0.1


def _sitting(random: np.random.Generator, count: int) -> Legs:
    normal, size = random.normal, (count, 2)
    flexion, spread = random.uniform(65, 108, (count, 1)), random.uniform(-4, 28, (count, 1))
    knee = random.uniform(35, 118, (count, 1)) + normal(0, 15, size)
    return flexion + normal(0, 8, size), spread + normal(0, 6, size), knee, random.uniform(-5, 20, size), np.zeros(count)


def _crouching(random: np.random.Generator, count: int) -> Legs:
    normal, size = random.normal, (count, 2)
    depth, spread = random.uniform(30, 122, (count, 1)), random.uniform(0, 35, (count, 1))
    return (
        depth + normal(0, 8, size),
        spread + normal(0, 6, size),
        depth * 1.1 + normal(0, 10, size),
        random.uniform(0, 30, size),
        depth[:, 0] * 0.35,
    )


def _same_side(random: np.random.Generator, pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """(lifted, standing) values, each (B,) -> (B, 2) left and right, with the lifted leg on one side per person."""
    left = random.random(len(pairs[0][0])) < 0.5
    return [np.where(left[:, None], np.stack([a, b], 1), np.stack([b, a], 1)) for a, b in pairs]


def _stepping(random: np.random.Generator, count: int) -> Legs:
    uniform, normal = random.uniform, random.normal
    flexion, knee = _same_side(
        random, [(uniform(45, 112, count), uniform(-40, 10, count)), (uniform(40, 112, count), uniform(0, 80, count))]
    )
    return flexion, normal(5, 8, (count, 2)), knee, normal(0, 10, (count, 2)), normal(5, 8, count)


def _kicking(random: np.random.Generator, count: int) -> Legs:
    uniform, normal = random.uniform, random.normal
    pairs = [
        (uniform(20, 120, count), normal(0, 8, count)),
        (uniform(-10, 55, count), normal(4, 6, count)),
        (uniform(0, 100, count), np.maximum(normal(4, 6, count), 0)),
    ]
    flexion, abduction, knee = _same_side(random, pairs)
    return flexion, abduction, knee, normal(0, 15, (count, 2)), normal(-5, 10, count)


def _kneeling(random: np.random.Generator, count: int) -> Legs:
    uniform, normal, size = random.uniform, random.normal, (count, 2)
    one_knee = random.random(count) < 0.5
    flexion, knee = _same_side(
        random,
        [
            (np.where(one_knee, uniform(75, 105, count), uniform(-10, 50, count)), uniform(-10, 30, count)),
            (uniform(85, 120, count), uniform(80, 140, count)),
        ],
    )
    return flexion, normal(6, 6, size), knee, normal(0, 8, size), normal(5, 8, count)


def _cross_legged(random: np.random.Generator, count: int) -> Legs:
    uniform, size = random.uniform, (count, 2)
    return uniform(75, 105, size), uniform(35, 60, size), uniform(110, 140, size), uniform(35, 60, size), random.normal(5, 8, count)


def _free(random: np.random.Generator, count: int) -> Legs:
    uniform, size = random.uniform, (count, 2)
    return uniform(-30, 110, size), uniform(-15, 45, size), uniform(0, 135, size), uniform(-25, 35, size), random.normal(0, 10, count)


def _lying(random: np.random.Generator, count: int) -> Legs:
    choices = [_standing(random, count), _free(random, count), _walking(random, count)]
    kind = random.choice(len(choices), count, p=(0.5, 0.25, 0.25))
    rows = np.arange(count)
    parts = [np.stack([choice[part] for choice in choices])[kind, rows] for part in range(4)]
    return parts[0], parts[1], parts[2], parts[3], np.zeros(count)


LEGS = {
    "standing": _standing, "walking": _walking, "sitting": _sitting, "reaching": _standing, "crouching": _crouching,
    "stepping": _stepping, "kicking": _kicking, "kneeling": _kneeling, "cross-legged": _cross_legged, "free": _free,
    "lying": _lying, "inverted": _lying,
}  # fmt: skip
