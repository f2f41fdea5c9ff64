"""FBX files of everybody in motion, one for each person, for Unity, Unreal, Maya, MotionBuilder, Blender and whatever else reads FBX.

python -m app.export.fbx out/in/meshes.npz [--out FOLDER]

For results that were made with --parametric or --glb, on Anny. A file holds a person's mesh with skin and skeleton (app.export.rig), which
rest in Anny's A-pose at the origin, and their motion in the world of people.glb, floor at 0, on the video's clock: keys at the times of
the frames. Before somebody appears they stand in their first pose, later in their last one, also through gaps of more than GAP_FRAMES.
What the picture never shows of somebody is cut from their mesh. Centimetres, y up, z towards the camera, as Autodesk's programs have them.
Source of names and values: the documentation of Autodesk's FBX SDK, https://help.autodesk.com/view/FBX/2020/ENU
"""

import sys
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import numpy as np

from app.colors import track_color
from app.export import cast
from app.export.angles import continuous_angles
from app.export.cast import Actor, Cast, keys_of
from app.export.fbx_binary import CREATED, FILE_ID, VERSION, Node, Value, to_bytes
from app.export.gltf import vertex_normals
from app.export.rig import STILL, Rig

SUFFIX = ".fbx"
CREATOR = "FastMETRO Live"
CM_PER_M = 100.0
TICKS_PER_S = 46_186_158_000
"""What FBX counts time in."""
ORDER = "xyz"
"""Of a node's rotation, the first first, about axes that stay."""
CUSTOM_RATE = 14
"""TimeMode of a rate that CustomFrameRate says."""
LINEAR = 4
"""Flag of a key: a straight line to the next one."""
NEAR_S = 6e-4
"""Containers round times to milliseconds; what lies as near to a frame is meant to lie on it, for animation programs count in frames."""
TAKE = "motion"
AXES = "XYZ"


def write_people(npz_path: Path, folder: Path | None = None) -> list[Path]:
    """person-ID.fbx for everybody in a meshes.npz, beside it or in `folder`; the paths.

    Raises InputError for files that are no meshes.npz, without body parameters, of another body or with nobody in them, OSError for what
    cannot be written.
    """
    return cast.write_people(npz_path, folder, SUFFIX, fbx_of)


def fbx_of(scene: Cast, actor: Actor) -> bytes:
    """The file of one person."""
    seen = actor.joint_visibility.max(axis=0)
    rig = Rig(scene.skin, actor.phenotype, actor.size, seen)
    if not len(rig.faces):  # of whom nothing is to be seen, all is a guess
        rig = Rig(scene.skin, actor.phenotype, actor.size, np.ones_like(seen))
    times_s, keys = keys_of(scene, actor, _on_frames(actor.times_s, scene.frame_s))
    file = _FbxScene(times_s[-1], 1 / scene.frame_s)
    bones = file.add_person(actor.track_id, rig)
    file.animate(bones[0], "T", times_s, (actor.root_m * CM_PER_M)[keys])
    for bone, model in enumerate(bones):
        rotmats = actor.turns.of(bone)[keys]
        moves = np.ptp(rotmats, axis=0).max() > STILL
        some = np.arange(len(keys)) if moves else np.unique([0, len(keys) - 1])
        turns = rig.turned(bone, rotmats[some])
        if not bone:
            turns = scene.world.camera.turn @ turns
        file.animate(model, "R", times_s[some], continuous_angles(rig.rests[bone].T @ turns, ORDER))
    return file.data()


