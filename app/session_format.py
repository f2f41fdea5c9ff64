"""A recorded session as an Arrow table: one row per frame, its people as a list within it.

The vertices are those of the intermediate mesh in tenths of a millimetre; the rest follow from them as the network's own do, by the
sparse up-sampling. For the default body that is 10 kB a person and frame instead of 165, and the surface comes back to 0.1 mm in the
mean (5 mm at the worst, where a vertex moves fast and the smoothing bent the mesh a little); with `--mesh parametric`, whose meshes
the up-sampling does not make, to 1.0 mm in the mean and 22 mm at the worst. Joints are kept as they were.
What is the same for all frames stands in the first row (column `body_mesh`) and in the schema's metadata.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from app.export import Parameters
from app.types import Frame, Intrinsics, Scene, SmoothedMesh
from app.visibility import body_joint_weights
from core.joints import JOINT_NAMES

if TYPE_CHECKING:
    from core.bodies import Body

FORMAT = "fastmetro-live session"
VERSION = 1
FORMAT_KEY, DETAILS_KEY = b"format", b"details"
UNITS_PER_M = 10_000
"""Vertices are whole tenths of a millimetre: int16 then reaches 3.2 m from the pelvis."""
JPEG_QUALITY = 88
BACKGROUND_RGB = (38, 41, 46)
"""Where no pictures were recorded."""
DTYPES = {pa.int16(): np.int16, pa.int32(): np.int32, pa.int64(): np.int64, pa.float32(): np.float32, pa.float64(): np.float64}
NUM_JOINTS = len(JOINT_NAMES)
MESH_FIELDS = {
    "score": (), "box_px": (4,), "joints_m": (NUM_JOINTS, 3), "joints_px": (NUM_JOINTS, 2), "joint_visibility": (NUM_JOINTS,),
    "camera": (3,), "translation_m": (3,),
}  # fmt: skip
"""What is kept of each person as float32, with its shape."""


@dataclass(frozen=True)
class SessionInfo:
    """What all frames of a session share.

    faces: (F, 3) int32                     vertex_joint_weights: (V, 14) float32, see visibility.vertex_joint_weights
    kept_ids: (K,) int32, the vertices that are recorded
    upsample: (V, K) float32 sparse, all vertices from these
    settings: how the meshes were made (JSON values)     parameters: of the body, where they are recorded as well
    """

    body: str
    faces: np.ndarray
    vertex_joint_weights: np.ndarray
    kept_ids: np.ndarray
    upsample: csr_matrix
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: Parameters | None = None

    @classmethod
    def of(cls, body: "Body", settings: Mapping[str, Any] | None = None, parametric: bool = False) -> "SessionInfo":
        """For sessions with this body."""
        parameters = Parameters.of(body) if parametric else None
        ids = np.asarray(body.levels.intermediate_ids, np.int32)
        return cls(body.name, body.faces, body_joint_weights(body), ids, body.levels.upsample[1], settings or {}, parameters)


def schema_of(info: SessionInfo, created: str) -> pa.Schema:
    """The table's columns. created: when, ISO 8601."""
    mesh = [("track_id", pa.int32())] + [(name, _floats(shape)) for name, shape in MESH_FIELDS.items()]
    mesh.append(("vertices_tenth_mm", pa.list_(pa.int16(), 3 * len(info.kept_ids))))
    if info.parameters is not None:
        rotations, shape = info.parameters.names
        mesh += [(rotations, _floats((info.parameters.num_bones, 3, 3))), (shape, _floats((info.parameters.num_shape,)))]
    parameters = None if info.parameters is None else vars(info.parameters) | {"labels": dict(info.parameters.labels)}
    details = {
        "version": VERSION, "created": created, "body": info.body, "joint_names": JOINT_NAMES, "num_vertices": info.upsample.shape[0],
        "num_kept": len(info.kept_ids), "parameters": parameters, "settings": dict(info.settings),
    }  # fmt: skip
    columns = [
        ("frame_index", pa.int64()), ("time_s", pa.float64()), ("image_size_px", pa.list_(pa.int32(), 2)), ("focal_px", pa.float64()),
        ("principal_px", pa.list_(pa.float64(), 2)), ("timings_ms", pa.map_(pa.string(), pa.float32())), ("picture_jpeg", pa.binary()),
        ("meshes", pa.list_(pa.struct(mesh))), ("body_mesh", _BODY_MESH),
    ]  # fmt: skip
    return pa.schema(columns, metadata={FORMAT_KEY: FORMAT, DETAILS_KEY: json.dumps(details, default=str)})


