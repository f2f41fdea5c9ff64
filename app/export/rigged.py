"""People in a glTF file as skeletons with a skin (app.export.rig), posed as meshes.npz says at the time of every row."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from app.export.bones import PARAMETERS, BoneTurns
from app.export.gltf import ARRAY_BUFFER, GltfScene, quaternions, vertex_normals
from app.export.motion import skeleton_motion
from app.export.rig import STILL, Rig, Skin
from app.export.sink import UP_FROM_CAMERA
from app.export.tracks import Track, people_of, rows_of, some_of
from app.export.world import World
from app.visibility import HIDDEN_BELOW
from core.joints import JOINT_NAMES

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody

NUM_CHECKED = 12
"""Rows of each person in which the skeleton is compared with the mesh."""
POSED_M = 1e-3
"""A mesh that is posed by its parameters differs by less from what they pose now."""
BYTES_PER_VERTEX = 48
"""Position, normal, four bones, four weights, and two triangles."""


def poses_them(body: "AnnyBody", table: Mapping[str, np.ndarray], vertices_m: np.ndarray) -> bool:
    """Whether the meshes are what PARAMETERS pose; with `--mesh free` they are the network's own."""
    import torch

    some = some_of(np.arange(len(vertices_m)), NUM_CHECKED)
    posed = body.vertices(*(torch.from_numpy(np.ascontiguousarray(table[name][some])) for name in PARAMETERS)).numpy()
    written = np.stack([vertices_m[row] for row in some])
    return bool(np.ptp(posed - written, axis=1).max() < POSED_M)  # they may stand elsewhere


def add_rigged(
    scene: GltfScene, body: "AnnyBody", world: World, table: Mapping[str, np.ndarray], show_hidden: bool, max_bytes: int
) -> np.ndarray:  # fmt: skip
    """Everybody into the scene; how far joints are from where meshes.npz has them in some rows, metres, before legs reach for the floor.

    table: columns of meshes.npz by name, among them PARAMETERS; show_hidden: with what is never seen
    max_bytes: of all meshes; where the full ones take more, everybody has the intermediate one
    """
    end_s = max(track.hidden_from_s for track in world.tracks)
    people = people_of(world.tracks)
    skin = Skin(body, coarse=len(people) * len(body.levels.template_m) * BYTES_PER_VERTEX > max_bytes)
    visibility, errors_m = table["joint_visibility"], [np.zeros(1)]
    for track_id, own in people.items():
        rows = rows_of(own)
        seen = np.ones(len(JOINT_NAMES)) if show_hidden else visibility[rows].max(axis=0)
        size = world.sizes[track_id]
        rig = Rig(skin, np.array(table["phenotype"][rows[-1]]), size, seen)
        spans_s = [span for track in own for span in spans_of(track, show_hidden | (visibility[track.rows].max(axis=1) >= HIDDEN_BELOW))]
        if not len(rig.faces) or not spans_s:
            continue
        if spans_s[-1][1] >= end_s:  # stays when the video ends
            spans_s[-1] = spans_s[-1][0], np.inf
        places_m, turns = skeleton_motion(body, world, track_id, table["bone_rotmats"], rows, rig.phenotype)
        _add_to(scene, rig, track_id, table["time_s"][rows], turns, places_m, spans_s)
        some = some_of(rows, NUM_CHECKED)
        errors_m.append(np.linalg.norm(rig.joints_m(table["bone_rotmats"][some]) - table["joints_m"][some] * size, axis=-1).ravel())
    return np.concatenate(errors_m[1:] or errors_m)


def spans_of(track: Track, shown: np.ndarray) -> list[tuple[float, float]]:
    """From when to when somebody is there. shown: (T,) in which rows something of them is."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shown.astype(int), [0]])))
    ends_s = np.append(track.times_s, track.hidden_from_s)
    return [(float(ends_s[begin]), float(ends_s[end])) for begin, end in edges.reshape(-1, 2)]


def _add_to(
    scene: GltfScene, rig: Rig, track_id: int, times_s: np.ndarray, turns: BoneTurns, places_m: np.ndarray,
    spans_s: list[tuple[float, float]],
) -> None:  # fmt: skip
    """Skeleton, skin and motion. places_m: (T, 3) of the root, camera axes; spans_s: from when to when it is there."""
    person, material = scene.person(track_id)
    nodes = _add_bones(scene, rig, person, turns, places_m[0])
    scene.show(person, spans_s)
    if len(times_s) > 1:
        scene.animate(nodes[0], "translation", times_s, places_m * UP_FROM_CAMERA)
        for bone, node in enumerate(nodes):  # one by one: those of an hour are a gigabyte
            rotmats = turns.of(bone)
            if np.ptp(rotmats, axis=0).max() > STILL:
                scene.animate(node, "rotation", times_s, quaternions(rig.turned(bone, rotmats)))
    # Programs that give a bone the distance to the next one find none at the hips, where three begin, and take that from the origin.
    origin_m = np.array([0, -np.linalg.norm(rig.heads_m[rig.names.index("Spine1")]), 0])
    lib, gltf = scene.lib, scene.gltf
    points_m = (rig.points_m - origin_m).astype(np.float32)[None]
    attributes = lib.Attributes(
        POSITION=scene.vertices(points_m)[0], NORMAL=scene.vertices(vertex_normals(points_m, rig.faces))[0],
        JOINTS_0=scene.accessor(rig.bones.astype(np.uint8), ARRAY_BUFFER),
        WEIGHTS_0=scene.accessor(rig.weights.astype(np.float32), ARRAY_BUFFER),
    )  # fmt: skip
    primitive = lib.Primitive(attributes=attributes, indices=scene.triangles(rig.faces), material=material, mode=4)
    gltf.meshes.append(lib.Mesh(name=f"body {track_id}", primitives=[primitive]))
    inverse = _add_inverse_binds(scene, rig, origin_m)
    gltf.skins.append(lib.Skin(name=f"skeleton {track_id}", joints=nodes, skeleton=nodes[0], inverseBindMatrices=inverse))
    scene.add_root(name=f"body {track_id}", mesh=len(gltf.meshes) - 1, skin=len(gltf.skins) - 1)


def _add_bones(scene: GltfScene, rig: Rig, person: int, turns: BoneTurns, place_m: np.ndarray) -> list[int]:
    """A node for each bone, in the first pose."""
    nodes: list[int] = []
    for bone, (name, above) in enumerate(zip(rig.names, rig.parents, strict=True)):
        translation = place_m * UP_FROM_CAMERA if above < 0 else rig.offsets_m[bone]
        (rotation,) = quaternions(rig.turned(bone, turns.of(bone)[:1])).tolist()
        nodes.append(scene.add_node(person if above < 0 else nodes[above], name=name, translation=translation.tolist(), rotation=rotation))
    return nodes


def _add_inverse_binds(scene: GltfScene, rig: Rig, origin_m: np.ndarray) -> int:
    """From the rest mesh to each bone's axes."""
    inverse = np.tile(np.eye(4), (len(rig.heads_m), 1, 1))
    inverse[:, :3, :3] = rig.axes.transpose(0, 2, 1)
    inverse[:, :3, 3] = -np.einsum("bji,bj->bi", rig.axes, rig.heads_m - origin_m)
    return scene.accessor(inverse.transpose(0, 2, 1).reshape(-1, 16).astype(np.float32))  # columns first
