"""People in a glTF file as skeletons with a skin: Anny's 104 bones, posed as meshes.npz says at the time of every row.

The mesh is the full one, in the rest pose of the person's shape; a viewer bends it by linear blend skinning, as Anny does, so nothing is
lost but the influences of a vertex beyond four. Bones that nobody has seen move (fingers, toes, faces) are there, and stay. The moving
ones have the names by which animation programs recognise a human; all have the axes that rigs have (app.export.bones.rest_axes).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from app.export.bones import NAMES, PARAMETERS, BoneTurns, rest_axes, turned_up
from app.export.gltf import ARRAY_BUFFER, GltfScene, quaternions, vertex_normals
from app.export.motion import skeleton_motion
from app.export.sink import UP_FROM_CAMERA
from app.export.tracks import Track, people_of, rows_of, some_of, without_hidden
from app.export.world import World
from app.visibility import HIDDEN_BELOW, body_joint_weights
from core.joints import JOINT_NAMES

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody

INFLUENCES = 4
"""Bones for each vertex, as many as every viewer takes."""
STILL = 1e-5
"""A bone whose rotation changes by no more is not animated."""
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
    skin = _Skin(body, coarse=len(people) * len(body.levels.template_m) * BYTES_PER_VERTEX > max_bytes)
    visibility, errors_m = table["joint_visibility"], [np.zeros(1)]
    for track_id, own in people.items():
        rows = rows_of(own)
        seen = np.ones(len(JOINT_NAMES)) if show_hidden else visibility[rows].max(axis=0)
        size = world.sizes[track_id]
        rig = _Rig(skin, np.array(table["phenotype"][rows[-1]]), size, seen)
        spans_s = [span for track in own for span in spans_of(track, show_hidden | (visibility[track.rows].max(axis=1) >= HIDDEN_BELOW))]
        if not len(rig.faces) or not spans_s:
            continue
        if spans_s[-1][1] >= end_s:  # stays when the video ends
            spans_s[-1] = spans_s[-1][0], np.inf
        places_m, turns = skeleton_motion(body, world, track_id, table["bone_rotmats"], rows, rig.phenotype)
        rig.add_to(scene, track_id, table["time_s"][rows], turns, places_m, spans_s)
        some = some_of(rows, NUM_CHECKED)
        errors_m.append(np.linalg.norm(rig.joints_m(table["bone_rotmats"][some]) - table["joints_m"][some] * size, axis=-1).ravel())
    return np.concatenate(errors_m[1:] or errors_m)


def spans_of(track: Track, shown: np.ndarray) -> list[tuple[float, float]]:
    """From when to when somebody is there. shown: (T,) in which rows something of them is."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shown.astype(int), [0]])))
    ends_s = np.append(track.times_s, track.hidden_from_s)
    return [(float(ends_s[begin]), float(ends_s[end])) for begin, end in edges.reshape(-1, 2)]


class _Skin:
    """What is the same for everybody. bones, weights: (V, 4) influences; ids: (P,) the vertices that are shown, faces: (F, 3) of these."""

    def __init__(self, body: "AnnyBody", coarse: bool) -> None:
        """coarse: the intermediate mesh instead of the full one."""
        self.body = body
        skinning = body.skinning.numpy()
        self.bones = np.argsort(-skinning, axis=1, kind="stable")[:, :INFLUENCES]
        weights = np.take_along_axis(skinning, self.bones, axis=1)
        self.weights = weights / weights.sum(axis=1, keepdims=True)
        self.bones[weights == 0] = 0  # as glTF wants it
        self.ids = body.levels.intermediate_ids if coarse else np.arange(len(skinning))
        self.faces = body.levels.intermediate_faces if coarse else body.faces
        self.joint_weights = body_joint_weights(body)[self.ids]


