"""A synthetic person who walks in a circle before a camera: motion, pictures, and the truth about both. For the demo."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix

from app.types import Intrinsics
from core.bodies.anny import AnnyBody
from core.geometry import default_focal_px, project_pinhole
from core.raster import Fragments, rasterize
from core.rotations import about_x, about_y, rotation, swing
from core.training.appearance import BodySurface, Outfit, Part, label
from core.training.poses import NECK, SIDES, SPINE, PoseSampler

SIZE_PX = (640, 480)
FPS = 25.0
DURATION_S = 7.0
LAP_S = 7.0
RADIUS_M = 1.1
MIDDLE_M = (0.0, 5.0)
"""x and z of the circle's middle; the camera is at 0 and looks along z."""
GROUND_M = 1.15
STEP_CYCLE_S = 1.05
SHAPE = (0.2, 0.62, 0.6, 0.45, 0.6, 0.6)
"""Phenotype: gender, age, muscle, weight, height, proportions."""
DOWN = np.array([0.0, 1.0, 0.0])
LAMP = np.array([-0.45, -0.75, -0.5]) / np.linalg.norm([-0.45, -0.75, -0.5])
AMBIENT = 0.45
COLOURS = {
    Part.SKIN: (201, 152, 122), Part.TOP: (176, 58, 52), Part.BOTTOM: (58, 70, 104), Part.SHOE: (44, 42, 46), Part.HAIR: (62, 44, 34),
    Part.IRIS: (70, 52, 40), Part.BROW: (66, 48, 38), Part.SCLERA: (232, 230, 226), Part.LIP: (170, 96, 90), Part.SKIRT: (58, 70, 104),
}  # fmt: skip
OUTFIT = Outfit(
    sleeve=0.6, leg=2.05, waist_m=0.0, neckline_m=0.03, hair="short", hair_end_m=0.1, top=True, dress=False, shoes=True, gloves=False,
    suit=False, skirt=0.0, flare=0.1, puff_m=(0.0, 0.0, 0.0, 0.0),
)  # fmt: skip


@dataclass(frozen=True)
class WalkerFrame:
    """A picture and its truth. image: (H, W, 3) uint8 RGB; vertices_m (V, 3), joints_m (14, 3): pelvis at 0, camera axes;
    translation_m: (3,) of the pelvis.
    """

    image: np.ndarray
    time_s: float
    vertices_m: np.ndarray
    joints_m: np.ndarray
    translation_m: np.ndarray


