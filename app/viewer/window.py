"""The live window: Open3D's legacy Visualizer, which draws with plain OpenGL, also in software. To be used from the main thread only."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from app.colors import track_color
from app.hud import Hud
from app.native_logs import native_noise_filtered
from app.types import Intrinsics, Scene, SmoothedMesh
from app.viewer.lean_open3d import o3d
from app.viewer.panels import BAR_PX, bottom_bar, help_panel, top_bar
from app.viewer.software_gl import settle_software_gl
from app.viewer.stage import GRID_FAR_M, GRID_HALF_M, PICTURE_SIDE_PX, Eye, Panel, Picture, ground_grid, ring
from app.viewer.styles import STYLES, BodyShape, Figure, Style
from app.visibility import HIDDEN_BELOW, SHOWN_ABOVE, with_smooth_edge
from core.joints import ANKLES

log = logging.getLogger(__name__)

BACKGROUND = np.array([0.094, 0.102, 0.122])
NEAR_M, FAR_M = 0.02, 80.0
WINDOW_PX = (1120, 760)
PICTURE_MARGIN = 1.04
BEHIND_M, NEAREST_PICTURE_M, FARTHEST_PICTURE_M = 1.2, 3.5, 60.0
"""How far the picture hangs behind the last person, and its limits."""
SETTLE = 0.15
"""How fast the ground and the picture's distance follow, a frame."""
SIDE_YAW, SIDE_PITCH = math.radians(40), math.radians(14)
SHOWN_FROM = (HIDDEN_BELOW + SHOWN_ABOVE) / 2
"""Joint visibility from which a part is drawn; the overlay fades in around it."""
NOTE_FRAMES = 60
ESCAPE, F1 = 256, 290
UNUSED_KEYS = "BCDEFIJLNOQTUYZ0123456789+-=,.;'[]\\/`"
"""Keys that Open3D would use for settings of its own."""
KEYS: tuple[tuple[str, int, str, str], ...] = (
    ("M", ord("M"), "mesh", "mesh"),
    ("W", ord("W"), "wireframe", "wireframe"),
    ("S", ord("S"), "skeleton", "skeleton"),
    ("Space", ord(" "), "pause", "pause the view, go on"),
    ("V", ord("V"), "view", "camera view; again: from the side"),
    ("X", ord("X"), "mirror", "mirror"),
    ("B", ord("B"), "picture", "camera picture on, off"),
    ("G", ord("G"), "ground", "ground on, off"),
    ("I", ord("I"), "info", "numbers on, off"),
    ("P", ord("P"), "screenshot", "save a screenshot"),
    ("R", ord("R"), "record", "record, stop recording"),
    ("H", ord("H"), "help", "this help"),
    ("Q, Esc", ord("Q"), "quit", "quit"),
    ("", ESCAPE, "quit", ""),
    ("", F1, "help", ""),
)
"""Shown name, GLFW code, action, help."""
MOUSE_HELP = (("Mouse", "turn; wheel: nearer, farther; Ctrl: move"),)


@dataclass
class _Switches:
    """What the keys changed."""

    style: str = "mesh"
    mirror: bool = False
    paused: bool = False
    picture: bool = True
    ground: bool = True
    info: bool = True
    help: bool = False
    quit: bool = False


class WindowError(RuntimeError):
    """No window can be opened: there is no display, or no OpenGL."""


