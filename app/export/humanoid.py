"""A person of the Anny body as the humanoid that avatars are animated by: Unity's bones, turned from a T-pose.

Axes are those of VRM 1.0, x right, y up, z towards the camera: whoever faces it faces z, with their left hand at x.
Source of bones and pose: the humanoid of VRM 1.0 (https://github.com/vrm-c/vrm-specification), whose names are UnityEngine.HumanBodyBones.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from app.export.bones import turned_up
from app.export.sink import UP_FROM_CAMERA
from core.fitters import fitter_for
from core.joints import ANKLES, JOINT_NAMES
from core.rotations import about_z, frame, unit

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody

TRUNK = {
    "Hips": ("root", ""), "Spine": ("spine04", "Hips"), "Chest": ("spine01", "Spine"), "Neck": ("neck02", "Chest"),
    "Head": ("head", "Neck"),
}  # fmt: skip
LIMBS = {
    "Shoulder": ("clavicle", "Chest"), "UpperArm": ("upperarm01", "Shoulder"), "LowerArm": ("lowerarm01", "UpperArm"),
    "Hand": ("wrist", "LowerArm"), "UpperLeg": ("upperleg01", "Hips"), "LowerLeg": ("lowerleg01", "UpperLeg"),
    "Foot": ("foot", "LowerLeg"),
}  # fmt: skip
"""Unity's bone -> Anny's, whose turn in space it has, and the bone above it. UpperChest is left out, for many avatars lack it."""
SIDES = {"Left": "L", "Right": "R"}
BONES = TRUNK | {
    f"{side}{name}": (f"{bone}.{letter}", f"{side}{above}" if above in LIMBS else above)
    for side, letter in SIDES.items()
    for name, (bone, above) in LIMBS.items()
}
NAMES = tuple(BONES)
ABOVE = tuple(NAMES.index(above) if above else -1 for _, above in BONES.values())
"""Of each bone the one above it, which comes before it; -1 for the hips."""
SHOWN_BY = {
    "UpperArm": "Elbow", "LowerArm": "Wrist", "Hand": "Wrist", "UpperLeg": "Knee", "LowerLeg": "Ankle", "Foot": "Ankle",
}  # fmt: skip
"""A bone -> the joint without which nothing is known of it."""
HANGING_DEG = 75.0
"""How far an upper arm of which nothing is seen hangs below the T-pose."""
X, Y, Z = np.eye(3)


class Humanoid:
    """Of somebody's shape.

    offsets_m: (B, 3) from each bone to the one above it in the T-pose, from the hips to the floor below them
    root_m: (3,) from the pelvis, which meshes stand by, to the hips while these are not turned
    """

    def __init__(self, body: "AnnyBody", phenotype: np.ndarray, size: float = 1.0) -> None:
        """phenotype: (6,); size: factor of all lengths."""
        import torch

        self._body = body
        self._bones = [body.bone_index(bone) for bone, _ in BONES.values()]
        self._chains = sorted({bone for own in self._bones for bone in _down_to(body, own)})
        rest, heads, alignments = body.rest(torch.from_numpy(phenotype[None]))
        turns, places = (value[0].numpy() for value in body.bone_transforms(fitter_for(body).rig.rest_rotmats[None], heads, alignments))

        def seen_from(above: int, bone: int) -> np.ndarray:
            """(3,) from one bone to another below it, which bends as at rest between them."""
            return turns[above].T @ (places[bone] - places[above]) * UP_FROM_CAMERA * size

        self._alignments = alignments[0, self._bones].numpy().astype(np.float64)
        self._t_pose = _to_t_pose(lambda start, end: unit(seen_from(body.bone_index(start), body.bone_index(end))))
        self.offsets_m = np.zeros((len(NAMES), 3))
        below_hips_m = np.zeros(len(NAMES))
        for bone, above in list(enumerate(ABOVE))[1:]:
            self.offsets_m[bone] = self._t_pose[above] @ seen_from(self._bones[above], self._bones[bone])
            below_hips_m[bone] = below_hips_m[above] - self.offsets_m[bone, 1]
        heads_m, points_m = (value[0].numpy() * UP_FROM_CAMERA * size for value in (heads, rest))
        pelvis_m = body.pelvis(rest)[0].numpy() * UP_FROM_CAMERA * size
        soles_m = heads_m[self._bones, 1] - points_m[:, 1].min()
        self.root_m = heads_m[0] - pelvis_m
        self.offsets_m[0, 1] = np.mean([below_hips_m[foot] + soles_m[foot] for foot in map(NAMES.index, ("LeftFoot", "RightFoot"))])

    def rotations(self, turns_of: Callable[[int], np.ndarray]) -> np.ndarray:
        """(..., B, 3, 3) float64 of each bone from the T-pose on, seen from the bone above it; of the hips in space.

        turns_of: index of one of the body's bones -> (..., 3, 3) its pose seen from the bone above it, camera axes
        """
        turned: dict[int, np.ndarray] = {-1: np.eye(3)}
        for bone in self._chains:
            turned[bone] = turned[self._body.parents[bone]] @ turns_of(bone)
        posed = np.stack([turned[bone] for bone in self._bones], -3) @ self._alignments
        turns = turned_up(posed) @ self._t_pose.transpose(0, 2, 1)
        seen_from = turns[..., list(ABOVE[1:]), :, :]
        turns[..., 1:, :, :] = seen_from.swapaxes(-1, -2) @ turns[..., 1:, :, :]
        return turns

    def hips_height_m(self, height_m: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """(...) above the floor: as found, unless legs are not seen, which stand. seen: (..., 14) 0..1"""
        standing_m = self.offsets_m[0, 1]
        return standing_m + seen[..., ANKLES].min(-1) * (height_m - standing_m)


def with_unseen(rotations: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(..., B, 3, 3) -> (..., B, 4) quaternions x, y, z, w, of limbs that are not seen as they hang and stand. seen: (..., 14) 0..1

    In between they are in between, so that nothing jumps.
    """
    quaternions = _quaternions(rotations)
    quaternions *= np.where((quaternions * UNSEEN).sum(-1, keepdims=True) < 0, -1, 1)
    share = np.concatenate([seen, np.ones_like(seen[..., :1])], -1)[..., SHOWING, None]
    return unit(share * quaternions + (1 - share) * UNSEEN)


