"""people.glb: everybody in motion as one animated glTF 2.0 file, to look at in a browser or to open in Blender.

A preview, not the data: the intermediate mesh (1,723 vertices for the default body), key frames where the motion bends, straight lines
between. The exact meshes are in meshes.npz. Each person is a chain of nodes, one for every stretch of key frames: its mesh is the first
key frame, the others are morph targets that fade into each other; the node carries the place, and is scaled to nothing outside of its
time. Axes as glTF wants: y up, z towards the viewer; metres, seconds of the video. No extension is needed.
Source: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from app.colors import track_color
from app.export.npz import map_rows
from app.export.sink import PREVIEW_SINK, SINKS, UP_FROM_CAMERA, ClosingSink, Recording
from app.types import Scene
from app.visibility import body_joint_weights, with_smooth_edge
from core.errors import InputError

log = logging.getLogger(__name__)

TOLERANCE_M = 0.01
"""How far straight lines between key frames may pass by a joint; raised until the file fits."""
MAX_KEYS_PER_S = 15.0
MAX_BYTES = 20 * 2**20
MAX_KEYS = 48
"""Of one stretch: viewers hold all its morph targets at once, and the table of their weights grows with the square."""
GAP_FRAMES = 3
"""Somebody missing for more frames than this disappears for that time."""
BYTES_PER_VERTEX = 24
"""Position and normal, float32."""
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, FLOAT, UNSIGNED_SHORT, UNSIGNED_INT = 34962, 34963, 5126, 5123, 5125


@dataclass(frozen=True)
class Track:
    """A person without gaps. rows: (T,) of meshes.npz, in order; times_s: (T,); joints_m: (T, 14, 3) before the camera."""

    track_id: int
    rows: np.ndarray
    times_s: np.ndarray
    joints_m: np.ndarray
    hidden_from_s: float


@dataclass(frozen=True)
class GlbReport:
    """What was written. error_m: how far joints between key frames are from where meshes.npz has them, in the mean and at the worst."""

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

    show_hidden: with body parts that are out of the picture or hidden; otherwise those hidden for most of a stretch are left out of it
    """
    names = ("frame_index", "track_id", "time_s", "joints_m", "translation_m", "joint_visibility", "faces", "body", "fps")
    with np.load(npz_path, allow_pickle=False) as file:
        table = {name: file[name] for name in names}
        camera = {name: file[name] for name in ("focal_px", "image_size_px")}
    if not len(table["track_id"]):
        raise InputError(f"{npz_path}: nobody was found, so there is nothing to animate")
    table["time_s"] = table["time_s"] - min(0.0, float(table["time_s"].min()))  # glTF has no times before 0, some videos have
    vertices_m = map_rows(npz_path, "vertices_m")
    preview = preview_mesh(str(table["body"]), vertices_m.shape[1], table["faces"])
    if not len(preview.faces):
        raise InputError(f"{npz_path}: the body's faces are not known, so there is no surface to show; they come with an SMPL model")
    tracks = tracks_of(table)
    keys = choose_keys(tracks, max_bytes, len(preview.ids) * BYTES_PER_VERTEX)
    scene = _GltfScene(float(min(track.times_s[0] for track in tracks)))
    for track, chosen in zip(tracks, keys, strict=True):
        for stretch in stretches(chosen):
            rows = track.rows[stretch]
            end_s = track.hidden_from_s if stretch[-1] == chosen[-1] else float(track.times_s[stretch[-1]])
            points_m, faces = np.stack([vertices_m[row, preview.ids] for row in rows]), preview.faces
            if preview.weights is not None and not show_hidden:
                seen = preview.weights @ table["joint_visibility"][rows].mean(axis=0)
                points_m, faces = without_hidden(points_m, faces, seen)
            places_m = table["translation_m"][rows] * UP_FROM_CAMERA
            scene.add_stretch(track.track_id, track.times_s[stretch], points_m * UP_FROM_CAMERA, faces, places_m, end_s)
    if not scene.num_people:
        raise InputError(f"{npz_path}: everybody is hidden or out of the picture all the time, so there is nothing to animate")
    num_bytes = scene.save(glb_path, float(camera["focal_px"]), camera["image_size_px"])
    return GlbReport(scene.num_people, sum(map(len, keys)), num_bytes, _error_m(tracks, keys))


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