_BODY_MESH = pa.struct([
    ("faces", pa.list_(pa.int32())), ("vertex_joint_weights", pa.list_(pa.float32())), ("kept_ids", pa.list_(pa.int32())),
    ("upsample_starts", pa.list_(pa.int32())), ("upsample_columns", pa.list_(pa.int32())), ("upsample_weights", pa.list_(pa.float32())),
])  # fmt: skip


def _floats(shape: tuple[int, ...]) -> pa.DataType:
    return pa.list_(pa.float32(), int(np.prod(shape))) if shape else pa.float32()


def row_of(scene: Scene, info: SessionInfo, schema: pa.Schema, picture_jpeg: bytes | None, first: bool) -> pa.RecordBatch:
    """One frame as a batch of one row. Raises ValueError when a mesh does not fit `info`."""
    values = {
        "frame_index": [scene.frame.index], "time_s": [scene.frame.time_s], "image_size_px": scene.frame.size_px,
        "focal_px": [scene.intrinsics.focal_px], "principal_px": scene.intrinsics.principal_px,
    }  # fmt: skip
    columns = {name: _as_arrow(np.array(value), schema.field(name).type) for name, value in values.items()}
    columns["timings_ms"] = _as_map(scene.timings_ms)
    columns["picture_jpeg"] = pa.nulls(1, pa.binary()) if picture_jpeg is None else _as_texts(pa.binary(), [picture_jpeg])
    columns["meshes"] = pa.ListArray.from_arrays(
        _plain(np.array([0, len(scene.meshes)]), pa.int32()), _mesh_rows(scene.meshes, info, schema)
    )
    columns["body_mesh"] = _body_row(info) if first else pa.nulls(1, _BODY_MESH)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def _mesh_rows(meshes: tuple[SmoothedMesh, ...], info: SessionInfo, schema: pa.Schema) -> pa.StructArray:
    num_vertices = info.upsample.shape[0]
    for mesh in meshes:
        if len(mesh.vertices_m) != num_vertices:
            raise ValueError(f"recording: got a mesh of {len(mesh.vertices_m)} vertices, expected {num_vertices} as the session's body has")
        if info.parameters is not None and mesh.rotmats is None:
            raise ValueError("recording: body parameters are to be recorded, but a mesh came without them")
    fields = list(schema.field("meshes").type.value_type)
    values: list[np.ndarray] = [np.array([mesh.track_id for mesh in meshes], np.int32)]
    values += [np.array([getattr(mesh, name) for mesh in meshes], np.float32) for name in MESH_FIELDS]
    kept = np.array([mesh.vertices_m[info.kept_ids] for mesh in meshes], np.float32)
    limits = np.iinfo(np.int16)
    values.append(np.clip(np.rint(kept * UNITS_PER_M), limits.min, limits.max).astype(np.int16))
    if info.parameters is not None:
        values += [np.array([getattr(mesh, name) for mesh in meshes], np.float32) for name in ("rotmats", "shape")]
    arrays = [_as_arrow(array, item.type) for array, item in zip(values, fields, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _plain(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Numbers as they lie in memory. Not pa.array, and not kind.to_pandas_dtype: they import pandas, a second's pause in a live session."""
    values = np.ascontiguousarray(values, DTYPES[kind])
    return pa.Array.from_buffers(kind, values.size, [None, pa.py_buffer(values)])


def _as_arrow(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Numbers, or rows of numbers."""
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(_plain(values.reshape(-1), kind.value_type), type=kind)
    return _plain(values, kind)


def _as_texts(kind: pa.DataType, texts: list[bytes]) -> pa.Array:
    """Strings or binaries."""
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.Array.from_buffers(kind, len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])


def _as_map(values: Mapping[str, float]) -> pa.Array:
    keys = _as_texts(pa.string(), [key.encode() for key in values])
    return pa.MapArray.from_arrays(
        _plain(np.array([0, len(values)]), pa.int32()), keys, _plain(np.array(list(values.values()), np.float32), pa.float32())
    )


def _body_row(info: SessionInfo) -> pa.StructArray:
    parts = (
        info.faces, info.vertex_joint_weights, info.kept_ids, info.upsample.indptr, info.upsample.indices, info.upsample.data
    )  # fmt: skip
    columns = [
        pa.ListArray.from_arrays(_plain(np.array([0, part.size]), pa.int32()), _plain(part.reshape(-1), item.type.value_type))
        for part, item in zip(parts, _BODY_MESH, strict=True)
    ]
    return pa.StructArray.from_arrays(columns, fields=list(_BODY_MESH))


def info_from(schema: pa.Schema, first: pa.RecordBatch) -> SessionInfo:
    """What `schema_of` and the first row say. Raises KeyError, TypeError or ValueError when they do not fit each other."""
    details = json.loads(schema.metadata[DETAILS_KEY])
    parameters = details["parameters"]
    if parameters is not None:
        labels = {name: tuple(values) for name, values in parameters["labels"].items()}
        parameters = Parameters(tuple(parameters["names"]), parameters["num_bones"], parameters["num_shape"], labels)
    parts = first.column("body_mesh").slice(0, 1)
    tables = {item.name: parts.field(item.name).flatten().to_numpy(zero_copy_only=False).copy() for item in _BODY_MESH}
    num_vertices, num_kept = int(details["num_vertices"]), int(details["num_kept"])
    upsample = csr_matrix(
        (tables["upsample_weights"], tables["upsample_columns"], tables["upsample_starts"]), shape=(num_vertices, num_kept)
    )
    upsample.check_format(full_check=True)
    info = SessionInfo(
        body=str(details["body"]), faces=tables["faces"].reshape(-1, 3), kept_ids=tables["kept_ids"], upsample=upsample,
        vertex_joint_weights=tables["vertex_joint_weights"].reshape(num_vertices, NUM_JOINTS), settings=details["settings"],
        parameters=parameters,
    )  # fmt: skip
    if info.faces.size and not 0 <= info.faces.min() <= info.faces.max() < num_vertices:
        raise ValueError("its faces name vertices that it does not have")
    if not schema.equals(schema_of(info, details["created"])):
        raise ValueError("its columns are not those of this version")
    return info


def scene_of(row: pa.RecordBatch, info: SessionInfo, image: np.ndarray, index: int, time_s: float) -> Scene:
    """The scene of a batch of one row, on this picture, as frame `index` at `time_s`."""
    focal_px, principal_px, timings_ms = (row.column(name)[0].as_py() for name in ("focal_px", "principal_px", "timings_ms"))
    people = pa.RecordBatch.from_struct_array(row.column("meshes").flatten())
    columns = {name: _as_numpy(people.column(name)) for name in people.schema.names}
    meshes = tuple(_mesh_of(columns, info, person) for person in range(people.num_rows))
    return Scene(Frame(image, time_s, index), Intrinsics(focal_px, tuple(principal_px)), meshes, dict(timings_ms))


def _as_numpy(column: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)


def _mesh_of(columns: dict[str, np.ndarray], info: SessionInfo, person: int) -> SmoothedMesh:
    kept_m = columns["vertices_tenth_mm"][person].reshape(-1, 3).astype(np.float32) / UNITS_PER_M
    vertices_m = info.upsample @ kept_m
    fields = {name: columns[name][person].reshape(shape).copy() for name, shape in MESH_FIELDS.items() if shape}
    if info.parameters is not None:
        rotations, shape = info.parameters.names
        fields |= {"rotmats": columns[rotations][person].reshape(-1, 3, 3).copy(), "shape": columns[shape][person].copy()}
    return SmoothedMesh(
        track_id=int(columns["track_id"][person]), score=float(columns["score"][person]), vertices_m=np.asarray(vertices_m, np.float32),
        **fields,
    )  # fmt: skip
