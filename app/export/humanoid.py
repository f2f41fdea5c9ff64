"""A person of the Anny body as the humanoid that avatars are animated by: Unity's bones, turned from a T-pose, in Unity's axes.

Unity's axes are x right, y up, z to the front of whoever stands unturned, left-handed. Ours, y up and z towards the camera, are their
mirror image, so that somebody who faces the camera faces z there, and their left hand is their left hand.
Source of bones and pose: the humanoid of VRM 1.0 (https://github.com/vrm-c/vrm-specification), whose names are UnityEngine.HumanBodyBones.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.export.bones import turned_up
from app.export.sink import UP_FROM_CAMERA
from app.visibility import shown_share
from core.joints import ANKLES, JOINT_NAMES
from core.rotations import about_z, frame, unit

if TYPE_CHECKING:
    from app.types import SmoothedMesh
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
SHOWN_BY = {
    "UpperArm": "Elbow", "LowerArm": "Wrist", "Hand": "Wrist", "UpperLeg": "Knee", "LowerLeg": "Ankle", "Foot": "Ankle",
}  # fmt: skip
"""A bone -> the joint without which nothing is known of it."""
HANGING_DEG = 75.0
"""How far an upper arm of which nothing is seen hangs below the T-pose."""
MIRROR = np.array([-1.0, 1.0, 1.0])
X, Y, Z = np.eye(3)


@dataclass(frozen=True)
class HumanoidPose:
    """positions_m: (B, 3) of each bone in the one above it, of the hips in space; quaternions: (B, 4) x, y, z, w, likewise."""

    positions_m: np.ndarray
    quaternions: np.ndarray


class Humanoid:
    """One person's humanoid. names: of its bones, those above before those below; above: the name of each one's own above, "" of none."""

    def __init__(self, body: "AnnyBody") -> None:
        self._body = body
        bones = dict(TRUNK)
        for side, letter in SIDES.items():
            for name, (bone, above) in LIMBS.items():
                bones[f"{side}{name}"] = f"{bone}.{letter}", f"{side}{above}" if above in LIMBS else above
        self.names, self.above = tuple(bones), tuple(above for _, above in bones.values())
        self._bones = [body.bone_index(bone) for bone, _ in bones.values()]
        self._above = [self.names.index(above) if above else -1 for above in self.above]
        self._chains = sorted({bone for own in self._bones for bone in _down_to(body, own)})
        self._shown_by = np.array([_shown_by(name) for name in self.names])
        self._unseen = quaternions_of(np.stack([_unseen(name) for name in self.names]))
        self._shape: np.ndarray | None = None

    def pose(self, mesh: "SmoothedMesh") -> HumanoidPose:
        """Of somebody with rotmats and shape. The lowest point of the mesh stands at height 0; x and z are as the camera sees them.

        Limbs that are not seen hang and stand, and pass gently to where they are seen.
        """
        self._take(mesh.shape)
        turns = self._turns(mesh.rotmats)
        local = np.stack([turns[bone] if above < 0 else turns[above].T @ turns[bone] for bone, above in enumerate(self._above)])
        seen = np.append(shown_share(mesh.joint_visibility), 1.0)
        share = seen[self._shown_by][:, None]
        quaternions = quaternions_of(local)
        quaternions *= np.where((quaternions * self._unseen).sum(1, keepdims=True) < 0, -1, 1)
        quaternions = unit(share * quaternions + (1 - share) * self._unseen)
        positions_m, hips_m = self._offsets_m.copy(), turns[0] @ self._hips_m
        positions_m[0] = UP_FROM_CAMERA * mesh.translation_m + hips_m
        grounded_m = mesh.vertices_m[:, 1].max() + hips_m[1]
        positions_m[0, 1] = self._standing_m + seen[ANKLES].min() * (grounded_m - self._standing_m)
        return HumanoidPose(positions_m * MIRROR, quaternions * [1, -1, -1, 1])

    def _turns(self, rotmats: np.ndarray) -> np.ndarray:
        """(104, 3, 3) of the body -> (B, 3, 3) of each bone from the T-pose on, y up."""
        turned: dict[int, np.ndarray] = {-1: np.eye(3)}
        for bone in self._chains:
            turned[bone] = turned[self._body.parents[bone]] @ rotmats[bone]
        posed = np.stack([turned[bone] for bone in self._bones]) @ self._alignments
        return turned_up(posed) @ self._t_pose.transpose(0, 2, 1)

    def _take(self, shape: np.ndarray) -> None:
        """What follows from the shape, which is found while somebody is seen and rests then."""
        if self._shape is not None and np.array_equal(self._shape, shape):
            return
        import torch

        self._shape = shape
        rest, heads, alignments = (value[0].numpy() for value in self._body.rest(torch.from_numpy(shape[None])))
        heads_m, rest_m = heads * UP_FROM_CAMERA, rest * UP_FROM_CAMERA
        pelvis_m = UP_FROM_CAMERA * self._body.pelvis(torch.from_numpy(rest[None]))[0].numpy()
        self._alignments = alignments[self._bones].astype(np.float64)
        self._t_pose = _to_t_pose(self._body, heads_m, self.names)
        own_m = heads_m[self._bones]
        self._offsets_m = np.stack(
            [np.zeros(3) if above < 0 else self._t_pose[above] @ (own_m[bone] - own_m[above]) for bone, above in enumerate(self._above)]
        )
        self._hips_m = own_m[0] - pelvis_m
        self._standing_m = own_m[0, 1] - rest_m[:, 1].min()


def quaternions_of(rotmats: np.ndarray) -> np.ndarray:
    """(B, 3, 3) -> (B, 4) x, y, z, w, float64."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotmats).as_quat()