def without_hidden(points_m: np.ndarray, faces: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, V, 3) and the faces between vertices that are seen (V,), ending in a smooth edge."""
    shown = np.ones(len(seen), bool)
    moved = []
    for points in points_m:
        edged, shown = with_smooth_edge(points, faces, seen)
        moved.append(edged)
    return np.stack(moved), faces[shown[faces].all(axis=1)]


def tracks_of(table: dict[str, np.ndarray]) -> list[Track]:
    """Everybody, cut where somebody is missing for more than GAP_FRAMES."""
    tracks = []
    frame_s = 1 / float(table["fps"]) if table["fps"] > 0 else 1 / 30
    for track_id in np.unique(table["track_id"]):
        rows = np.flatnonzero(table["track_id"] == track_id)
        rows = rows[np.argsort(table["time_s"][rows], kind="stable")]
        rows = rows[np.append(True, np.diff(table["time_s"][rows]) > 0)]
        for part in np.split(rows, np.flatnonzero(np.diff(table["frame_index"][rows]) > GAP_FRAMES) + 1):
            times_s = table["time_s"][part]
            joints_m = table["joints_m"][part] + table["translation_m"][part][:, None]
            tracks.append(Track(int(track_id), part, times_s, joints_m, float(times_s[-1]) + frame_s))
    return tracks


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


def _error_m(tracks: list[Track], keys: list[np.ndarray]) -> tuple[float, float]:
    errors = []
    for track, chosen in zip(tracks, keys, strict=True):
        flat = track.joints_m.reshape(len(track.times_s), -1)
        lines = np.stack([np.interp(track.times_s, track.times_s[chosen], flat[chosen, axis]) for axis in range(flat.shape[1])], axis=1)
        errors.append(np.linalg.norm((lines - flat).reshape(track.joints_m.shape), axis=-1))
    together = np.concatenate(errors)
    return float(together.mean()), float(together.max())


def stretches(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of at most MAX_KEYS, each beginning with the last key frame of the one before."""
    for start in range(0, max(len(keys) - 1, 1), MAX_KEYS - 1):
        yield keys[start : start + MAX_KEYS]