class Walker:
    """Renders frame by frame; nothing is random, so every machine gets the same video."""

    def __init__(self, body: AnnyBody, size_px: tuple[int, int] = SIZE_PX, focal_px: float | None = None) -> None:
        """size_px: width, height of the pictures; focal_px: of the camera, by default their diagonal."""
        self._body, self._poses = body, PoseSampler(body, seed=0)
        self._surface = BodySurface(body)
        self._size_px = width, height = size_px
        self.intrinsics = Intrinsics(focal_px or default_focal_px(width, height), (width / 2, height / 2))
        self._room = room(self.intrinsics, size_px)
        count, num_faces = len(body.levels.template_m), len(body.faces)
        entries = (np.ones(3 * num_faces, np.float32), (body.faces.ravel(), np.repeat(np.arange(num_faces), 3)))
        self._vertex_from_face = csr_matrix(entries, shape=(count, num_faces))

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return round(DURATION_S * FPS)

    @property
    def empty_room(self) -> np.ndarray:
        """(H, W, 3) uint8, the picture without the person."""
        return np.clip(np.round(self._room), 0, 255).astype(np.uint8)

    def frames(self) -> Iterator[WalkerFrame]:
        """The video."""
        for index in range(self.num_frames):
            yield self.frame(index / FPS)

    def frame(self, time_s: float) -> WalkerFrame:
        """The person at one time."""
        shape = torch.tensor([SHAPE])
        pose = torch.from_numpy(walking_pose(self._poses, time_s).astype(np.float32))[None]
        with torch.inference_mode():
            vertices = self._body.vertices(pose, shape)
            pelvis = self._body.pelvis(vertices)
            joints = self._body.joints(vertices) - pelvis[:, None]
        vertices_m = (vertices - pelvis[:, None])[0].numpy()
        angle = 2 * np.pi * time_s / LAP_S
        x, z = MIDDLE_M[0] + RADIUS_M * np.cos(angle), MIDDLE_M[1] + RADIUS_M * np.sin(angle)
        translation_m = np.array([x, GROUND_M - vertices_m[:, 1].max(), z])
        return WalkerFrame(self._draw(vertices_m + translation_m), time_s, vertices_m, joints[0].numpy(), translation_m)

    def _draw(self, placed_m: np.ndarray) -> np.ndarray:
        """placed_m: (V, 3) before the camera -> (H, W, 3) uint8."""
        width, height = self._size_px
        camera = self.intrinsics
        image = self._room - _shadow(placed_m, camera, self._body.faces, self._size_px)
        points_px = project_pinhole(placed_m, camera.focal_px, camera.principal_px)
        fragments = rasterize(points_px, placed_m[:, 2], self._body.faces, height, width)
        image[fragments.covered] = self._shade(placed_m, fragments)
        return np.clip(np.round(image), 0, 255).astype(np.uint8)

    def _shade(self, placed_m: np.ndarray, fragments: Fragments) -> np.ndarray:
        """(N, 3) colours of the covered pixels, 0..255."""
        faces, covered = self._body.faces, fragments.covered
        a, b, c = (placed_m[faces[:, corner]] for corner in range(3))
        normals = self._vertex_from_face @ np.cross(b - a, c - a).astype(np.float32)
        corners, weights = faces[fragments.face_index[covered]], fragments.barycentric[covered][..., None]
        parts = label((self._surface.channels[corners] * weights).sum(1), OUTFIT, self._surface)
        table = np.zeros((max(Part) + 1, 3), np.float32)
        for part, colour in COLOURS.items():
            table[part] = colour
        normal = (normals[corners] * weights).sum(1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        light = AMBIENT + (1 - AMBIENT) * np.clip(normal @ LAMP, 0, None) + 0.15 * np.clip(-normal[:, 2], 0, None)
        return table[parts] * light[:, None]


def walking_pose(poses: PoseSampler, time_s: float) -> np.ndarray:
    """(104, 3, 3) rotation matrices: a step cycle, arms against the legs, the body turned along the circle."""
    body = poses.body
    rotmats = np.tile(np.eye(3), (len(body.bone_names), 1, 1))
    phase = 2 * np.pi * time_s / STEP_CYCLE_S

    def turn(bone: str, rotmat: np.ndarray) -> None:
        rotmats[body.bone_index(bone)] = rotmat

    for side, sign in SIDES:
        wave, lift = sign * np.cos(phase), np.maximum(-sign * np.sin(phase), 0)
        turn(f"upperleg01.{side}", swing(DOWN, _towards(sign, 2.0, 26 * wave + 4)[None])[0])
        turn(f"lowerleg01.{side}", about_x(np.array(8 + 52 * lift**1.5)))
        turn(f"foot.{side}", about_x(np.array(-6 * wave - 8 * lift)))
        arm = _towards(sign, 9.0, -24 * wave + 2)
        turn(f"upperarm01.{side}", swing(poses.arm[side], arm[None])[0])
        elbow = 22 - 14 * wave - poses.rest_elbow[side]
        turn(f"lowerarm01.{side}", rotation(poses.elbow_axis[side], np.array(elbow)))
    twist = 7 * np.cos(phase)
    for bone in SPINE:
        turn(bone, about_y(np.array(twist / len(SPINE))) @ about_x(np.array(0.8)))
    for bone in NECK:
        turn(bone, about_y(np.array(-twist / len(NECK))))
    heading = 180 + 360 * time_s / LAP_S  # facing -z at 0; this looks along the circle
    rotmats[0] = about_y(np.array(-heading))
    return rotmats


def _towards(sign: float, spread_degrees: float, forward_degrees: float) -> np.ndarray:
    """(3,) unit vector of a limb that hangs, spread to its side and swung forward (-z)."""
    spread, forward = np.radians(spread_degrees), np.radians(forward_degrees)
    return np.array([sign * np.sin(spread), np.cos(spread) * np.cos(forward), -np.cos(spread) * np.sin(forward)])


def room(camera: Intrinsics, size_px: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float32: a wall at 9 m and a floor of boards, softly lit."""
    width, height = size_px
    x, y = np.meshgrid(np.arange(width) + 0.5 - camera.principal_px[0], np.arange(height) + 0.5 - camera.principal_px[1])
    wall_m = 9.0
    depth_m = np.where(y > 0, camera.focal_px * GROUND_M / np.maximum(y, 1e-3), np.inf)
    on_floor = depth_m < wall_m
    depth_m = np.minimum(depth_m, wall_m)
    across_m = x * depth_m / camera.focal_px
    board = np.floor(across_m / 0.22)
    grain = 6 * np.sin(board * 12.9898) + 4 * np.sin(depth_m * 9 + board * 3)
    floor = np.array([150, 122, 92]) + grain[..., None] - 30 * (np.abs(across_m / 0.22 - np.round(across_m / 0.22)) < 0.03)[..., None]
    up_m = -y * depth_m / camera.focal_px
    panel = 5 * np.sign(np.sin(across_m * 2.2))
    wall = np.array([186, 190, 182]) + (panel + 10 * up_m)[..., None]
    light = 1 - 0.18 * np.square(x / width * 2)
    return (np.where(on_floor[..., None], floor, wall) * light[..., None]).astype(np.float32)


def _shadow(placed_m: np.ndarray, camera: Intrinsics, faces: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """(H, W, 1) float32: how much darker the floor is where the lamp does not reach it."""
    width, height = size_px
    drop_m = (GROUND_M - placed_m[:, 1]) / -LAMP[1]
    floor_m = placed_m - drop_m[:, None] * LAMP
    points_px = project_pinhole(floor_m, camera.focal_px, camera.principal_px)
    return 38.0 * rasterize(points_px, floor_m[:, 2], faces, height, width).covered[..., None].astype(np.float32)
