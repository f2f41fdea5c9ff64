"""people.glb: everybody in motion as one animated glTF 2.0 file, for browsers, Blender and game engines.

Where meshes.npz holds the bones' rotations each person is a skeleton with a skin (app.export.rigged). Else this is a preview, not the data:
the intermediate mesh (1,723 vertices for the default body), key frames where the motion bends, straight lines between. Each person is
then a chain of nodes, one for every stretch of key frames: its mesh is the first key frame, the others are morph targets that fade into
each other; the node carries the place, and is scaled to nothing outside of its time.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.export.bones import BODY, PARAMETERS
from app.export.gltf import GltfScene, vertex_normals
from app.export.npz import columns_of, map_rows
from app.export.rigged import add_rigged, poses_them
from app.export.sink import GLB_SINK, SINKS, UP_FROM_CAMERA, LateSink, Recording
from app.export.tracks import Track, from_0, without_hidden
from app.export.world import World, views_of
from app.visibility import body_joint_weights
from core.errors import InputError

log = logging.getLogger(__name__)

TOLERANCE_M = 0.01
"""How far straight lines between key frames may pass by a joint; raised until the file fits."""
MAX_KEYS_PER_S = 15.0
MAX_BYTES = 20 * 2**20
MAX_KEYS = 48
"""Of one stretch: viewers hold all its morph targets at once, and the table of their weights grows with the square."""
BYTES_PER_VERTEX = 24
"""Position and normal, float32."""


@dataclass(frozen=True)
class GlbReport:
    """What was written. error_m: how far joints are from where meshes.npz has them, in the mean and at the worst: between key frames, or
    of a skeleton in a few frames.
    """

    num_people: int
    num_keys: int
    num_bytes: int
    error_m: tuple[float, float]


@dataclass(frozen=True)
class Preview:
    """The mesh that is shown. ids: (P,) vertices of the full mesh; faces: (F, 3) of these; weights: (P, 14), None where unknown."""

    ids: np.ndarray
    faces: np.ndarray
    weights: np.ndarray | None


def write_glb(npz_path: Path, glb_path: Path, max_bytes: int = MAX_BYTES, show_hidden: bool = False) -> GlbReport:
    """people.glb of a meshes.npz. Raises InputError when there is nobody in it, OSError when a file cannot be read or written.

    max_bytes: of the meshes of skeletons, or of a preview: then there are fewer key frames, or smaller meshes
    show_hidden: with body parts that are out of the picture or hidden; otherwise those never seen are left out of a skeleton's mesh, and
    those hidden for most of a stretch of key frames of that
    """
    from core.bodies import load_body

    names = ("frame_index", "track_id", "time_s", "joints_m", "translation_m", "joint_visibility", "faces", "body", "fps")
    with np.load(npz_path, allow_pickle=False) as file:
        table = columns_of(file, names)
        has_bones = str(table["body"]) == BODY and set(PARAMETERS) <= set(file)
        camera = {name: file[name] for name in ("focal_px", "image_size_px")}
    if not len(table["track_id"]):
        raise InputError(f"{npz_path}: nobody was found, so there is nothing to animate")
    table["time_s"] = from_0(table["time_s"])
    vertices_m = map_rows(npz_path, "vertices_m")
    world = World.of(table, vertices_m)
    scene = GltfScene(float(min(track.times_s[0] for track in world.tracks)), world.camera)
    if not world.rests:
        times_s, rows = np.unique(table["time_s"].astype(np.float32), return_index=True)  # as precise as the file is
        scene.move_camera(times_s, world.start_from_camera[rows], world.camera_m[rows], views_of(table)[rows])
    if has_bones:
        table |= {name: map_rows(npz_path, name) for name in PARAMETERS}
    if has_bones and poses_them(load_body(BODY), table, vertices_m):
        errors_m = add_rigged(scene, load_body(BODY), world, table, show_hidden, max_bytes)
        num_keys = len(table["track_id"])
    else:
        preview = preview_mesh(str(table["body"]), vertices_m.shape[1], table["faces"])
        if not len(preview.faces):
            raise InputError(f"{npz_path}: the body's faces are not known, so there is no surface to show; they come with an SMPL model")
        keys = choose_keys(world.tracks, max_bytes, len(preview.ids) * BYTES_PER_VERTEX)
        _add_preview(scene, preview, world, keys, table["joint_visibility"], vertices_m, show_hidden)
        errors_m = _errors_m(world.tracks, keys)
        num_keys = sum(map(len, keys))
    if not scene.num_people:
        raise InputError(f"{npz_path}: everybody is hidden or out of the picture all the time, so there is nothing to animate")
    num_bytes = scene.save(glb_path, float(camera["focal_px"]), camera["image_size_px"])
    return GlbReport(scene.num_people, num_keys, num_bytes, (float(errors_m.mean()), float(errors_m.max())))


def _add_preview(
    scene: GltfScene, preview: Preview, world: World, keys: list[np.ndarray], visibility: np.ndarray, vertices_m: np.ndarray,
    show_hidden: bool,
) -> None:  # fmt: skip
    for track, chosen in zip(world.tracks, keys, strict=True):
        for stretch in stretches(chosen):
            rows = track.rows[stretch]
            end_s = track.hidden_from_s if stretch[-1] == chosen[-1] else float(track.times_s[stretch[-1]])
            points_m = np.stack([vertices_m[row, preview.ids] @ world.start_from_camera[row].T for row in rows])
            points_m, faces = points_m * world.sizes[track.track_id], preview.faces
            if preview.weights is not None and not show_hidden:
                seen = preview.weights @ visibility[rows].mean(axis=0)
                points_m, faces = without_hidden(points_m, faces, seen)
            places_m = world.translation_m[rows] * UP_FROM_CAMERA
            add_stretch(scene, track.track_id, track.times_s[stretch], points_m * UP_FROM_CAMERA, faces, places_m, end_s)


def add_stretch(
    scene: GltfScene, track_id: int, times_s: np.ndarray, points_m: np.ndarray, faces: np.ndarray, places_m: np.ndarray, end_s: float
) -> None:
    """A person's mesh from times_s[0] to end_s. points_m: (K, V, 3) around places_m (K, 3), glTF axes."""
    if not len(faces):
        return
    lib = scene.lib
    parent, material = scene.person(track_id)
    normals = vertex_normals(points_m, faces)
    primitive = lib.Primitive(
        attributes=lib.Attributes(POSITION=scene.vertices(points_m[:1])[0], NORMAL=scene.vertices(normals[:1])[0]),
        indices=scene.triangles(faces), material=material, mode=4,
    )  # fmt: skip
    deltas, turns = scene.vertices(points_m[1:] - points_m[0]), scene.vertices(normals[1:] - normals[0])
    primitive.targets = [lib.Attributes(POSITION=a, NORMAL=b) for a, b in zip(deltas, turns, strict=True)]
    num_targets = len(points_m) - 1
    scene.gltf.meshes.append(lib.Mesh(name=f"person {track_id}", primitives=[primitive], weights=[0.0] * num_targets))
    node = scene.add_node(
        parent, name=f"person {track_id} from {times_s[0]:.2f} s", mesh=len(scene.gltf.meshes) - 1,
        translation=[float(value) for value in places_m[0]],
    )  # fmt: skip
    scene.show(node, [(float(times_s[0]), end_s)])
    if times_s[0] > scene.start_s:  # who does not play the animation sees the first stretch
        scene.gltf.nodes[node].scale = [0.0, 0.0, 0.0]
    if num_targets:
        scene.animate(node, "translation", times_s, places_m)
        scene.animate(node, "weights", times_s, np.eye(num_targets + 1)[:, 1:].reshape(-1, 1))


