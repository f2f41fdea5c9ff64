"""One glTF 2.0 file being made: nodes, meshes, one animation and the bytes behind them.

Axes as glTF wants: y up, z towards the viewer; metres, seconds of the video. No extension is needed.
Source: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial.transform import Rotation

from app.colors import track_color
from app.export.bones import turned_up
from app.export.sink import UP_FROM_CAMERA, whole
from app.export.world import CameraPlace

ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
COMPONENTS = {"float32": 5126, "uint8": 5121, "uint16": 5123, "uint32": 5125}
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
"""Numbers of an element -> what glTF calls it."""
JUMP_S = 1e-3
"""A jump takes as long: programs that count in frames may take keys that are nearer for one."""


def vertex_normals(points_m: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(K, V, 3) points -> (K, V, 3) float32 unit normals, averaged over the triangles around by their area."""
    corners = points_m[:, faces].astype(np.float64)
    across = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    num_vertices, columns = points_m.shape[1], np.repeat(np.arange(len(faces)), 3)
    around = csr_matrix((np.ones(faces.size), (faces.reshape(-1), columns)), shape=(num_vertices, len(faces)))
    normals = np.stack([around @ one for one in across])
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(lengths > 1e-12, normals / np.maximum(lengths, 1e-12), (0.0, 1.0, 0.0)).astype(np.float32)


def quaternions(rotmats: np.ndarray) -> np.ndarray:
    """(T, 3, 3) rotations -> (T, 4) x, y, z, w, continuous."""
    return continuous(Rotation.from_matrix(rotmats).as_quat())


def continuous(values: np.ndarray) -> np.ndarray:
    """(T, 4) quaternions -> of the two of each rotation the one that lies nearer to that before."""
    turned = np.cumprod(np.append(1.0, np.sign(np.sum(values[1:] * values[:-1], axis=1) + 1e-12)))
    return values * turned[:, None]


