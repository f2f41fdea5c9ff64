"""Reads binary FBX and plays it, written from descriptions of the format and of Autodesk's transform formula alone.

https://help.autodesk.com/view/FBX/2020/ENU: a node's own transform is T * Rpre * R where nothing else is set.
"""

import struct
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

SCALARS = {"C": "<?", "I": "<i", "L": "<q", "F": "<f", "D": "<d"}
ARRAYS = {"f": "<f4", "d": "<f8", "i": "<i4", "l": "<i8"}
TICKS_PER_S = 46_186_158_000


@dataclass
class Record:
    """A node of the file."""

    name: str
    values: list
    below: list["Record"] = field(default_factory=list)

    def one(self, name: str) -> "Record":
        (found,) = (record for record in self.below if record.name == name)
        return found

    def all(self, name: str) -> list["Record"]:
        return [record for record in self.below if record.name == name]

    @property
    def properties(self) -> dict[str, list]:
        """Name -> values, of Properties70."""
        return {row.values[0]: row.values[4:] for record in self.all("Properties70") for row in record.below}


def read(data: bytes) -> Record:
    """The whole file, below a record of its own."""
    assert data[:23] == b"Kaydara FBX Binary  \x00\x1a\x00"
    assert struct.unpack_from("<I", data, 23) == (7400,)
    root, at = Record("", []), 27
    while True:
        record, at = _record(data, at)
        if record is None:
            break
        root.below.append(record)
    assert len(data) % 16 == 0
    assert data[-136:-16] == bytes(120)
    return root


def _record(data: bytes, at: int) -> tuple[Record | None, int]:
    end, num_values, num_bytes, length = struct.unpack_from("<IIIB", data, at)
    if end == 0:
        assert data[at : at + 13] == bytes(13)
        return None, at + 13
    values_at = at + 13 + length
    record, at = Record(data[at + 13 : values_at].decode(), []), values_at
    for _ in range(num_values):
        value, at = _value(data, at)
        record.values.append(value)
    assert at == values_at + num_bytes
    while at < end:
        below, at = _record(data, at)
        if below is None:
            break
        record.below.append(below)
    assert at == end
    return record, at


def _value(data: bytes, at: int) -> tuple[object, int]:
    kind, at = chr(data[at]), at + 1
    if kind in SCALARS:
        return struct.unpack_from(SCALARS[kind], data, at)[0], at + struct.calcsize(SCALARS[kind])
    if kind in "SR":
        (size,) = struct.unpack_from("<I", data, at)
        content = data[at + 4 : at + 4 + size]
        return content.decode() if kind == "S" else content, at + 4 + size
    count, packed, size = struct.unpack_from("<III", data, at)
    content = data[at + 12 : at + 12 + size]
    values = np.frombuffer(zlib.decompress(content) if packed else content, ARRAYS[kind])
    assert len(values) == count
    return values, at + 12 + size