class _Rig:
    """The body of one shape, to be posed by a viewer. faces: (F, 3) those that are shown."""

    def __init__(self, skin: _Skin, phenotype: np.ndarray, size: float, visibility: np.ndarray) -> None:
        """phenotype: (6,); size: factor of all its lengths; visibility: (14,) how well each joint is seen at best."""
        import torch

        self._skin, self.phenotype = skin, phenotype
        rest = skin.body.rest(torch.from_numpy(phenotype[None]))
        points, heads, self._alignments = (values[0].numpy().astype(np.float64) for values in rest)
        self._points_m, self._heads_m = points * size, heads * size
        heads_m = self._heads_m * UP_FROM_CAMERA
        self._axes = rest_axes(skin.body, heads_m)
        self._nodes = turned_up(self._alignments) @ self._axes  # a bone's pose turns these axes, seen from those of the bone above
        # Programs that give a bone the distance to the next one find none at the hips, where three begin, and take that from the origin.
        hips_m = np.linalg.norm(heads_m[skin.body.bone_index("spine04")] - heads_m[0])
        self._origin_m = (heads_m[0] - (0, hips_m, 0)) * UP_FROM_CAMERA
        (self._shown_m,), self.faces = without_hidden(self._points_m[None, skin.ids], skin.faces, skin.joint_weights @ visibility)

    def joints_m(self, rotmats: np.ndarray) -> np.ndarray:
        """(T, 104, 3, 3) -> (T, 14, 3), of the mesh as viewers bend it, the pelvis at 0."""
        import torch

        body, bones = self._skin.body, self._skin.bones
        rest = (torch.from_numpy(values).float()[None] for values in (self._heads_m, self._alignments))
        turns, places_m = (values.numpy() for values in body.bone_transforms(torch.from_numpy(rotmats), *rest))
        arms_m = self._points_m[:, None] - self._heads_m[bones]
        found = []
        for turn, place_m in zip(turns, places_m, strict=True):
            moved = np.einsum("vkij,vkj->vki", turn[bones], arms_m) + place_m[bones]
            mesh_m = (moved * self._skin.weights[..., None]).sum(1)
            found.append(body.joint_regressor @ mesh_m - body.pelvis(torch.from_numpy(mesh_m[None])).numpy())
        return np.stack(found)

    def add_to(
        self, scene: GltfScene, track_id: int, times_s: np.ndarray, turns: BoneTurns, places_m: np.ndarray,
        spans_s: list[tuple[float, float]],
    ) -> None:  # fmt: skip
        """Skeleton, skin and motion. places_m: (T, 3) of the root, camera axes; spans_s: from when to when it is there."""
        person, material = scene.person(track_id)
        nodes = self._add_bones(scene, person, turns, places_m[0])
        scene.show(person, spans_s)
        if len(times_s) > 1:
            scene.animate(nodes[0], "translation", times_s, places_m * UP_FROM_CAMERA)
            for bone, node in enumerate(nodes):  # one by one: those of an hour are a gigabyte
                rotmats = turns.of(bone)
                if np.ptp(rotmats, axis=0).max() > STILL:
                    scene.animate(node, "rotation", times_s, quaternions(self._turned(bone, rotmats)))
        lib, gltf, skin = scene.lib, scene.gltf, self._skin
        points_m = ((self._shown_m - self._origin_m) * UP_FROM_CAMERA).astype(np.float32)[None]
        attributes = lib.Attributes(
            POSITION=scene.vertices(points_m)[0], NORMAL=scene.vertices(vertex_normals(points_m, self.faces))[0],
            JOINTS_0=scene.accessor(skin.bones[skin.ids].astype(np.uint8), ARRAY_BUFFER),
            WEIGHTS_0=scene.accessor(skin.weights[skin.ids].astype(np.float32), ARRAY_BUFFER),
        )  # fmt: skip
        primitive = lib.Primitive(attributes=attributes, indices=scene.triangles(self.faces), material=material, mode=4)
        gltf.meshes.append(lib.Mesh(name=f"body {track_id}", primitives=[primitive]))
        inverse = self._add_inverse_binds(scene)
        gltf.skins.append(lib.Skin(name=f"skeleton {track_id}", joints=nodes, skeleton=nodes[0], inverseBindMatrices=inverse))
        scene.add_root(name=f"body {track_id}", mesh=len(gltf.meshes) - 1, skin=len(gltf.skins) - 1)

    def _add_bones(self, scene: GltfScene, person: int, turns: BoneTurns, place_m: np.ndarray) -> list[int]:
        """A node for each bone, in the first pose."""
        body, nodes = self._skin.body, []
        for bone, (name, above) in enumerate(zip(body.bone_names, body.parents, strict=True)):
            offset_m = (place_m if above < 0 else self._heads_m[bone] - self._heads_m[above]) * UP_FROM_CAMERA
            parent = person if above < 0 else nodes[above]
            (rotation,) = quaternions(self._turned(bone, turns.of(bone)[:1])).tolist()
            translation = (offset_m if above < 0 else self._axes[above].T @ offset_m).tolist()
            nodes.append(scene.add_node(parent, name=NAMES.get(name, name), translation=translation, rotation=rotation))
        return nodes

    def _turned(self, bone: int, rotmats: np.ndarray) -> np.ndarray:
        """(T, 3, 3) a bone's pose in camera axes -> the rotation of its node."""
        above = self._skin.body.parents[bone]
        turns = turned_up(rotmats) @ self._nodes[bone]
        return turns if above < 0 else self._nodes[above].T @ turns

    def _add_inverse_binds(self, scene: GltfScene) -> int:
        """From the rest mesh to each bone's axes."""
        inverse = np.tile(np.eye(4), (len(self._heads_m), 1, 1))
        inverse[:, :3, :3] = self._axes.transpose(0, 2, 1)
        inverse[:, :3, 3] = -np.einsum("bji,bj->bi", self._axes, (self._heads_m - self._origin_m) * UP_FROM_CAMERA)
        return scene.accessor(inverse.transpose(0, 2, 1).reshape(-1, 16).astype(np.float32))  # columns first
