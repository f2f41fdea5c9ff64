"""Runs the window on scenes whose truth is known and saves what it shows: `python -m tests.app.window_probe FOLDER`."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open3d as o3d

from app.hud import Hud
from app.types import Frame, Intrinsics, Scene, SmoothedMesh
from app.viewer.window import Window
from tests.app.media import SPHERE_FACES, SPHERE_JOINTS_M, SPHERE_VERTICES_M, mesh


class Levels:
    """Only what the window asks for."""

    intermediate_ids = np.arange(0)
    intermediate_faces = np.zeros((0, 3), np.int32)


class Ball:
    """A body whose faces are known."""

    faces, levels = SPHERE_FACES, Levels()


class Cloud:
    """A body whose faces are not."""

    faces, levels = np.zeros((0, 3), np.int32), Levels()


FOCAL_PX, SIZE_PX = 500.0, (640, 480)
HUD = Hud(28.4, 24.6, 62.3, 80.1, {"detect": 4.1, "estimate": 22.2}, "target 33 ms: all as planned", "camera 0 640x480", "", 1)
WEIGHTS = np.exp(-np.abs(SPHERE_VERTICES_M[:, None, 1] - SPHERE_JOINTS_M[None, :, 1]) / 0.02)
WEIGHTS = (WEIGHTS / WEIGHTS.sum(1, keepdims=True)).astype(np.float32)


def scene(*meshes: SmoothedMesh) -> Scene:
    """On a grey picture."""
    image = np.full((SIZE_PX[1], SIZE_PX[0], 3), 90, np.uint8)
    return Scene(Frame(image, 0.0, 0), Intrinsics(FOCAL_PX, (SIZE_PX[0] / 2, SIZE_PX[1] / 2)), meshes)


def looking(window: Window, folder: Path) -> Callable[[str, Scene], None]:
    """What shows a scene and saves that under a name."""

    def look(name: str, shown: Scene) -> None:
        for _ in range(2):
            window.show(shown, HUD, "open")
            assert window.poll()
        image = np.asarray(window._visualizer.capture_screen_float_buffer(do_render=True))
        o3d.io.write_image(str(folder / f"{name}.png"), o3d.geometry.Image((image * 255).astype(np.uint8)))

    return look


def others(folder: Path) -> None:
    """Somebody after somebody else elsewhere, as after a cut, and alone; from the camera and from beside."""
    other, somebody = (scene(mesh(track_id, place_m)) for track_id, place_m in ((2, (0.0, 1.0, 9.0)), (3, (0.3, -0.4, 3.0))))
    for name, shown in (("after_a_cut", (other, somebody)), ("alone", (somebody,))):
        window = Window("probe", folder)
        window.set_body(Ball(), WEIGHTS)
        look = looking(window, folder)
        for one in shown:
            look(name, one)
        window._act("view")
        look(f"beside_{name}", somebody)
        window.close()


def main(folder: Path) -> None:
    """One picture per name."""
    left = mesh(1, (-0.6, 0.0, 3.0))
    upper = np.array([0.0] * 7 + [1.0] * 7, np.float32)  # the media's joints go from the bottom to the top
    window = Window("probe", folder)
    look = looking(window, folder)
    look("loading", scene())
    window.set_body(Ball(), WEIGHTS)
    look("mesh", scene(left))
    look("two", scene(left, mesh(2, (0.6, 0.0, 3.0))))
    look("gone", scene())
    look("half", scene(mesh(1, (-0.6, 0.0, 3.0), upper)))
    for action in ("wireframe", "skeleton"):
        window._act(action)
        look(action, scene(left))
    window._act("mesh")
    window._act("mirror")
    look("mirror", scene(left))
    window._act("mirror")
    for action in ("picture", "ground", "info"):
        window._act(action)
        look(f"no_{action}", scene(left))
        window._act(action)
    window._act("view")
    look("side", scene(left))
    window._act("view")
    look("camera_again", scene(left))
    window._act("help")
    look("help", scene(left))
    window._act("help")
    window._act("pause")
    other = scene(mesh(1, (0.6, 0.0, 3.0)))
    look("paused", other)
    for action, name in (("skeleton", "skeleton"), ("mirror", "mirror"), ("picture", "no_picture"), ("ground", "no_ground")):
        window._act(action)
        look(f"paused_{name}", other)
        window._act("mesh" if action == "skeleton" else action)
    window._act("pause")
    window._act("screenshot")
    window.set_body(Cloud(), WEIGHTS)
    look("no_faces", scene(left))
    window.close()
    window = Window("probe", folder, show_hidden=True)
    window.set_body(Ball(), WEIGHTS)
    looking(window, folder)("show_hidden", scene(mesh(1, (-0.6, 0.0, 3.0), upper)))
    window.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    others(Path(sys.argv[1]))