def _quaternions(rotmats: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotmats.reshape(-1, 3, 3)).as_quat().reshape(*rotmats.shape[:-2], 4)


def _down_to(body: "AnnyBody", bone: int) -> list[int]:
    """The bone and all above it."""
    above = body.parents[bone]
    return [bone] if above < 0 else [*_down_to(body, above), bone]


def _showing(name: str) -> int:
    """Index of the joint that must be seen, one beyond the last for bones that are always told of."""
    for side, letter in SIDES.items():
        joint = SHOWN_BY.get(name.removeprefix(side))
        if name.startswith(side) and joint:
            return JOINT_NAMES.index(f"{letter}_{joint}")
    return len(JOINT_NAMES)


SHOWING = np.array([_showing(name) for name in NAMES])
UNSEEN_DEG = {"LeftUpperArm": -HANGING_DEG, "RightUpperArm": HANGING_DEG}
UNSEEN = _quaternions(np.stack([about_z(UNSEEN_DEG.get(name, 0.0)) for name in NAMES]))
"""(B, 4) how a bone is turned while nothing is seen of it."""


def _to_t_pose(along: Callable[[str, str], np.ndarray]) -> np.ndarray:
    """(B, 3, 3) from each bone's rest to its T-pose: arms to the sides, elbows bending to the front, palms down; legs straight down, toes
    to the front. The trunk and the shoulders stay.

    along: (bone, bone below it) -> (3,) the direction from the one to the other, seen from the first at rest, y up
    """
    turns = dict.fromkeys(NAMES, np.eye(3))
    for side, letter in SIDES.items():
        outwards = X if side == "Left" else -X
        level = np.cross(outwards, Z)
        upper, lower = along(f"upperarm01.{letter}", f"lowerarm01.{letter}"), along(f"lowerarm01.{letter}", f"wrist.{letter}")
        thigh, shin = along(f"upperleg01.{letter}", f"lowerleg01.{letter}"), along(f"lowerleg01.{letter}", f"foot.{letter}")
        hinge, toes = unit(np.cross(upper, lower)), along(f"foot.{letter}", f"toe3-1.{letter}")
        fingers = [along(f"wrist.{letter}", f"finger{number}-1.{letter}") for number in (2, 5)]
        turns |= {
            f"{side}UpperArm": frame(outwards, level) @ frame(upper, hinge).T,
            f"{side}LowerArm": frame(outwards, level) @ frame(lower, hinge).T,
            f"{side}Hand": frame(outwards, Z) @ frame(unit(sum(fingers)), fingers[0] - fingers[1]).T,
            f"{side}UpperLeg": frame(-Y, Z) @ frame(thigh, Z).T,
            f"{side}LowerLeg": frame(-Y, Z) @ frame(shin, Z).T,
            f"{side}Foot": frame(Y, Z) @ frame(Y, toes).T,
        }
    return np.stack([turns[name] for name in NAMES])
