"""Ways to draw a person in the window: STYLES maps a name to one. Each has one Open3D geometry whose points move from frame to frame."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from app.viewer.lean_open3d import o3d
from core.joints import BONES, JOINT_NAMES
from core.registry import Registry

KEY_LIGHT = np.array([-0.45, -0.65, -0.61])
FILL_LIGHT = np.array([0.75, -0.1, -0.65])
AMBIENT, KEY, FILL, RIM = 0.34, 0.62, 0.16, 0.22
BONE_RADIUS_M, JOINT_RADIUS_M = 0.018, 0.034


@dataclass(frozen=True)
class BodyShape:
    """What styles know of a body. faces: (F, 3) int32, none for a body whose faces are unknown

    edges: (E, 2) int32 between vertices, a coarse net over the body
    """

    faces: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, body: object) -> "BodyShape":
        """From the body contract."""
        from core.mesh import edges_of

        levels = body.levels
        ids, coarse = np.asarray(levels.intermediate_ids), np.asarray(levels.intermediate_faces)
        faces = np.asarray(body.faces, np.int32).reshape(-1, 3)
        return cls(faces, edges_of(ids[coarse] if len(coarse) else faces).astype(np.int32))


@dataclass(frozen=True)
class Figure:
    """A person at one moment, camera axes, metres, not mirrored.

    vertices_m (V, 3), joints_m (14, 3): float64     color: (3,) 0..1
    shown_vertices: (V,) bool, shown_joints: (14,) bool; what is out of the picture is not drawn
    """

    vertices_m: np.ndarray
    joints_m: np.ndarray
    color: np.ndarray
    shown_vertices: np.ndarray
    shown_joints: np.ndarray


class Style(Protocol):
    """geometry: to be added to the window once."""

    geometry: o3d.geometry.Geometry3D

    def update(self, figure: Figure, mirror: np.ndarray) -> None:
        """Move the geometry. mirror: (3,) factors of the axes, x is -1 in a mirror."""


STYLES: Registry[Callable[[BodyShape], Style]] = Registry("style")


@STYLES.register("mesh")
class MeshStyle:
    """The surface, lit by three lamps; the light is worked out here for each vertex, which costs a software GL least."""

    def __init__(self, shape: BodyShape) -> None:
        self._faces, self._shown_faces = shape.faces, shape.faces
        self.geometry = o3d.geometry.TriangleMesh()
        self._scratch = o3d.geometry.TriangleMesh()
        self._scratch.triangles = self.geometry.triangles = o3d.utility.Vector3iVector(shape.faces)

    def update(self, figure: Figure, mirror: np.ndarray) -> None:
        """Vertices, colours, and the faces that are shown."""
        scratch = self._scratch
        scratch.vertices = o3d.utility.Vector3dVector(figure.vertices_m)
        scratch.triangle_normals = o3d.utility.Vector3dVector()
        scratch.compute_vertex_normals()
        normals = np.asarray(scratch.vertex_normals)
        outward = np.sign(np.einsum("ij,ij->", normals, figure.vertices_m - figure.vertices_m.mean(0)))
        self.geometry.vertices = o3d.utility.Vector3dVector(figure.vertices_m * mirror)
        self.geometry.vertex_colors = o3d.utility.Vector3dVector(lit(normals * outward, figure.color))
        faces = self._faces if figure.shown_vertices.all() else self._faces[figure.shown_vertices[self._faces].all(1)]
        if faces is not self._shown_faces:
            self.geometry.triangles = o3d.utility.Vector3iVector(faces)
            self._shown_faces = faces


@STYLES.register("wireframe")
class WireframeStyle:
    """A coarse net of lines, lit as the surface would be."""

    def __init__(self, shape: BodyShape) -> None:
        self._edges = shape.edges
        self.geometry = o3d.geometry.LineSet()

    def update(self, figure: Figure, mirror: np.ndarray) -> None:
        """Points and lines; those behind the body are darker."""
        edges = self._edges[figure.shown_vertices[self._edges].all(1)]
        middle_z = figure.vertices_m[edges].mean(1)[:, 2]
        near, far = (middle_z.min(), middle_z.max()) if len(edges) else (0.0, 1.0)
        shade = 1.0 - 0.65 * (middle_z - near) / max(far - near, 1e-6)
        self.geometry.points = o3d.utility.Vector3dVector(figure.vertices_m * mirror)
        self.geometry.lines = o3d.utility.Vector2iVector(edges)
        self.geometry.colors = o3d.utility.Vector3dVector(shade[:, None] * figure.color)


@STYLES.register("skeleton")
class SkeletonStyle:
    """Joints as balls, bones as rods."""

    def __init__(self, shape: BodyShape) -> None:
        del shape
        ball = o3d.geometry.TriangleMesh.create_sphere(JOINT_RADIUS_M, 8)
        rod = o3d.geometry.TriangleMesh.create_cylinder(BONE_RADIUS_M, 1.0, 8, 1)
        self._ball, self._rod = (np.asarray(part.vertices).copy() for part in (ball, rod))
        self._bones = np.array([[JOINT_NAMES.index(a), JOINT_NAMES.index(b)] for a, b in BONES])
        counts = [len(self._ball)] * len(JOINT_NAMES) + [len(self._rod)] * len(BONES)
        starts = np.cumsum([0, *counts[:-1]])
        parts = [np.asarray(ball.triangles)] * len(JOINT_NAMES) + [np.asarray(rod.triangles)] * len(BONES)
        self._faces = [part + start for part, start in zip(parts, starts, strict=True)]
        self.geometry = o3d.geometry.TriangleMesh()

    def update(self, figure: Figure, mirror: np.ndarray) -> None:
        """Move balls and rods to the joints."""
        joints = figure.joints_m
        points = [self._ball + joint for joint in joints]
        points += [place_rod(self._rod, joints[a], joints[b]) for a, b in self._bones]
        shown = [*figure.shown_joints, *(figure.shown_joints[a] and figure.shown_joints[b] for a, b in self._bones)]
        faces = [face for face, is_shown in zip(self._faces, shown, strict=True) if is_shown]
        vertices = np.concatenate(points)
        self.geometry.vertices = o3d.utility.Vector3dVector(vertices * mirror)
        self.geometry.triangles = o3d.utility.Vector3iVector(np.concatenate([np.zeros((0, 3), np.int32), *faces]).astype(np.int32))
        centers = np.concatenate([np.broadcast_to(part.mean(0), part.shape) for part in points])
        normals = vertices - centers
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        self.geometry.vertex_colors = o3d.utility.Vector3dVector(lit(normals, figure.color))


def lit(normals: np.ndarray, color: np.ndarray) -> np.ndarray:
    """(V, 3) colours 0..1 of a matt surface. normals: (V, 3) outward, camera axes; color: (3,)."""
    key, fill = np.clip(-normals @ -KEY_LIGHT, 0, 1), np.clip(normals @ FILL_LIGHT, 0, 1)
    rim = np.clip(1 + np.minimum(normals[:, 2], 0), 0, 1) ** 3
    light = AMBIENT + KEY * key + FILL * fill
    return np.clip(light[:, None] * color + (RIM * rim * np.clip(-normals[:, 1] + 0.3, 0, 1))[:, None], 0, 1)


def place_rod(rod: np.ndarray, start_m: np.ndarray, end_m: np.ndarray) -> np.ndarray:
    """(N, 3): a rod along z of length 1 around 0, laid from one point to another."""
    axis = end_m - start_m
    length = max(float(np.linalg.norm(axis)), 1e-9)
    z = axis / length
    x = np.cross(z, (1.0, 0.0, 0.0) if abs(z[0]) < 0.9 else (0.0, 1.0, 0.0))
    x /= np.linalg.norm(x)
    turned = rod * (1, 1, length) @ np.stack([x, np.cross(z, x), z])
    return turned + (start_m + end_m) / 2
