"""How a camera turns, on pictures of a painted wall far away that are warped as a turning camera sees it."""

import tracemalloc
from collections.abc import Collection
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from app.camera_turns import CameraTurns, rotation_between
from app.types import Frame, Scene, intrinsics_of
from tests.app.media import mesh

SIZE_PX = (640, 360)
FOCAL_PX = float(np.hypot(*SIZE_PX))
WALL = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (1400, 2400, 3), np.uint8), (0, 0), 4)
WALL = cv2.normalize(WALL, None, 0, 255, cv2.NORM_MINMAX)


def picture(turn: Rotation) -> np.ndarray:
    """What a camera sees that has been turned so, against its own axes at the start."""
    lens = np.array([[FOCAL_PX, 0, SIZE_PX[0] / 2], [0, FOCAL_PX, SIZE_PX[1] / 2], [0, 0, 1]])
    wall = np.array([[1, 0, WALL.shape[1] / 2 - SIZE_PX[0] / 2], [0, 1, WALL.shape[0] / 2 - SIZE_PX[1] / 2], [0, 0, 1]])
    return cv2.warpPerspective(WALL, np.linalg.inv(wall @ lens @ turn.as_matrix() @ np.linalg.inv(lens)), SIZE_PX, flags=cv2.INTER_LINEAR)


ELSEWHERE = np.ascontiguousarray(picture(Rotation.from_euler("z", 180, degrees=True))[:, ::-1])


def scenes_of(
    pictures: list[np.ndarray], boxes_px: list[tuple[float, float, float, float]] | None = None, cuts: Collection[int] = ()
) -> list[Scene]:
    """Pictures in order, looked at. boxes_px: of somebody in each of them, None for nobody; cuts: indices that follow one"""
    turns, scenes = CameraTurns(), []
    for index, image in enumerate(pictures):
        frame = Frame(np.ascontiguousarray(image), index / 30, index)
        meshes = () if boxes_px is None else (mesh(box_px=np.float32(boxes_px[index])),)
        scenes.append(turns(Scene(frame, intrinsics_of(frame, FOCAL_PX), meshes, cuts=index in cuts)))
    return scenes


def found(*arguments: Any) -> list[np.ndarray]:
    """The cameras of scenes_of."""
    return [scene.start_from_camera for scene in scenes_of(*arguments)]


def error_deg(rotmat: np.ndarray, turn: Rotation) -> float:
    return float(np.degrees((Rotation.from_matrix(rotmat).inv() * turn).magnitude()))


def panning(frames: int, last_deg: tuple[float, float, float]) -> list[Rotation]:
    return [Rotation.from_euler("yxz", np.array(last_deg) * number / (frames - 1), degrees=True) for number in range(frames)]


@pytest.mark.parametrize("last_deg", [(20, 0, 0), (-6, 5, 0), (2, -1, 6)])
def test_turns_are_found(last_deg: tuple[float, float, float]) -> None:
    turns = panning(24, last_deg)
    errors_deg = [error_deg(rotmat, turn) for rotmat, turn in zip(found([picture(turn) for turn in turns]), turns, strict=True)]
    assert max(errors_deg) < 0.15
    assert errors_deg[0] == 0


def test_a_camera_that_rests_does_not_drift() -> None:
    random = np.random.default_rng(1)
    still = picture(Rotation.identity())
    noisy = [np.clip(still + random.normal(0, 6, still.shape), 0, 255).astype(np.uint8) for _ in range(40)]
    assert max(error_deg(rotmat, Rotation.identity()) for rotmat in found(noisy)) < 0.05


def test_people_who_walk_are_not_the_world() -> None:
    """Somebody in a dazzling shirt walks by, and hides half of the picture."""
    shirt = np.random.default_rng(2).integers(0, 255, (300, 300, 3), np.uint8)
    turns, pictures, boxes_px = panning(20, (4, 0, 0)), [], []
    for number, turn in enumerate(turns):
        image, left = picture(turn), 40 + 12 * number
        image[40:340, left : left + 300] = shirt
        pictures.append(image)
        boxes_px.append((left, 40, left + 300, 340))
    assert error_deg(found(pictures, boxes_px)[-1], turns[-1]) < 0.2


@pytest.mark.parametrize("shade", [0, 128])
def test_where_nothing_is_to_be_seen_the_camera_rests(shade: int) -> None:
    blank = np.full((*SIZE_PX[::-1], 3), shade, np.uint8)
    assert all((rotmat == np.eye(3)).all() for rotmat in found([blank] * 4))