class _FbxScene:
    """One file being made: objects, what connects them, one animation."""

    def __init__(self, end_s: float, fps: float) -> None:
        self._fps = fps
        (self._end,) = _ticks(np.array([end_s]))
        self._objects, self._connections, self._ids = Node("Objects"), Node("Connections"), count(1_000_000)
        take = self._add("AnimationStack", TAKE, "AnimStack", "")
        edges = {"Start": np.int64(0), "Stop": self._end}
        _add_properties(take, [
            (f"{clock}{edge}", "KTime", "Time", "", at) for clock in ("Local", "Reference") for edge, at in edges.items()
        ])  # fmt: skip
        self._layer = self._add("AnimationLayer", "base", "AnimLayer", "")
        self._connect(self._layer, take)

    def add_person(self, track_id: int, rig: Rig) -> list[Node]:
        """Skeleton and skin, at rest at the origin; the bones."""
        places_cm = (rig.heads_m - (0, rig.points_m[:, 1].min(), 0)) * CM_PER_M
        person = self._add_model(f"person {track_id}", "Null")
        bones: list[Node] = []
        for name, above, offset_m, turn in zip(rig.names, rig.parents, rig.offsets_m, rig.rests, strict=True):
            place_cm = places_cm[0] if above < 0 else offset_m * CM_PER_M
            (angles,) = continuous_angles(turn[None], ORDER)
            rest = [
                ("RotationActive", "bool", "", "", 1), ("PreRotation", "Vector3D", "Vector", "", *angles.tolist()),
                ("Lcl Translation", "Lcl Translation", "", "A", *place_cm.tolist()),
            ]  # fmt: skip
            bones.append(self._add_model(name, "LimbNode", person if above < 0 else bones[above], rest))
        body = f"body {track_id}"
        mesh = self._add_model(body, "Mesh", person)
        self._connect(self._add_material(track_id), mesh)
        geometry = self._add_geometry(body, rig.points_m * CM_PER_M + places_cm[0], rig.faces)
        self._connect(geometry, mesh)
        globals_cm = np.tile(np.eye(4), (len(bones), 1, 1))
        globals_cm[:, :3, :3], globals_cm[:, :3, 3] = rig.axes, places_cm
        self._add_skin(body, geometry, rig, bones, globals_cm)
        self._add_bind_pose([person, mesh, *bones], np.concatenate([np.tile(np.eye(4), (2, 1, 1)), globals_cm]))
        return bones

    def animate(self, model: Node, path: str, times_s: np.ndarray, values: np.ndarray) -> None:
        """Keys (K, 3) of a place ("T", centimetres) or of a rotation ("R", degrees, after the one at rest), straight between."""
        curves = self._add("AnimationCurveNode", path, "AnimCurveNode", "")
        _add_properties(curves, [(f"d|{axis}", "Number", "", "A", float(value)) for axis, value in zip(AXES, values[0], strict=True)])
        self._connect(curves, self._layer)
        self._connect(curves, model, {"T": "Lcl Translation", "R": "Lcl Rotation"}[path])
        times = _ticks(times_s)
        for axis, column in zip(AXES, values.T, strict=True):
            curve = self._add("AnimationCurve", "", "AnimCurve", "")
            curve.add("Default", float(column[0]))
            curve.add("KeyVer", 4008)
            curve.add("KeyTime", times)
            curve.add("KeyValueFloat", column.astype(np.float32))
            curve.add("KeyAttrFlags", np.array([LINEAR], np.int32))
            curve.add("KeyAttrDataFloat", np.zeros(4, np.float32))
            curve.add("KeyAttrRefCount", np.array([len(times)], np.int32))
            self._connect(curve, curves, f"d|{axis}")

    def data(self) -> bytes:
        """The finished file."""
        return to_bytes([
            _header(), Node("FileId", [FILE_ID]), Node("CreationTime", [f"{CREATED:%Y-%m-%d %H:%M:%S}:000"]), Node("Creator", [CREATOR]),
            self._settings(), self._documents(), Node("References"), self._definitions(), self._objects, self._connections, self._takes(),
        ])  # fmt: skip

    def _add(self, kind: str, name: str, family: str, flavour: str) -> Node:
        """An object, unconnected."""
        return self._objects.add(kind, np.int64(next(self._ids)), f"{name}\0\1{family}", flavour)

    def _connect(self, child: Node, parent: Node | None, name: str = "") -> None:
        """name: of the parent's property that the child drives; parent: None for the scene itself."""
        above = np.int64(0) if parent is None else parent.values[0]
        self._connections.add("C", "OP" if name else "OO", child.values[0], above, *([name] if name else []))

    def _add_model(self, name: str, flavour: str, parent: Node | None = None, rest: Iterable[tuple[Value, ...]] = ()) -> Node:
        """A node of the scene. rest: properties of where it rests, as seen from the one above."""
        model = self._add("Model", name, "Model", flavour)
        model.add("Version", 232)
        _add_properties(model, [("InheritType", "enum", "", "", 1), ("DefaultAttributeIndex", "int", "Integer", "", 0), *rest])
        model.add("Shading", True)
        model.add("Culling", "CullingOff")
        self._connect(model, parent)
        if flavour != "Mesh":
            attribute = self._add("NodeAttribute", name, "NodeAttribute", flavour)
            attribute.add("TypeFlags", {"LimbNode": "Skeleton"}.get(flavour, flavour))
            self._connect(attribute, model)
        return model

    def _add_material(self, track_id: int) -> Node:
        material = self._add("Material", f"person {track_id}", "Material", "")
        material.add("Version", 102)
        material.add("ShadingModel", "lambert")
        material.add("MultiLayer", 0)
        color = [value / 255 for value in track_color(track_id)]
        _add_properties(material, [("DiffuseColor", "Color", "", "A", *color)])
        return material

    def _add_geometry(self, name: str, points_cm: np.ndarray, faces: np.ndarray) -> Node:
        geometry = self._add("Geometry", name, "Geometry", "Mesh")
        geometry.add("Vertices", points_cm.ravel())
        corners = faces.astype(np.int32)
        corners[:, 2] = -1 - corners[:, 2]  # ends a polygon
        geometry.add("PolygonVertexIndex", corners.ravel())
        geometry.add("GeometryVersion", 124)
        normals = geometry.add("LayerElementNormal", 0)
        normals.add("Version", 101)
        normals.add("Name", "")
        normals.add("MappingInformationType", "ByVertice")
        normals.add("ReferenceInformationType", "Direct")
        normals.add("Normals", vertex_normals(points_cm[None], faces)[0].astype(np.float64).ravel())
        materials = geometry.add("LayerElementMaterial", 0)
        materials.add("Version", 101)
        materials.add("Name", "")
        materials.add("MappingInformationType", "AllSame")
        materials.add("ReferenceInformationType", "IndexToDirect")
        materials.add("Materials", np.zeros(1, np.int32))
        layer = geometry.add("Layer", 0)
        layer.add("Version", 100)
        for element in (normals, materials):
            row = layer.add("LayerElement")
            row.add("Type", element.name)
            row.add("TypedIndex", 0)
        return geometry

    def _add_skin(self, name: str, geometry: Node, rig: Rig, bones: list[Node], globals_cm: np.ndarray) -> None:
        """globals_cm: (B, 4, 4) of the bones at rest."""
        skin = self._add("Deformer", name, "Deformer", "Skin")
        skin.add("Version", 101)
        skin.add("Link_DeformAcuracy", 50.0)
        self._connect(skin, geometry)
        for bone, (model, resting) in enumerate(zip(bones, globals_cm, strict=True)):
            vertices, influences = np.nonzero((rig.bones == bone) & (rig.weights > 0))
            if not len(vertices):
                continue
            cluster = self._add("Deformer", rig.names[bone], "SubDeformer", "Cluster")
            cluster.add("Version", 100)
            cluster.add("UserData", "", "")
            cluster.add("Indexes", vertices.astype(np.int32))
            cluster.add("Weights", rig.weights[vertices, influences])
            cluster.add("Transform", _columns(np.linalg.inv(resting)))
            cluster.add("TransformLink", _columns(resting))
            self._connect(cluster, skin)
            self._connect(model, cluster)

    def _add_bind_pose(self, models: list[Node], globals_cm: np.ndarray) -> None:
        pose = self._add("Pose", "rest", "Pose", "BindPose")
        pose.add("Type", "BindPose")
        pose.add("Version", 100)
        pose.add("NbPoseNodes", len(models))
        for model, matrix in zip(models, globals_cm, strict=True):
            row = pose.add("PoseNode")
            row.add("Node", model.values[0])
            row.add("Matrix", _columns(matrix))

    def _settings(self) -> Node:
        settings = Node("GlobalSettings")
        settings.add("Version", 1000)
        whole = {
            "UpAxis": 1, "UpAxisSign": 1, "FrontAxis": 2, "FrontAxisSign": 1, "CoordAxis": 0, "CoordAxisSign": 1,
            "OriginalUpAxis": 1, "OriginalUpAxisSign": 1,
        }  # fmt: skip
        numbers = {"UnitScaleFactor": 1.0, "OriginalUnitScaleFactor": 1.0}  # a unit is a centimetre
        _add_properties(settings, [
            *((name, "int", "Integer", "", value) for name, value in whole.items()),
            *((name, "double", "Number", "", value) for name, value in numbers.items()),
            ("TimeMode", "enum", "", "", CUSTOM_RATE), ("CustomFrameRate", "double", "Number", "", float(self._fps)),
            ("TimeSpanStart", "KTime", "Time", "", np.int64(0)), ("TimeSpanStop", "KTime", "Time", "", self._end),
        ])  # fmt: skip
        return settings

    def _documents(self) -> Node:
        documents = Node("Documents")
        documents.add("Count", 1)
        document = documents.add("Document", np.int64(next(self._ids)), "", "Scene")
        _add_properties(document, [("ActiveAnimStackName", "KString", "", "", TAKE)])
        document.add("RootNode", np.int64(0))
        return documents

    def _definitions(self) -> Node:
        """How many objects there are of each kind."""
        counts = Counter(node.name for node in self._objects.nodes)
        definitions = Node("Definitions")
        definitions.add("Version", 100)
        definitions.add("Count", 1 + counts.total())
        for kind, number in {"GlobalSettings": 1, **counts}.items():
            definitions.add("ObjectType", kind).add("Count", number)
        return definitions

    def _takes(self) -> Node:
        takes = Node("Takes")
        takes.add("Current", TAKE)
        take = takes.add("Take", TAKE)
        take.add("FileName", f"{TAKE}.tak")
        for clock in ("LocalTime", "ReferenceTime"):
            take.add(clock, np.int64(0), self._end)
        return takes


