"""The Open3D window on a display without a screen: what it shows, its keys, and its end; in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from app.colors import track_color
from app.export.mp4 import Mp4Writer
from app.session import SessionReader
from app.walker import FPS, SIZE_PX, Walker
from core.bodies import load_body
from tests.app.screen import Screen, open_screen
from tests.app.window_probe import FOCAL_PX

WINDOW_PX = (1120, 760)
BAR_PX = 44
ORANGE, GREEN = track_color(1), track_color(2)


@pytest.fixture(scope="module")
def screen() -> Iterator[Screen]:
    with open_screen() as opened:
        yield opened


@pytest.fixture(scope="module")
def views(screen: Screen, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], np.ndarray]:
    """Name -> (H, W, 3) RGB picture of the probe's window."""
    folder = tmp_path_factory.mktemp("views")
    command = [sys.executable, "-m", "tests.app.window_probe", str(folder)]
    done = subprocess.run(command, cwd=repository, env=screen.environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr

    def view(name: str) -> np.ndarray:
        (path,) = folder.glob(f"{name}.png")
        return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)

    return view


def like(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """(H, W) bool: pixels of a colour's hue, at any brightness."""
    unit = image / np.maximum(np.linalg.norm(image, axis=-1, keepdims=True), 60)
    return (unit @ (np.array(color) / np.linalg.norm(color))) > 0.985


def spot(image: np.ndarray, color: tuple[int, int, int] = ORANGE) -> tuple[int, tuple[float, float]]:
    """Number of pixels of a colour between the bars, and their middle x, y."""
    shown = like(image, color)
    shown[:BAR_PX] = shown[-BAR_PX:] = False
    rows, columns = np.nonzero(shown)
    return len(rows), (float(columns.mean()), float(rows.mean())) if len(rows) else (np.nan, np.nan)


def test_a_mesh_is_drawn_where_it_is_in_space(views: Callable[[str], np.ndarray]) -> None:
    assert spot(views("loading"))[0] == 0
    count, (x, y) = spot(views("no_ground"))
    picture = (views("no_ground") == 90).all(-1)
    columns, rows = np.nonzero(picture.any(0))[0], np.nonzero(picture.any(1))[0]
    scale = (columns[-1] - columns[0]) / 640
    assert (rows[-1] - rows[0]) / 480 == pytest.approx(scale, rel=0.02)
    middle = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
    assert x == pytest.approx(middle[0] - 0.6 / 3 * FOCAL_PX * scale, abs=4), "the mesh lies over its place in the picture"
    assert y == pytest.approx(middle[1], abs=6)
    assert count == pytest.approx(np.pi * (0.3 / 3 * FOCAL_PX * scale) ** 2, rel=0.12), "as large as its distance says"


def test_people_have_colours_of_their_own_and_go_when_they_leave(views: Callable[[str], np.ndarray]) -> None:
    image = views("two")
    assert spot(image, ORANGE)[0] > 3000
    assert spot(image, GREEN)[0] > 3000
    assert spot(image, ORANGE)[1][0] < WINDOW_PX[0] / 2 < spot(image, GREEN)[1][0]
    assert spot(views("gone"))[0] == 0


def test_what_is_out_of_the_picture_is_not_drawn_unless_asked_for(views: Callable[[str], np.ndarray]) -> None:
    whole, half, asked = (spot(views(name)) for name in ("no_ground", "half", "show_hidden"))
    assert 0.2 * whole[0] < half[0] < 0.7 * whole[0]
    assert half[1][1] < whole[1][1], "the upper half is left"
    assert asked[0] == pytest.approx(whole[0], rel=0.1)


def test_styles_and_mirror(views: Callable[[str], np.ndarray]) -> None:
    mesh = spot(views("mesh"))
    assert 0 < spot(views("wireframe"))[0] < 0.6 * mesh[0]
    assert 0 < spot(views("skeleton"))[0] < 0.4 * mesh[0]
    mirrored = spot(views("mirror"))
    assert mirrored[0] == pytest.approx(mesh[0], rel=0.1)
    assert mirrored[1][0] == pytest.approx(WINDOW_PX[0] - mesh[1][0], abs=16), "the dark side counts less"


def test_picture_ground_and_numbers_can_be_switched_off(views: Callable[[str], np.ndarray]) -> None:
    with_all = views("mesh")
    assert (with_all == 90).all(-1).sum() > 100_000
    assert (views("no_picture") == 90).all(-1).sum() < 1000
    assert spot(views("no_ground"))[0] < spot(with_all)[0], "the ring on the ground is gone"
    bar = slice(0, 40)
    assert (with_all[bar] > 200).all(-1).sum() > 100, "there is text"
    assert (views("no_info")[bar] > 200).all(-1).sum() == 0


def test_views_help_and_pause(views: Callable[[str], np.ndarray]) -> None:
    mesh = views("mesh")
    assert abs(spot(views("side"))[1][0] - spot(mesh)[1][0]) > 20
    assert (views("side")[:40] > 200).all(-1).sum() > 100, "the bars stay where they are"
    assert np.abs(views("camera_again").astype(int) - mesh).mean() < 0.5
    assert (views("help")[200:560, 390:730] > 130).all(-1).sum() > 300
    assert spot(views("paused"))[1][0] == pytest.approx(spot(mesh)[1][0], abs=2), "the scene stands still"


@pytest.mark.parametrize("name", ["skeleton", "mirror", "no_picture", "no_ground"])
def test_keys_change_the_scene_that_is_paused(views: Callable[[str], np.ndarray], name: str) -> None:
    paused, shown = (views(view)[BAR_PX:-BAR_PX].astype(int) for view in (f"paused_{name}", name))
    assert np.abs(paused - shown).mean() < 0.1


@pytest.mark.parametrize("side", ["", "beside_"])
def test_other_people_after_a_cut_are_shown_as_if_they_were_the_first(views: Callable[[str], np.ndarray], side: str) -> None:
    after, alone = (views(side + name)[BAR_PX:-BAR_PX].astype(int) for name in ("after_a_cut", "alone"))
    assert np.abs(after - alone).mean() < 0.1


def test_screenshots_are_what_is_shown(views: Callable[[str], np.ndarray]) -> None:
    assert views("screenshot-*").shape == (WINDOW_PX[1], WINDOW_PX[0], 3)
    assert spot(views("screenshot-*"))[0] > 3000


def test_a_body_without_faces_is_a_skeleton(views: Callable[[str], np.ndarray]) -> None:
    assert spot(views("no_faces"))[0] == pytest.approx(spot(views("skeleton"))[0], rel=0.1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of the demo's walker."""
    path = tmp_path_factory.mktemp("clip") / "walker.mp4"
    walker = Walker(load_body("anny"))
    writer = Mp4Writer(path, SIZE_PX, FPS)
    for index in range(50):
        frame = walker.frame(index / FPS)
        writer.write(frame.image, frame.time_s)
    writer.close()
    return path


def start(repository: Path, screen: Screen, *arguments: object) -> subprocess.Popen:
    """launch.py on the screen."""
    command = [sys.executable, "launch.py", *map(str, arguments)]
    return subprocess.Popen(command, cwd=repository, env=screen.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, since_s: float) -> str:
    """Standard output of a program that should end by itself within a second (more on a busy machine)."""
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert time.perf_counter() - since_s < 15
    return out


def shows_picture(image: np.ndarray) -> bool:
    """Whether the clip's room is on the screen."""
    return int((image[60:800, 200:1000].std(-1) > 8).sum()) > 20_000


def body_px(image: np.ndarray) -> int:
    """Pixels of strong colour between the bars, where only people have one while the picture is off."""
    colours = image[100:700].astype(int)
    return int((colours.max(-1) - colours.min(-1) > 40).sum())


def test_the_program_shows_meshes_takes_keys_and_ends(screen: Screen, repository: Path, clip: Path, tmp_path: Path) -> None:
    process = start(repository, screen, "--webcam", clip, "--loop", "--out", tmp_path)
    try:
        screen.until(shows_picture)
        screen.press("b")  # the wooden floor looks like somebody in orange
        screen.until(lambda image: not shows_picture(image))
        mesh_px = body_px(screen.until(lambda image: body_px(image) > 7000))
        screen.press("r", "p")
        until_files(tmp_path, "screenshot-*.png")
        screen.press("s")
        screen.until(lambda image: 0 < body_px(image) < 0.6 * mesh_px)
        screen.press("m")
        screen.until(lambda image: body_px(image) > 0.8 * mesh_px)
        screen.press("x", "v", "h")
        screen.until(lambda image: (image[220:600, 400:800] > 130).all(-1).sum() > 300)
        screen.press("q")
        out = finish(process, time.perf_counter())
    finally:
        process.kill()
        process.wait()
    assert "glass to mesh" in out
    assert "nobody" not in out
    (recording,) = tmp_path.glob("session-*.arrows")
    scenes = list(SessionReader(recording))
    assert any(scene.meshes for scene in scenes)


def until_files(folder: Path, pattern: str) -> None:
    end_s = time.perf_counter() + 30
    while not list(folder.glob(pattern)):
        assert time.perf_counter() < end_s, f"no {pattern} appeared"
        time.sleep(0.1)


@pytest.mark.parametrize("way", ["close", "interrupt", "end"])
def test_closing_the_window_ctrl_c_and_the_files_end_end_it(way: str, screen: Screen, repository: Path, clip: Path) -> None:
    process = start(repository, screen, "--webcam", clip, *(() if way == "end" else ("--loop",)))
    try:
        screen.until(shows_picture)
        if way == "close":
            screen.click_close("FastMETRO Live")
        elif way == "interrupt":
            os.kill(process.pid, signal.SIGINT)
        assert "walker.mp4: " in finish(process, time.perf_counter() + (30 if way == "end" else 0))
    finally:
        process.kill()
        process.wait()


def test_a_display_that_is_not_there_is_one_line(repository: Path, clip: Path) -> None:
    process = start(repository, Screen(":4077"), "--webcam", clip)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.count("\n") == 1
    assert "no display" in err
