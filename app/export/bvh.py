"""BVH files of the bones' motion, one for each person, for Blender, MotionBuilder, Maya and whatever else animates a skeleton.

python -m app.export.bvh out/in/meshes.npz [--out FOLDER]

For results that were made with --parametric or --glb, on Anny. Metres; y up, z towards the camera; world, floor and origin are those of
people.glb. Every file is on the video's clock, as people.glb is: frame k, counted from 0, is frame k of a video of even rate, and all
files of a run end where the last person is seen last. Somebody who is not there keeps still: before they appear in their first pose,
later in their last one; gaps of up to GAP_FRAMES are bridged on the straight way. The skeleton is that of the bones that a fit moves, in
Anny's A-pose, for the shape that the person was found to have at last, under the names by which programs recognise a human. Fingers, toes
and faces are not in it: nobody has seen them.
Source of the format: Meredith, Maddock: Motion Capture File Formats Explained, 2001.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.export import cast
from app.export.angles import continuous_angles
from app.export.bones import NAMES, turned_up
from app.export.cast import Actor, Cast
from app.export.sink import UP_FROM_CAMERA

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody

SUFFIX = ".bvh"
ORDER = "ZXY"
"""Of a joint's rotations, the last first, as BVH files mostly have them."""
HEAD_M = 0.18
"""Length of the head's bone, which goes on where the neck points to."""


@dataclass(frozen=True)
class Skeleton:
    """Joints of a BVH file, in the order of its lines: depth first.

    chains: of each joint the body's bones from below its parent's down to its own; parents: index among the joints, -1 for the root
    offsets_m: (J, 3) from the parent's joint to the joint while nobody is turned; ends_m: joint without children -> (3,) to its end
    """

    names: tuple[str, ...]
    chains: tuple[tuple[int, ...], ...]
    parents: tuple[int, ...]
    offsets_m: np.ndarray
    ends_m: dict[int, np.ndarray]


@dataclass(frozen=True)
class Motion:
    """places_m: (T, 3) of the root's joint; rotations: (T, J, 3, 3) of each joint relative to its parent; frame_s: time between two."""

    places_m: np.ndarray
    rotations: np.ndarray
    frame_s: float


def write_people(npz_path: Path, folder: Path | None = None) -> list[Path]:
    """person-ID.bvh for everybody in a meshes.npz, beside it or in `folder`; the paths.

    Raises InputError for files that are no meshes.npz, without body parameters, of another body or with nobody in them, OSError for what
    cannot be written.
    """
    return cast.write_people(npz_path, folder, SUFFIX, bvh_of)


def bvh_of(scene: Cast, actor: Actor) -> bytes:
    """The file of one person."""
    skeleton = skeleton_of(scene.body, actor.rest_rotmats, actor.phenotype, actor.size)
    motion = motion_of(scene, actor, skeleton)
    return "\n".join([*_hierarchy(skeleton), *_frames(motion), ""]).encode()


def skeleton_of(body: "AnnyBody", rotmats: np.ndarray, phenotype: np.ndarray, size: float) -> Skeleton:
    """For a person of that shape (6,), so many times as large. rotmats: (104, 3, 3) some pose; bones that are left out stay as in it."""
    import torch

    _, heads, alignments = (values[0].numpy().astype(np.float64) for values in body.rest(torch.from_numpy(phenotype[None])))
    heads = heads * size
    children = [[child for child, parent in enumerate(body.parents) if parent == bone] for bone in range(body.num_bones)]
    names, chains, parents, offsets, ends = [], [], [], [], {}

    def step(bone: int) -> np.ndarray:
        """(3,) from the joint of the bone above it to the bone's own, seen from that one."""
        above = body.parents[bone]
        return np.zeros(3) if above < 0 else alignments[above] @ (heads[bone] - heads[above])

    def add(bone: int, parent: int, chain: tuple[int, ...], turn: np.ndarray, offset: np.ndarray) -> None:
        """Go down. chain: bones left out since the last joint; turn, offset: of theirs, seen from that joint."""
        chain, offset = (*chain, bone), offset + turn @ step(bone)
        joint = NAMES.get(body.bone_names[bone])
        if joint is None:
            turn = turn @ rotmats[bone]
        else:
            names.append(joint)
            chains.append(chain)
            parents.append(parent)
            offsets.append(offset)
            parent, chain, turn, offset = len(names) - 1, (), np.eye(3), np.zeros(3)
        for child in children[bone]:
            add(child, parent, chain, turn, offset)

    add(0, -1, (), np.eye(3), np.zeros(3))
    for joint in sorted(set(range(len(names))) - set(parents)):
        bone = chains[joint][-1]
        onwards = offsets[joint] / np.linalg.norm(offsets[joint]) * HEAD_M
        ends[joint] = UP_FROM_CAMERA * (onwards if names[joint] == "Head" else np.mean([step(child) for child in children[bone]], 0))
    return Skeleton(tuple(names), tuple(chains), tuple(parents), np.array(offsets) * UP_FROM_CAMERA, ends)


