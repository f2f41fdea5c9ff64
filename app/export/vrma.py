"""VRM animations, one for each person, which any VRM avatar plays: in Unity, in browsers, in Blender with the VRM add-on.

python -m app.export.vrma out/in/meshes.npz [--out FOLDER]

For results that were made with --parametric or --glb, on Anny. A file is a glTF 2.0 of the person's humanoid in a T-pose, in their own
size, and its motion in the world of people.glb, floor at 0, on the video's clock; players turn it into that of an avatar of another
build. Before somebody appears they stand in their first pose, later in their last one, also through gaps of more than GAP_FRAMES. Limbs
that are not seen for longer than SEEN_S to either side hang and stand. No fingers, eyes and faces: nobody has seen them.
Source: VRMC_vrm_animation 1.0, https://github.com/vrm-c/vrm-specification
"""

import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from app.export import cast
from app.export.cast import Actor, Cast, keys_of
from app.export.gltf import GltfFile, continuous
from app.export.humanoid import ABOVE, NAMES, Humanoid, with_unseen
from app.visibility import FADE_S, shown_share

SUFFIX = ".vrma"
EXTENSION, VERSION = "VRMC_vrm_animation", "1.0"
SEEN_S = 1.0
"""A limb that is hidden for a moment, behind another or by something that passes, moves as was guessed."""


def write_people(npz_path: Path, folder: Path | None = None) -> list[Path]:
    """person-ID.vrma for everybody in a meshes.npz, beside it or in `folder`; the paths.

    Raises InputError for files that are no meshes.npz, without body parameters, of another body or with nobody in them, OSError for what
    cannot be written.
    """
    return cast.write_people(npz_path, folder, SUFFIX, vrma_of)


def vrma_of(scene: Cast, actor: Actor) -> bytes:
    """The file of one person."""
    humanoid = Humanoid(scene.body, actor.phenotype, actor.size)
    file = GltfFile()
    nodes: list[int] = []
    for name, above, offset_m in zip(NAMES, ABOVE, humanoid.offsets_m.tolist(), strict=True):
        nodes.append(file.add_node(nodes[above] if above >= 0 else None, name=name, translation=offset_m))
    times_s, keys = keys_of(scene, actor, actor.times_s.astype(np.float32))
    hips_m, quaternions = _motion(scene, actor, humanoid)
    file.animate(nodes[0], "translation", times_s, hips_m[keys])
    for bone, node in enumerate(nodes):
        file.animate(node, "rotation", times_s, continuous(quaternions[:, bone])[keys])
    human_bones = {_vrm_name(name): {"node": node} for name, node in zip(NAMES, nodes, strict=True)}
    file.gltf.extensionsUsed = [EXTENSION]
    file.gltf.extensions = {EXTENSION: {"specVersion": VERSION, "humanoid": {"humanBones": human_bones}}}
    return file.data(f"person {actor.track_id}", nodes[:1])


def _motion(scene: Cast, actor: Actor, humanoid: Humanoid) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3) of the hips in the world, and (T, B, 4) quaternions of the bones in those above."""
    rotations = humanoid.rotations(actor.turns.of)
    rotations[:, 0] = scene.world.camera.turn @ rotations[:, 0]
    seen = _seen(actor.joint_visibility, scene.frame_s)
    hips_m = actor.root_m.copy()
    hips_m[:, 1] = humanoid.hips_height_m(hips_m[:, 1], seen)
    return hips_m, with_unseen(rotations, seen)


def _seen(joint_visibility: np.ndarray, frame_s: float) -> np.ndarray:
    """(T, 14) -> 0..1, 1 at least for SEEN_S before and after a joint is seen, passing gently."""
    reach, fade = (max(1, round(duration_s / frame_s)) for duration_s in (SEEN_S + FADE_S / 2, FADE_S))
    near = maximum_filter1d(shown_share(joint_visibility.astype(np.float64)), 2 * reach + 1, axis=0, mode="nearest")
    return uniform_filter1d(near, fade, axis=0, mode="nearest")


def _vrm_name(name: str) -> str:
    """Unity's name of a bone -> VRM's, which begins small."""
    return name[0].lower() + name[1:]


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    return cast.run_command("app.export.vrma", __doc__ or "", SUFFIX, vrma_of, arguments)


if __name__ == "__main__":
    sys.exit(main())
