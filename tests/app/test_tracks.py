"""Where the floor of 3D files lies."""

import numpy as np
import pytest

from app.export.tracks import ANKLES, place_of_camera_m, tracks_of
from core.joints import JOINT_NAMES

NUM_FRAMES = 40


def place_m(
    *people: tuple[float, float, float], frames: tuple[int, ...] | None = None, hop_m: float = 0.0, **seen: list[int]
) -> np.ndarray:
    """Of people whose lowest points are given: x, height above the camera, distance. hop_m: how far they rise in most frames.

    seen: "feet" of each person 0 or 1, "anything" likewise; frames: of each person
    """
    counts = [NUM_FRAMES] * len(people) if frames is None else frames
    track_id = np.repeat(np.arange(len(people)), counts)
    number = np.concatenate([np.arange(count) for count in counts])
    visibility = np.ones((len(track_id), len(JOINT_NAMES)))
    visibility[:, ANKLES] *= np.asarray(seen.get("feet", np.ones(len(people))))[track_id, None]
    visibility *= np.asarray(seen.get("anything", np.ones(len(people))))[track_id, None]
    translation_m = np.array(people)[track_id] * (1, -1, 1)
    translation_m[:, 1] -= np.where(number % 4 > 0, hop_m, 0.0)
    vertices_m = np.zeros((len(track_id), 2, 3))
    vertices_m[:, 1, 1] = -1.7
    table = {
        "track_id": track_id, "frame_index": number, "time_s": number / 30, "fps": 30.0, "translation_m": translation_m,
        "joints_m": np.zeros((len(track_id), len(JOINT_NAMES), 3)), "joint_visibility": visibility,
    }  # fmt: skip
    return place_of_camera_m(tracks_of(table), table, vertices_m)


def test_the_origin_lies_amid_the_people_on_the_floor() -> None:
    np.testing.assert_allclose(place_m((1.0, -1.5, 3.0), (2.0, -1.5, 5.0)), (-1.5, 1.5, 4.0), atol=1e-9)
    assert place_m((0.0, -1.5, 3.0), hop_m=0.4)[1] == pytest.approx(1.5), "people jump"


def test_somebody_stands_on_the_floor_and_nobody_below() -> None:
    assert place_m((0.0, 0.1, 8.0), (0.0, -1.9, 8.0))[1] == pytest.approx(1.9)
    assert place_m((0.0, 0.1, 8.0), (0.0, -1.9, 8.0), frames=(40, 3))[1] == pytest.approx(-0.1), "too short a while to tell"


def test_feet_that_nobody_sees_do_not_set_the_floor() -> None:
    assert place_m((0.0, -0.9, 5.0), (0.0, -1.7, 3.0), feet=[1, 0])[1] == pytest.approx(0.9)
    assert place_m((0.0, -1.6, 5.0), (0.0, -1.7, 3.0), feet=[0, 0])[1] == pytest.approx(1.7), "better a guess than none"


def test_who_is_hidden_does_not_move_the_origin() -> None:
    assert place_m((1.0, -1.0, 3.0), (9.0, -1.0, 3.0), anything=[1, 0])[0] == pytest.approx(-1.0)
    assert place_m((1.0, -1.0, 3.0), anything=[0])[0] == pytest.approx(-1.0)