class Window:
    """Shows scenes. `record` is called by the record key; screenshots go to `folder`. Raises WindowError where none can be opened."""

    def __init__(
        self, title: str, folder: Path, mirror: bool = False, record: Callable[[], None] | None = None, show_hidden: bool = False
    ) -> None:
        """show_hidden: draw what is out of the picture or hidden as well."""
        self._folder, self._record, self._show_hidden = folder, record, show_hidden
        self._on = _Switches(mirror=mirror)
        o3d.utility.set_verbosity_level(o3d.utility.VerbosityLevel.Error)
        settle_software_gl()
        self._visualizer = o3d.visualization.VisualizerWithKeyCallback()
        with native_noise_filtered():
            created = self._visualizer.create_window(title, *WINDOW_PX)
        if not created:
            raise WindowError
        self._style_options()
        self._bind_keys()
        self._grid, self._picture = ground_grid(), Picture()
        self._panels = {name: Panel() for name in ("top", "bottom", "help")}
        self._panels["help"].set_picture(help_panel([(key, text) for key, _, _, text in KEYS if key] + list(MOUSE_HELP)))
        self._added: set[int] = set()
        self._add(self._grid, first=True)
        self._people: dict[int, _Person] = {}
        self._body: BodyShape | None = None
        self._joint_weights: np.ndarray | None = None
        self._ground_m, self._picture_m = math.nan, NEAREST_PICTURE_M
        self._settled_by: set[int] = set()  # track ids
        self._intrinsics: Intrinsics | None = None
        self._scene: Scene | None = None
        self._size_px, self._pinned, self._camera_view = WINDOW_PX, None, np.eye(4)
        self._hud, self._source_state = Hud(), "opening"
        self._told: tuple = ()
        self._note, self._note_frames = "", 0
        self._visualizer.get_view_control().set_constant_z_near(NEAR_M)
        self._visualizer.get_view_control().set_constant_z_far(FAR_M)

    def set_body(self, body: object, joint_weights: np.ndarray) -> None:
        """Tell the faces, once the network is loaded. joint_weights: (V, 14), see vertex_joint_weights."""
        self._body, self._joint_weights = BodyShape.of(body), joint_weights
        if not len(self._body.faces):
            self._on.style = "skeleton"

    @property
    def paused(self) -> bool:
        """Whether the view stands still."""
        return self._on.paused

    def show(self, scene: Scene, hud: Hud, source_state: str) -> None:
        """Draw a scene; while paused only the numbers change."""
        self._hud, self._source_state = hud, source_state
        if not self._on.paused:
            self._show_scene(scene)
        self._show_panels()
        self._visualizer.update_renderer()

    def poll(self) -> bool:
        """Take keys and mouse, draw what changed; False when the window is to be closed."""
        eye = self._eye()
        if self._pinned is None or not _same_eye(eye, self._pinned):
            self._pin(eye)
        return self._visualizer.poll_events() and not self._on.quit

    def close(self) -> None:
        """Take the window away."""
        self._visualizer.destroy_window()

    def _style_options(self) -> None:
        options = self._visualizer.get_render_option()
        options.background_color = BACKGROUND
        options.light_on = False
        options.mesh_show_back_face = True
        options.line_width = 1.0

    def _bind_keys(self) -> None:
        for key in UNUSED_KEYS:
            self._visualizer.register_key_callback(ord(key), lambda _: False)
        for _, code, action, _ in KEYS:
            self._visualizer.register_key_callback(code, lambda _, action=action: self._act(action))

    def _act(self, action: str) -> bool:
        """A key, and the scene as it looks then, also while paused; never raises, since what calls it is C."""
        try:
            self._actions().get(action, lambda: self._toggle(action))()
            if self._scene is not None:
                self._draw(self._scene)
            self._visualizer.update_renderer()
        except Exception as error:  # noqa: BLE001 - shown in the window
            log.warning("%s: %s", action, error)
            self._say(f"{action}: {error}")
        return False

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            "view": self._next_view, "screenshot": self._screenshot, "record": self._record or (lambda: None), "pause": self._pause,
            "quit": lambda: setattr(self._on, "quit", True), **{name: lambda name=name: self._set_style(name) for name in STYLES},
        }  # fmt: skip

    def _toggle(self, name: str) -> None:
        setattr(self._on, name, not getattr(self._on, name))
        self._show_panels()

    def _pause(self) -> None:
        self._on.paused = not self._on.paused
        self._show_panels()

    def _set_style(self, name: str) -> None:
        if self._body is not None and not len(self._body.faces) and name != "skeleton":
            self._say("the faces of this body are unknown: skeletons only")
            return
        self._on.style = name

    def _say(self, text: str) -> None:
        """A note in the upper bar for a moment."""
        self._note, self._note_frames = text, NOTE_FRAMES
        self._show_panels()

    def _screenshot(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / datetime.now().astimezone().strftime("screenshot-%Y%m%d-%H%M%S-%f.png")
        self._visualizer.capture_screen_image(str(path), do_render=True)
        log.info("%s", path)
        self._say(f"saved {path.name}")

    def _show_scene(self, scene: Scene) -> None:
        self._settle(scene.meshes)
        if scene.intrinsics != self._intrinsics:
            self._intrinsics = scene.intrinsics
            self._set_view("camera", scene)
        self._draw(scene)
        self._scene = scene

    def _draw(self, scene: Scene) -> None:
        mirror = np.array([-1.0 if self._on.mirror else 1.0, 1.0, 1.0])
        self._set_shown(self._picture.geometry, self._on.picture)
        if self._on.picture:
            self._picture.show(scene.frame.image, scene.intrinsics, self._picture_m, mirror, self._picture_side_px(scene))
            self._visualizer.update_geometry(self._picture.geometry)
        ground = self._on.ground and not math.isnan(self._ground_m)
        self._set_shown(self._grid, ground)
        if ground:
            self._grid.translate((0, self._ground_m - self._grid.get_center()[1], 0))
            self._visualizer.update_geometry(self._grid)
        meshes = scene.meshes if self._body is not None else ()
        for track_id in set(self._people) - {mesh.track_id for mesh in meshes}:
            self._drop(track_id)
        for mesh in meshes:
            self._show_person(mesh, mirror, ground)

    def _picture_side_px(self, scene: Scene) -> int:
        """As many pixels as the picture's longer side has between the bars; all it may have where one comes nearer."""
        width, height = scene.frame.size_px
        if not self._at_camera(self._eye()):
            return PICTURE_SIDE_PX
        scale = min(self._size_px[0] / width, (self._size_px[1] - 2 * BAR_PX) / height)
        return max(1, min(PICTURE_SIDE_PX, round(scale * max(width, height))))

    def _at_camera(self, eye: Eye) -> bool:
        """Whether nobody moved the view away from where the camera is."""
        return np.allclose(eye.camera_from_world, self._camera_view, atol=1e-6)

    def _show_person(self, mesh: SmoothedMesh, mirror: np.ndarray, ground: bool) -> None:
        person = self._people.get(mesh.track_id)
        if person is None or person.style_name != self._on.style:
            self._drop(mesh.track_id)
            person = self._people[mesh.track_id] = _Person(mesh.track_id, self._on.style, self._body)
        figure = figure_of(mesh, person.color, None if self._show_hidden else self._joint_weights, self._body.faces)
        person.style.update(figure, mirror)
        self._set_shown(person.style.geometry, bool(figure.shown_joints.any()))
        self._visualizer.update_geometry(person.style.geometry)
        stands = ground and bool(figure.shown_joints[ANKLES].any())
        self._set_shown(person.ring, stands)
        if stands:
            where = np.array([mesh.translation_m[0] * mirror[0], self._ground_m - 0.005, mesh.translation_m[2]])
            person.ring.translate(where, relative=False)
            self._visualizer.update_geometry(person.ring)

    def _settle(self, meshes: tuple[SmoothedMesh, ...]) -> None:
        """Let the ground and the picture's distance follow the people, calmly; at once where all are others, as after a cut."""
        if not meshes:
            return
        track_ids = {mesh.track_id for mesh in meshes}
        if track_ids.isdisjoint(self._settled_by):
            self._ground_m, self._picture_m = math.nan, NEAREST_PICTURE_M
        self._settled_by = track_ids
        standing = [mesh for mesh in meshes if mesh.joint_visibility[ANKLES].max() > SHOWN_FROM]
        if standing:
            ground_m = float(np.median([(mesh.vertices_m[:, 1].max() + mesh.translation_m[1]) for mesh in standing]))
            self._ground_m = ground_m if math.isnan(self._ground_m) else self._ground_m + SETTLE * (ground_m - self._ground_m)
        farthest_m = max(float(mesh.translation_m[2]) for mesh in meshes) + BEHIND_M
        wanted_m = min(max(farthest_m, NEAREST_PICTURE_M), FARTHEST_PICTURE_M)
        self._picture_m += (1.0 if wanted_m > self._picture_m else SETTLE) * (wanted_m - self._picture_m)

    def _show_panels(self) -> None:
        self._note_frames = max(0, self._note_frames - 1)
        marks = [name for name, on in (("paused", self._on.paused), ("mirrored", self._on.mirror)) if on]
        marks += [self._note] if self._note_frames else []
        width = self._size_px[0]
        told = width, self._hud, self._source_state, tuple(marks)
        if told != self._told:  # the numbers change four times a second, the picture thirty times
            self._told, self._pinned = told, None
            self._panels["top"].set_picture(top_bar(width, self._hud, self._source_state, marks, "H help"))
            self._panels["bottom"].set_picture(bottom_bar(width, self._hud))
        for name, on in (("top", self._on.info), ("bottom", self._on.info), ("help", self._on.help)):
            self._set_shown(self._panels[name].geometry, on)
        eye = self._eye()
        if self._pinned is None or not _same_eye(eye, self._pinned):
            self._pin(eye)

    def _pin(self, eye: Eye) -> None:
        """Put the panels where they belong on the screen; after a change of the window's size they are drawn again."""
        if eye.size_px != self._size_px:
            self._size_px = eye.size_px
            if self._at_camera(eye) and self._intrinsics is not None:
                self._set_view("camera")
            self._show_panels()
            return
        width, height = eye.size_px
        help_height, help_width = self._panels["help"].picture_px
        places = {"top": (0, 0), "bottom": (0, height - BAR_PX), "help": ((width - help_width) / 2, (height - help_height) / 2)}
        for name, place in places.items():
            self._panels[name].pin(eye, *place)
            if id(self._panels[name].geometry) in self._added:
                self._visualizer.update_geometry(self._panels[name].geometry)
        self._pinned = eye

    def _eye(self) -> Eye:
        parameters = self._visualizer.get_view_control().convert_to_pinhole_camera_parameters()
        lens, camera_from_world = parameters.intrinsic, np.array(parameters.extrinsic)
        right, _, forward = camera_from_world[:3, :3] / np.linalg.norm(camera_from_world[:3, :3], axis=1, keepdims=True)
        camera_from_world[:3, :3] = right, np.cross(forward, right), forward  # Open3D's "up" need not be at right angles
        return Eye(camera_from_world, (lens.width, lens.height), float(lens.intrinsic_matrix[1, 1]))

    def _next_view(self) -> None:
        self._set_view("side" if self._at_camera(self._eye()) else "camera")

    def _set_view(self, name: str, scene: Scene | None = None) -> None:
        """camera: where the camera is, the whole picture in sight. side: from the right and above, around the people."""
        control = self._visualizer.get_view_control()
        lens = self._intrinsics
        meshes = () if (scene or self._scene) is None else (scene or self._scene).meshes
        center = np.mean([mesh.translation_m for mesh in meshes], axis=0) if meshes else np.array([0.0, 0.0, 3.0])
        field = self._field_of_view(lens)
        control.change_field_of_view(step=(field - control.get_field_of_view()) / 5.0)
        mirror = -1.0 if self._on.mirror else 1.0
        yaw, pitch, distance_m = (SIDE_YAW, SIDE_PITCH, 1.3 * center[2]) if name == "side" else (0.0, 0.0, center[2])
        target = center * (mirror, 1, 1) if name == "side" else np.array([0.0, 0.0, center[2]])
        front = [math.sin(yaw) * math.cos(pitch), -math.sin(pitch), -math.cos(yaw) * math.cos(pitch)]
        control.set_front(front)
        control.set_up([-math.sin(yaw) * math.sin(pitch), -math.cos(pitch), math.cos(yaw) * math.sin(pitch)])
        control.set_lookat(target)
        control.set_zoom(distance_m * math.tan(math.radians(field / 2)) / max(2 * GRID_HALF_M, GRID_FAR_M))
        if name == "camera":
            self._camera_view = self._eye().camera_from_world

    def _field_of_view(self, lens: Intrinsics) -> float:
        """Degrees, vertical: the picture between the bars."""
        width, height = self._size_px
        half_x, half_y = np.array(lens.principal_px) / lens.focal_px
        needed = max(half_y * height / (height - 2 * BAR_PX), half_x * height / width) * PICTURE_MARGIN
        return float(np.clip(2 * math.degrees(math.atan(needed)), 5, 90))

    def _drop(self, track_id: int) -> None:
        person = self._people.pop(track_id, None)
        if person is not None:
            self._set_shown(person.style.geometry, False)
            self._set_shown(person.ring, False)

    def _add(self, geometry: o3d.geometry.Geometry, first: bool = False) -> None:
        self._visualizer.add_geometry(geometry, reset_bounding_box=first)
        self._added.add(id(geometry))

    def _set_shown(self, geometry: o3d.geometry.Geometry, shown: bool) -> None:
        if shown and id(geometry) not in self._added:
            self._add(geometry)
        elif not shown and id(geometry) in self._added:
            self._visualizer.remove_geometry(geometry, reset_bounding_box=False)
            self._added.discard(id(geometry))


class _Person:
    """Somebody's geometries in the window."""

    def __init__(self, track_id: int, style_name: str, body: BodyShape) -> None:
        self.color = np.array(track_color(track_id)) / 255
        self.style_name, self.style = style_name, _style(style_name, body)
        self.ring = ring(self.color)


def _style(name: str, body: BodyShape) -> Style:
    return STYLES[name](body)


def figure_of(mesh: SmoothedMesh, color: np.ndarray, joint_weights: np.ndarray | None, faces: np.ndarray) -> Figure:
    """What styles need of a person. joint_weights: (V, 14), None draws everything."""
    translation = mesh.translation_m.astype(np.float64)
    if joint_weights is None:
        vertices_m, shown, shown_joints = mesh.vertices_m, np.ones(len(mesh.vertices_m), bool), np.ones(len(mesh.joints_m), bool)
    else:
        vertices_m, shown = with_smooth_edge(mesh.vertices_m, faces, joint_weights @ mesh.joint_visibility)
        shown_joints = mesh.joint_visibility > SHOWN_FROM
    return Figure(vertices_m + translation, mesh.joints_m + translation, color, shown, shown_joints)


def _same_eye(first: Eye, second: Eye) -> bool:
    same_lens = first.size_px == second.size_px and math.isclose(first.focal_px, second.focal_px)
    return same_lens and np.allclose(first.camera_from_world, second.camera_from_world, atol=1e-9)