def _down_to(body: "AnnyBody", bone: int) -> list[int]:
    """The bone and all above it."""
    above = body.parents[bone]
    return [bone] if above < 0 else [*_down_to(body, above), bone]


def _shown_by(name: str) -> int:
    """Index of the joint that must be seen, one beyond the last for bones that are always told of."""
    for side, letter in SIDES.items():
        joint = SHOWN_BY.get(name.removeprefix(side))
        if name.startswith(side) and joint:
            return JOINT_NAMES.index(f"{letter}_{joint}")
    return len(JOINT_NAMES)


def _unseen(name: str) -> np.ndarray:
    """(3, 3) how a bone is turned while nothing is seen of it."""
    return about_z({"LeftUpperArm": -HANGING_DEG, "RightUpperArm": HANGING_DEG}.get(name, 0.0))


def _to_t_pose(body: "AnnyBody", heads_m: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """(B, 3, 3) from each bone's rest to its T-pose: arms to the sides, elbows bending to the front, palms down; legs straight down, toes
    to the front. The trunk and the shoulders stay.

    heads_m: (104, 3) at rest, y up
    """
    turns = dict.fromkeys(names, np.eye(3))
    for side, letter in SIDES.items():

        def along(start: str, end: str, letter: str = letter) -> np.ndarray:
            return unit(heads_m[body.bone_index(f"{end}.{letter}")] - heads_m[body.bone_index(f"{start}.{letter}")])

        outwards = X if side == "Left" else -X
        upper, lower = along("upperarm01", "lowerarm01"), along("lowerarm01", "wrist")
        hinge, level = unit(np.cross(upper, lower)), np.cross(outwards, Z)
        knuckles = along("wrist", "finger2-1") + along("wrist", "finger5-1")
        thigh, shin, toes = along("upperleg01", "lowerleg01"), along("lowerleg01", "foot"), along("foot", "toe3-1")
        turns |= {
            f"{side}UpperArm": frame(outwards, level) @ frame(upper, hinge).T,
            f"{side}LowerArm": frame(outwards, level) @ frame(lower, hinge).T,
            f"{side}Hand": frame(outwards, Z) @ frame(unit(knuckles), along("finger5-1", "finger2-1")).T,
            f"{side}UpperLeg": frame(-Y, Z) @ frame(thigh, Z).T,
            f"{side}LowerLeg": frame(-Y, Z) @ frame(shin, Z).T,
            f"{side}Foot": frame(Y, Z) @ frame(Y, toes).T,
        }
    return np.stack([turns[name] for name in names])