def motion_of(scene: Cast, actor: Actor, skeleton: Skeleton) -> Motion:
    """The person's from 0 s on."""
    from scipy.spatial.transform import Rotation, Slerp

    frame_s, num_frames, times_s, places_m = scene.frame_s, scene.num_frames, actor.times_s, actor.root_m
    along_chains = [reduce(np.matmul, [actor.turns.of(bone).astype(np.float64) for bone in chain]) for chain in skeleton.chains]
    rotations = turned_up(np.stack(along_chains, 1))
    rotations[:, 0] = scene.world.camera.turn @ rotations[:, 0]
    if len(times_s) == 1:
        return Motion(places_m.repeat(num_frames, 0), rotations.repeat(num_frames, 0), frame_s)
    at_s = np.clip(np.arange(num_frames) * frame_s, times_s[0], times_s[-1])
    for before, after in pairwise(actor.tracks):
        at_s[(at_s > before.times_s[-1]) & (at_s < after.times_s[0] - frame_s / 2)] = before.times_s[-1]
    between = [Slerp(times_s, Rotation.from_matrix(rotations[:, joint]))(at_s).as_matrix() for joint in range(rotations.shape[1])]
    along = np.stack([np.interp(at_s, times_s, column) for column in places_m.T], 1)
    return Motion(along, np.stack(between, 1), frame_s)


def _hierarchy(skeleton: Skeleton) -> Iterator[str]:
    """The lines of the skeleton."""
    yield "HIERARCHY"
    yield from _joint(skeleton, 0, "")


def _joint(skeleton: Skeleton, joint: int, indent: str) -> Iterator[str]:
    inner = f"{indent}\t"
    turns = " ".join(f"{axis}rotation" for axis in ORDER)
    yield f"{indent}{'JOINT' if joint else 'ROOT'} {skeleton.names[joint]}"
    yield f"{indent}{{"
    yield f"{inner}OFFSET {_numbers(skeleton.offsets_m[joint])}"
    yield f"{inner}CHANNELS 3 {turns}" if joint else f"{inner}CHANNELS 6 Xposition Yposition Zposition {turns}"
    for child, parent in enumerate(skeleton.parents):
        if parent == joint:
            yield from _joint(skeleton, child, inner)
    if joint in skeleton.ends_m:
        yield from (f"{inner}End Site", f"{inner}{{", f"{inner}\tOFFSET {_numbers(skeleton.ends_m[joint])}", f"{inner}}}")
    yield f"{indent}}}"


def _frames(motion: Motion) -> Iterator[str]:
    """The lines of the motion."""
    angles = continuous_angles(motion.rotations, ORDER)
    yield from ("MOTION", f"Frames: {len(angles)}", f"Frame Time: {motion.frame_s:.8f}")
    for place, turns in zip(motion.places_m, angles, strict=True):
        yield f"{_numbers(place)} {_numbers(turns.ravel(), 4)}"


def _numbers(values: np.ndarray, digits: int = 6) -> str:
    return " ".join(f"{value:.{digits}f}" for value in np.round(values, digits) + 0.0)  # + 0.0 for there is no -0


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    return cast.run_command("app.export.bvh", __doc__ or "", SUFFIX, bvh_of, arguments)


if __name__ == "__main__":
    sys.exit(main())