def held(times_s: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys that hold what each view ends with until JUMP_S before the next one begins: when (K',), and which of the given ones (K',).

    times_s: (K,) increasing, and so are those returned, of the same kind; views: (K,)
    """
    last = np.flatnonzero(np.diff(views))
    next_s = times_s[last + 1]
    until_s = np.minimum(next_s - next_s.dtype.type(JUMP_S), np.nextafter(next_s, next_s.dtype.type(0)))
    last, until_s = last[until_s > times_s[last]], until_s[until_s > times_s[last]]
    return np.insert(times_s, last + 1, until_s), np.insert(np.arange(len(times_s)), last + 1, last)


class GltfFile:
    """Nodes, one animation and the bytes behind them."""

    def __init__(self) -> None:
        import pygltflib

        self.lib, self.gltf = pygltflib, pygltflib.GLTF2()
        self.gltf.asset.generator = "FastMETRO Live"
        self._chunks: list[bytes] = []
        self._num_bytes = 0
        self._animation = pygltflib.Animation(name="motion")
        self._shared: dict[bytes, int] = {}  # faces and times -> their accessor

    def add_node(self, parent: int | None = None, **fields: Any) -> int:
        """A node below `parent`; its index."""
        self.gltf.nodes.append(self.lib.Node(**fields))
        index = len(self.gltf.nodes) - 1
        if parent is not None:
            self.gltf.nodes[parent].children = [*(self.gltf.nodes[parent].children or []), index]
        return index

    def animate(self, node: int, path: str, times_s: np.ndarray, values: np.ndarray, interpolation: str = "LINEAR") -> None:
        """Add a channel. values: (K, 3), (K, 4) for rotations, or (K * targets, 1) for weights."""
        times, result = self._once(times_s.astype(np.float32)[:, None], limits=True), self.accessor(values.astype(np.float32))
        self._animation.samplers.append(self.lib.AnimationSampler(input=times, output=result, interpolation=interpolation))
        target = self.lib.AnimationChannelTarget(node=node, path=path)
        self._animation.channels.append(self.lib.AnimationChannel(sampler=len(self._animation.samplers) - 1, target=target))

    def triangles(self, faces: np.ndarray) -> int:
        """The accessor of (F, 3) indices; the same faces share one."""
        return self._once(faces.astype(np.uint16 if faces.max() < 0xFFFF else np.uint32).reshape(-1, 1), ELEMENT_ARRAY_BUFFER)

    def vertices(self, arrays: np.ndarray) -> list[int]:
        """(K, V, 3) -> K accessors that share a view."""
        arrays = np.ascontiguousarray(arrays, np.float32)
        if not len(arrays):
            return []
        view = self._view(arrays.tobytes(), ARRAY_BUFFER, stride=12)
        return [self._accessor(view, array, index * array.nbytes, True) for index, array in enumerate(arrays)]

    def accessor(self, values: np.ndarray, target: int | None = None, limits: bool = False) -> int:
        """Of (N, width) numbers, in a view of its own."""
        values = np.ascontiguousarray(values)
        stride = values.itemsize * values.shape[1] if target == ARRAY_BUFFER else None
        return self._accessor(self._view(values.tobytes(), target, stride), values, 0, limits)

    def data(self, name: str, nodes: list[int]) -> bytes:
        """The finished file. name: of its scene; nodes: that lie in it and below no other."""
        gltf = self.gltf
        gltf.scenes.append(self.lib.Scene(name=name, nodes=nodes))
        gltf.scene = 0
        if self._animation.channels:
            gltf.animations.append(self._animation)
        gltf.buffers.append(self.lib.Buffer(byteLength=self._num_bytes))
        gltf.set_binary_blob(b"".join(self._chunks))
        return b"".join(gltf.save_to_bytes())

    def _once(self, values: np.ndarray, target: int | None = None, limits: bool = False) -> int:
        data = values.tobytes()
        if data not in self._shared:
            self._shared[data] = self.accessor(values, target, limits)
        return self._shared[data]

    def _view(self, data: bytes, target: int | None = None, stride: int | None = None) -> int:
        self.gltf.bufferViews.append(
            self.lib.BufferView(buffer=0, byteOffset=self._num_bytes, byteLength=len(data), target=target, byteStride=stride)
        )
        padded = data + bytes(-len(data) % 4)
        self._chunks.append(padded)
        self._num_bytes += len(padded)
        return len(self.gltf.bufferViews) - 1

    def _accessor(self, view: int, values: np.ndarray, offset: int, limits: bool) -> int:
        low, high = (values.min(axis=0).tolist(), values.max(axis=0).tolist()) if limits else (None, None)
        self.gltf.accessors.append(
            self.lib.Accessor(
                bufferView=view, byteOffset=offset, componentType=COMPONENTS[values.dtype.name], type=KINDS[values.shape[1]],
                count=len(values), min=low, max=high,
            )
        )  # fmt: skip
        return len(self.gltf.accessors) - 1


class GltfScene(GltfFile):
    """People in motion, before a camera that stands where the video's did. start_s: of the animation."""

    def __init__(self, start_s: float, camera: CameraPlace) -> None:
        super().__init__()
        self.start_s = start_s
        self._people: dict[int, tuple[int, int]] = {}  # track id -> its node and its material
        self._roots: list[int] = []
        self._camera = camera
        self._camera_moves: list[tuple[str, np.ndarray, np.ndarray, str]] = []

    @property
    def num_people(self) -> int:
        """Those of whom something is to be seen."""
        return len(self._people)

    def person(self, track_id: int) -> tuple[int, int]:
        """The person's node, in the camera's space, and material."""
        if track_id not in self._people:
            color = [((value / 255) ** 2.2) for value in track_color(track_id)]  # glTF wants linear light
            surface = self.lib.PbrMetallicRoughness(baseColorFactor=[*color, 1.0], metallicFactor=0.0, roughnessFactor=0.75)
            self.gltf.materials.append(self.lib.Material(name=f"person {track_id}", pbrMetallicRoughness=surface, doubleSided=True))
            self._people[track_id] = self.add_node(name=f"person {track_id}"), len(self.gltf.materials) - 1
        return self._people[track_id]

    def add_root(self, **fields: Any) -> int:
        """A node of the scene itself, in no space but the world's; its index."""
        self._roots.append(self.add_node(**fields))
        return self._roots[-1]

    def move_camera(self, times_s: np.ndarray, rotmats: np.ndarray, places_m: np.ndarray, views: np.ndarray) -> None:
        """Turn it as the video's did, and let it jump where that cuts from one view to another.

        times_s: (K,) float32, increasing; views: (K,) numbers of theirs
        rotmats: (K, 3, 3) from its axes to those at the start, y down; places_m: (K, 3) in the axes at the start
        """
        times_s, keys = held(times_s, views)
        self._camera_moves = [("rotation", times_s, quaternions(turned_up(rotmats))[keys], "LINEAR")]
        if places_m.any():
            self._camera_moves.append(("translation", times_s, places_m[keys] * UP_FROM_CAMERA, "STEP"))

    def show(self, node: int, spans_s: list[tuple[float, float]]) -> None:
        """Scale a node to nothing outside of these spans, which begin one after the other. An end at infinity is none.

        Its own scale, without the animation, stays 1: Blender's importer divides by that of a skeleton.
        """
        keys: list[tuple[float, float]] = []
        for begin_s, end_s in spans_s:
            if keys and begin_s <= keys[-1][0]:
                keys.pop()  # it goes on
            else:
                keys.append((begin_s, 1.0))
            keys.append((end_s, 0.0))
        keys = [key for key in keys if math.isfinite(key[0])]
        if keys[0][0] > self.start_s:
            keys.insert(0, (self.start_s, 0.0))
        if len(keys) > 1:
            self.animate(node, "scale", np.array([t for t, _ in keys]), np.repeat([[s] for _, s in keys], 3, axis=1), "STEP")

    def save(self, path: Path, focal_px: float, size_px: np.ndarray) -> int:
        """Write the file. Returns its size in bytes."""
        lib, gltf = self.lib, self.gltf
        gltf.cameras.append(
            lib.Camera(
                name="camera", type="perspective",
                perspective=lib.Perspective(
                    yfov=2 * math.atan(size_px[1] / (2 * focal_px)), aspectRatio=float(size_px[0] / size_px[1]), znear=0.05
                ),
            )
        )  # fmt: skip
        camera = self.add_node(name="camera", camera=0)
        for move in self._camera_moves:
            self.animate(camera, *move)
        children = [*(node for node, _ in self._people.values()), camera]
        turn = Rotation.from_matrix(self._camera.turn).as_quat().tolist()
        space = self.add_node(
            name="camera space", translation=self._camera.place_m.tolist(), rotation=turn,
            children=children, extras={"pitch_deg": round(self._camera.pitch_deg, 1), "roll_deg": round(self._camera.roll_deg, 1)},
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            partial.write_bytes(self.data("people", [space, *self._roots]))
        return path.stat().st_size