def vertex_normals(points_m: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(K, V, 3) points -> (K, V, 3) float32 unit normals, averaged over the triangles around by their area."""
    corners = points_m[:, faces].astype(np.float64)
    across = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    num_vertices, columns = points_m.shape[1], np.repeat(np.arange(len(faces)), 3)
    around = csr_matrix((np.ones(faces.size), (faces.reshape(-1), columns)), shape=(num_vertices, len(faces)))
    normals = np.stack([around @ one for one in across])
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(lengths > 1e-12, normals / np.maximum(lengths, 1e-12), (0.0, 1.0, 0.0)).astype(np.float32)


class _GltfScene:
    """Collects nodes, meshes, one animation and the bytes behind them."""

    def __init__(self, start_s: float) -> None:
        import pygltflib

        self._gltf, self._lib, self._start_s = pygltflib.GLTF2(), pygltflib, start_s
        self._gltf.asset.generator = "FastMETRO Live"
        self._chunks: list[bytes] = []
        self._num_bytes = 0
        self._people: dict[int, tuple[int, int]] = {}  # track id -> its node and its material
        self._animation = pygltflib.Animation(name="motion")
        self._indices: dict[bytes, int] = {}  # faces -> their accessor
        self._floor_m, self._middle_m = [], []

    @property
    def num_people(self) -> int:
        """Those of whom something is to be seen."""
        return len(self._people)

    def add_stretch(
        self, track_id: int, times_s: np.ndarray, points_m: np.ndarray, faces: np.ndarray, places_m: np.ndarray, end_s: float
    ) -> None:
        """A person's mesh from times_s[0] to end_s. points_m: (K, V, 3) around places_m (K, 3), glTF axes."""
        lib, gltf = self._lib, self._gltf
        if not len(faces):
            return
        parent, material = self._person(track_id)
        normals = vertex_normals(points_m, faces)
        primitive = lib.Primitive(
            attributes=lib.Attributes(POSITION=self._vertices(points_m[:1])[0], NORMAL=self._vertices(normals[:1])[0]),
            indices=self._triangles(faces), material=material, mode=4,
        )  # fmt: skip
        deltas, turns = self._vertices(points_m[1:] - points_m[0]), self._vertices(normals[1:] - normals[0])
        primitive.targets = [lib.Attributes(POSITION=a, NORMAL=b) for a, b in zip(deltas, turns, strict=True)]
        num_targets = len(points_m) - 1
        gltf.meshes.append(lib.Mesh(name=f"person {track_id}", primitives=[primitive], weights=[0.0] * num_targets))
        begins = bool(times_s[0] <= self._start_s)
        node = lib.Node(
            name=f"person {track_id} from {times_s[0]:.2f} s", mesh=len(gltf.meshes) - 1, translation=[float(v) for v in places_m[0]],
            scale=[1.0, 1.0, 1.0] if begins else [0.0, 0.0, 0.0],
        )  # fmt: skip
        gltf.nodes.append(node)
        index = len(gltf.nodes) - 1
        gltf.nodes[parent].children.append(index)
        shown = ([] if begins else [(self._start_s, 0.0)]) + [(float(times_s[0]), 1.0), (end_s, 0.0)]
        self._animate(index, "scale", np.array([t for t, _ in shown]), np.repeat([[s] for _, s in shown], 3, axis=1), "STEP")
        if num_targets:
            self._animate(index, "translation", times_s, places_m, "LINEAR")
            self._animate(index, "weights", times_s, np.eye(num_targets + 1)[:, 1:].reshape(-1, 1), "LINEAR")
        shown_y_m = points_m[:, np.unique(faces), 1]
        self._floor_m.append(float((shown_y_m.min(axis=1) + places_m[:, 1]).min()))
        self._middle_m.append(places_m.mean(axis=0))

    def save(self, path: Path, focal_px: float, size_px: np.ndarray) -> int:
        """Write the file: under another name first, so that a finished name means a finished file. Returns its size in bytes."""
        lib, gltf = self._lib, self._gltf
        middle = np.mean(self._middle_m, axis=0)
        place = [-float(middle[0]), -float(np.median(self._floor_m)), -float(middle[2])]
        gltf.cameras.append(
            lib.Camera(
                name="camera", type="perspective",
                perspective=lib.Perspective(
                    yfov=2 * math.atan(size_px[1] / (2 * focal_px)), aspectRatio=float(size_px[0] / size_px[1]), znear=0.05
                ),
            )
        )  # fmt: skip
        gltf.nodes.append(lib.Node(name="camera", camera=0))
        children = [*(node for node, _ in self._people.values()), len(gltf.nodes) - 1]
        gltf.nodes.append(lib.Node(name="camera space", translation=place, children=children))
        gltf.scenes.append(lib.Scene(name="people", nodes=[len(gltf.nodes) - 1]))
        gltf.scene = 0
        gltf.animations.append(self._animation)
        gltf.buffers.append(lib.Buffer(byteLength=self._num_bytes))
        gltf.set_binary_blob(b"".join(self._chunks))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        partial.write_bytes(b"".join(gltf.save_to_bytes()))
        partial.replace(path)
        return path.stat().st_size

    def _person(self, track_id: int) -> tuple[int, int]:
        if track_id not in self._people:
            lib, gltf = self._lib, self._gltf
            color = [((value / 255) ** 2.2) for value in track_color(track_id)]  # glTF wants linear light
            surface = lib.PbrMetallicRoughness(baseColorFactor=[*color, 1.0], metallicFactor=0.0, roughnessFactor=0.75)
            gltf.materials.append(lib.Material(name=f"person {track_id}", pbrMetallicRoughness=surface, doubleSided=True))
            gltf.nodes.append(lib.Node(name=f"person {track_id}", children=[]))
            self._people[track_id] = (len(gltf.nodes) - 1, len(gltf.materials) - 1)
        return self._people[track_id]

    def _animate(self, node: int, path: str, times_s: np.ndarray, values: np.ndarray, interpolation: str) -> None:
        """Add a channel. values: (K, 3), or (K * targets, 1) for weights."""
        lib = self._lib
        seconds = times_s.astype(np.float32)
        time_view, value_view = self._view(seconds.tobytes()), self._view(values.astype(np.float32).tobytes())
        times = self._accessor(time_view, FLOAT, "SCALAR", len(seconds), limits=([float(seconds.min())], [float(seconds.max())]))
        result = self._accessor(value_view, FLOAT, "VEC3" if values.shape[1] == 3 else "SCALAR", len(values))
        self._animation.samplers.append(lib.AnimationSampler(input=times, output=result, interpolation=interpolation))
        target = lib.AnimationChannelTarget(node=node, path=path)
        self._animation.channels.append(lib.AnimationChannel(sampler=len(self._animation.samplers) - 1, target=target))

    def _triangles(self, faces: np.ndarray) -> int:
        """The accessor of (F, 3) indices; the same faces share one."""
        dtype, component = (np.uint16, UNSIGNED_SHORT) if faces.max() < 0xFFFF else (np.uint32, UNSIGNED_INT)
        data = faces.astype(dtype).tobytes()
        if data not in self._indices:
            self._indices[data] = self._accessor(self._view(data, ELEMENT_ARRAY_BUFFER), component, "SCALAR", faces.size)
        return self._indices[data]

    def _vertices(self, arrays: np.ndarray) -> list[int]:
        """(K, V, 3) -> K accessors that share a view."""
        arrays = np.ascontiguousarray(arrays, np.float32)
        if not len(arrays):
            return []
        view = self._view(arrays.tobytes(), ARRAY_BUFFER, stride=12)
        limits = zip(arrays.min(axis=1).tolist(), arrays.max(axis=1).tolist(), strict=True)
        return [self._accessor(view, FLOAT, "VEC3", arrays.shape[1], index * arrays[0].nbytes, limit) for index, limit in enumerate(limits)]

    def _view(self, data: bytes, target: int | None = None, stride: int | None = None) -> int:
        self._gltf.bufferViews.append(
            self._lib.BufferView(buffer=0, byteOffset=self._num_bytes, byteLength=len(data), target=target, byteStride=stride)
        )
        padded = data + bytes(-len(data) % 4)
        self._chunks.append(padded)
        self._num_bytes += len(padded)
        return len(self._gltf.bufferViews) - 1

    def _accessor(self, view: int, component: int, kind: str, count: int, offset: int = 0, limits: Any = (None, None)) -> int:
        self._gltf.accessors.append(
            self._lib.Accessor(
                bufferView=view, byteOffset=offset, componentType=component, type=kind, count=count, min=limits[0], max=limits[1]
            )
        )
        return len(self._gltf.accessors) - 1


@SINKS.register(PREVIEW_SINK)
class GlbSink(ClosingSink):
    """Made from the meshes.npz beside it when that is finished, so it must come after that one in a SinkGroup."""

    def __init__(self, recording: Recording) -> None:
        self.path = recording.folder / PREVIEW_SINK
        self.warnings: list[str] = []
        self._rows, self._show_hidden = recording.folder / "meshes.npz", recording.show_hidden
        self._closed = False

    def write(self, scene: Scene) -> None:
        """Nothing: the rows are in meshes.npz."""

    def close(self) -> None:
        """Write the file; a warning says so where there is nothing to write."""
        if self._closed:
            return
        self._closed = True
        try:
            report = write_glb(self._rows, self.path, show_hidden=self._show_hidden)
        except InputError as error:
            self.warnings.append(f"no {PREVIEW_SINK}: {error}")
            return
        log.debug("%s: %s", self.path, report)