class PlayedFbx:
    """One person's file as a program shows it, metres.

    settings: of GlobalSettings, name -> values; names: of models by id; mesh: the geometry's record
    """

    def __init__(self, path: Path) -> None:
        self.root = read(path.read_bytes())
        objects = {record.values[0]: record for record in self.root.one("Objects").below}
        assert len(objects) == len(self.root.one("Objects").below), "ids are unique"
        self.objects = objects
        self.settings = self.root.one("GlobalSettings").properties
        self._m = self.settings["UnitScaleFactor"][0] / 100
        self.above: dict[int, int] = {}
        self._driven: dict[tuple[int, str], int] = {}
        self._below: dict[int, list[int]] = defaultdict(list)
        for _, child, parent, *name in (record.values for record in self.root.one("Connections").below):
            assert child in objects
            assert parent in objects or parent == 0
            if name:
                self._driven[parent, name[0]] = child
            else:
                self._below[parent].append(child)
            if objects[child].name == "Model" and (parent == 0 or objects[parent].name == "Model"):
                self.above[child] = parent
        self.names = {key: record.values[1].split("\0")[0] for key, record in objects.items() if record.name == "Model"}
        self.bones = {self.names[key]: key for key, record in objects.items() if record.values[2] == "LimbNode" and key in self.names}
        (self.mesh,) = (record for record in objects.values() if record.name == "Geometry")
        self.points_m = self.mesh.one("Vertices").values[0].reshape(-1, 3) * self._m
        corners = self.mesh.one("PolygonVertexIndex").values[0].reshape(-1, 3).copy()
        assert (corners[:, :2] >= 0).all()
        assert (corners[:, 2] < 0).all()
        corners[:, 2] = -1 - corners[:, 2]
        self.faces = corners

    def of_kind(self, kind: str, flavour: str = "") -> list[Record]:
        return [record for record in self.objects.values() if record.name == kind and record.values[2] == flavour]

    def key_times_s(self, bone: str) -> np.ndarray:
        curve = self._driven[self._driven[self.bones[bone], "Lcl Rotation"], "d|X"]
        return self.objects[curve].one("KeyTime").values[0] / TICKS_PER_S

    def world(self, model: int, time_s: float | None) -> np.ndarray:
        """(4, 4) metres; at rest without a time."""
        matrix = np.eye(4)
        while model:
            matrix, model = self._local(model, time_s) @ matrix, self.above[model]
        return matrix

    def skinned(self, time_s: float | None) -> np.ndarray:
        """(V, 3) metres."""
        points, weights = np.zeros_like(self.points_m), np.zeros(len(self.points_m))
        for cluster in self.of_kind("Deformer", "Cluster"):
            (bone,) = self._below[cluster.values[0]]
            link, transform = (cluster.one(name).values[0].reshape(4, 4).T.copy() for name in ("TransformLink", "Transform"))
            np.testing.assert_allclose(link @ transform, np.eye(4), atol=1e-6)  # the mesh's own transform is none
            transform[:3, 3] *= self._m
            vertices, shares = cluster.one("Indexes").values[0], cluster.one("Weights").values[0]
            matrix = self.world(bone, time_s) @ transform
            points[vertices] += shares[:, None] * (self.points_m[vertices] @ matrix[:3, :3].T + matrix[:3, 3])
            weights[vertices] += shares
        np.testing.assert_allclose(weights, 1)
        return points

    def _local(self, model: int, time_s: float | None) -> np.ndarray:
        properties = self.objects[model].properties
        assert not {"PostRotation", "RotationPivot", "RotationOffset", "RotationOrder", "Lcl Scaling"} & set(properties)
        before = properties.get("PreRotation", (0.0, 0.0, 0.0))
        assert not any(before) or properties["RotationActive"] == [1]
        place = self._vector(model, "Lcl Translation", time_s, properties.get("Lcl Translation", (0.0, 0.0, 0.0)))
        angles = self._vector(model, "Lcl Rotation", time_s, properties.get("Lcl Rotation", (0.0, 0.0, 0.0)))
        matrix = np.eye(4)
        matrix[:3, :3] = (Rotation.from_euler("xyz", before, degrees=True) * Rotation.from_euler("xyz", angles, degrees=True)).as_matrix()
        matrix[:3, 3] = np.array(place) * self._m
        return matrix

    def _vector(self, model: int, name: str, time_s: float | None, rest: list[float]) -> np.ndarray:
        curves = self._driven.get((model, name))
        if curves is None or time_s is None:
            return np.array(rest)
        values = []
        for axis in "XYZ":
            curve = self.objects[self._driven[curves, f"d|{axis}"]]
            times, heights = curve.one("KeyTime").values[0], curve.one("KeyValueFloat").values[0]
            assert (np.diff(times) > 0).all()
            assert curve.one("KeyAttrFlags").values[0].tolist() == [4], "straight lines"
            assert curve.one("KeyAttrRefCount").values[0].tolist() == [len(times)]
            values.append(np.interp(time_s * TICKS_PER_S, times, heights))
        return np.array(values)