def preview_mesh(body_name: str, num_vertices: int, faces: np.ndarray) -> Preview:
    """The body's intermediate mesh; all of it where that is not known."""
    from core.bodies import BODIES, load_body

    try:
        body = load_body(body_name) if body_name in BODIES else None
    except InputError:  # an SMPL body whose files are elsewhere
        body = None
    if body is None or body.levels.sizes[2] != num_vertices:
        return Preview(np.arange(num_vertices), faces, None)
    weights = body_joint_weights(body)
    if not len(body.levels.intermediate_faces):
        return Preview(np.arange(num_vertices), faces, weights)
    return Preview(body.levels.intermediate_ids, body.levels.intermediate_faces, weights[body.levels.intermediate_ids])


def choose_keys(tracks: list[Track], max_bytes: int, bytes_per_key: int) -> list[np.ndarray]:
    """For each track the frames that become key frames: as few as describe the motion, so few that they fit into `max_bytes`."""
    candidates = [thinned(track.times_s, 1 / MAX_KEYS_PER_S) for track in tracks]
    tolerance_m = TOLERANCE_M
    while True:
        keys = [
            frames[key_frames(track.times_s[frames], track.joints_m[frames], tolerance_m)]
            for track, frames in zip(tracks, candidates, strict=True)
        ]
        num_keys = sum(len(chosen) + len(chosen) // MAX_KEYS for chosen in keys)
        if num_keys * (bytes_per_key + 4 * MAX_KEYS) <= max_bytes or all(len(chosen) <= 2 for chosen in keys):
            return keys
        tolerance_m *= 1.4


def thinned(times_s: np.ndarray, spacing_s: float) -> np.ndarray:
    """Indices of times at least `spacing_s` apart, and the last one."""
    kept = [0]
    for index, time_s in enumerate(times_s):
        if time_s - times_s[kept[-1]] >= spacing_s - 1e-6:
            kept.append(index)
    return np.unique([*kept, len(times_s) - 1])


def key_frames(times_s: np.ndarray, points_m: np.ndarray, tolerance_m: float) -> np.ndarray:
    """Indices, first and last among them, between which straight lines stay within `tolerance_m` of all points (T, J, 3).

    Source: Ramer 1972, Douglas and Peucker 1973, with time as the parameter.
    """
    keys, open_spans = {0, len(times_s) - 1}, [(0, len(times_s) - 1)]
    while open_spans:
        start, end = open_spans.pop()
        if end - start < 2:
            continue
        weight = ((times_s[start + 1 : end] - times_s[start]) / (times_s[end] - times_s[start]))[:, None, None]
        between_m = (1 - weight) * points_m[start] + weight * points_m[end]
        error_m = np.linalg.norm(points_m[start + 1 : end] - between_m, axis=-1).max(axis=1)
        worst = int(error_m.argmax())
        if error_m[worst] > tolerance_m:
            middle = start + 1 + worst
            keys.add(middle)
            open_spans += [(start, middle), (middle, end)]
    return np.array(sorted(keys))


def _errors_m(tracks: list[Track], keys: list[np.ndarray]) -> np.ndarray:
    errors = []
    for track, chosen in zip(tracks, keys, strict=True):
        flat = track.joints_m.reshape(len(track.times_s), -1)
        lines = np.stack([np.interp(track.times_s, track.times_s[chosen], flat[chosen, axis]) for axis in range(flat.shape[1])], axis=1)
        errors.append(np.linalg.norm((lines - flat).reshape(track.joints_m.shape), axis=-1))
    return np.concatenate(errors)


def stretches(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of at most MAX_KEYS, each beginning with the last key frame of the one before."""
    for start in range(0, max(len(keys) - 1, 1), MAX_KEYS - 1):
        yield keys[start : start + MAX_KEYS]


@SINKS.register(GLB_SINK)
class GlbSink(LateSink):
    """The file of a run."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording, GLB_SINK)
        self._show_hidden = recording.show_hidden

    def make(self, rows: Path) -> None:
        """Raises InputError where nobody is there or to be seen."""
        log.debug("%s: %s", self.path, write_glb(rows, self.path, show_hidden=self._show_hidden))