def test_a_cut_that_nobody_has_noticed_is_no_turn() -> None:
    turns = panning(8, (4, 0, 0))
    after = found([*(picture(turn) for turn in turns), ELSEWHERE, ELSEWHERE])
    assert error_deg(after[-1], turns[-1]) < 0.2, "it goes on as it was"


def test_another_view_has_a_camera_of_its_own() -> None:
    turns = panning(8, (4, 0, 0))
    scenes = scenes_of([*(picture(turn) for turn in turns), ELSEWHERE, ELSEWHERE], None, {0, 8})
    assert [scene.view for scene in scenes] == [0] * 8 + [1] * 2
    assert error_deg(scenes[7].start_from_camera, turns[-1]) < 0.2
    assert error_deg(scenes[-1].start_from_camera, Rotation.identity()) < 0.05


def test_a_cut_back_finds_the_view_again() -> None:
    turns = panning(16, (4, 0, 0))
    pictures = [picture(turn) for turn in turns]
    scenes = scenes_of([*pictures[:8], ELSEWHERE, ELSEWHERE, *pictures[8:], ELSEWHERE], None, {0, 8, 10, 18})
    assert [scene.view for scene in scenes] == [0] * 8 + [1] * 2 + [0] * 8 + [1]
    assert error_deg(scenes[-2].start_from_camera, turns[-1]) < 0.3


def test_the_views_that_were_seen_last_are_remembered() -> None:
    """Flips of a picture are views that nobody takes for each other."""
    views = [picture(Rotation.identity())[::down, ::along] for down in (1, -1) for along in (1, -1)]
    shots = [0, 1, 0, 1, 2, 0, 1, 3, 0]
    scenes = scenes_of([views[number] for number in shots], None, range(len(shots)))
    assert [scene.view for scene in scenes] == shots


def test_memory_does_not_grow_with_the_cuts() -> None:
    """In blank pictures nothing goes on, so each cut begins a view."""
    turns, frame = CameraTurns(), Frame(np.zeros((*SIZE_PX[::-1], 3), np.uint8), 0.0, 0)
    tracemalloc.start()
    held_bytes = []
    for number in range(40):
        assert turns(Scene(frame, intrinsics_of(frame, FOCAL_PX), cuts=True)).view == number
        held_bytes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held_bytes[-1] - held_bytes[9] < 50_000, "less than one picture"


@pytest.mark.parametrize("as_a_cut", [False, True])
@pytest.mark.parametrize("spoiled", [1, 4])
def test_a_flash_is_forgotten(spoiled: int, as_a_cut: bool) -> None:
    turns = panning(24, (20, 0, 0))
    pictures = [picture(turn) for turn in turns]
    pictures[10 : 10 + spoiled] = [np.full_like(pictures[0], 250)] * spoiled
    last = scenes_of(pictures, None, {10, 10 + spoiled} if as_a_cut else ())[-1]
    assert last.view == 0
    assert error_deg(last.start_from_camera, turns[-1]) < 0.4


@pytest.mark.parametrize("step_deg", [2, 4])
def test_quick_pans_are_followed(step_deg: float) -> None:
    turns = panning(11, (10 * step_deg, 0, 0))
    assert error_deg(found([picture(turn) for turn in turns])[-1], turns[-1]) < 0.5


def test_large_pictures_are_looked_at_small() -> None:
    turns = panning(6, (3, 0, 0))
    large = [cv2.resize(picture(turn), (1920, 1080)) for turn in turns]
    tracker = CameraTurns()
    for index, image in enumerate(large):
        frame = Frame(image, index / 30, index)
        last = tracker(Scene(frame, intrinsics_of(frame, 3 * FOCAL_PX))).start_from_camera
    assert error_deg(last, turns[-1]) < 0.15


def test_most_decide() -> None:
    random = np.random.default_rng(3)
    rays = np.c_[random.normal(0, 0.3, (60, 2)), np.ones(60)]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    turn = Rotation.from_euler("yx", [3, 1], degrees=True)
    moved = turn.apply(rays)
    moved[:15] = Rotation.from_euler("y", 9, degrees=True).apply(rays[:15])
    rotmat, fitting = rotation_between(rays, moved, 500.0)
    assert error_deg(rotmat, turn) < 0.05
    assert fitting == 45