def _header() -> Node:
    header = Node("FBXHeaderExtension")
    header.add("FBXHeaderVersion", 1003)
    header.add("FBXVersion", VERSION)
    header.add("EncryptionType", 0)
    stamp = header.add("CreationTimeStamp")
    stamp.add("Version", 1000)
    for part in ("year", "month", "day", "hour", "minute", "second"):
        stamp.add(part.capitalize(), getattr(CREATED, part))
    stamp.add("Millisecond", 0)
    header.add("Creator", CREATOR)
    return header


def _add_properties(node: Node, rows: Iterable[tuple[Value, ...]]) -> None:
    """rows: name, type, label, flags, values"""
    properties = node.add("Properties70")
    for row in rows:
        properties.add("P", *row)


def _columns(matrix: np.ndarray) -> np.ndarray:
    """(4, 4) -> (16,) columns first."""
    return np.ascontiguousarray(matrix.T).ravel()


def _on_frames(times_s: np.ndarray, frame_s: float) -> np.ndarray:
    """(T,) -> (T,)"""
    frames_s = np.round(times_s / frame_s) * frame_s
    return np.where(np.abs(times_s - frames_s) < NEAR_S, frames_s, times_s)


def _ticks(times_s: np.ndarray) -> np.ndarray:
    """(K,) int64."""
    return np.round(times_s * TICKS_PER_S).astype(np.int64)


def main(arguments: list[str] | None = None) -> int:
    """Command line entry point; the exit code."""
    return cast.run_command("app.export.fbx", __doc__ or "", SUFFIX, fbx_of, arguments)


if __name__ == "__main__":
    sys.exit(main())
