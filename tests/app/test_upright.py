"""Which way is up, from people of sticks before cameras whose tilt is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from app.export.upright import pitch_roll_deg, up_in_camera, upright
from core.joints import ANKLES, JOINT_NAMES
from tests.app.stick_people import FPS, Seen, camera_from_world, walker

ALL_SEEN = np.ones(len(JOINT_NAMES))


def found_deg(*people: Seen, visibility: np.ndarray = ALL_SEEN) -> tuple[float, float]:
    known = [(person.joints_m, np.broadcast_to(visibility, (len(person.times_s), len(JOINT_NAMES)))) for person in people]
    return pitch_roll_deg(up_in_camera(known, 1 / FPS))


@pytest.mark.parametrize("tilt", [(0, 0), (12, 0), (40, 0), (-15, 0), (10, 8), (5, -12)])
def test_the_tilt_of_a_camera_is_that_of_its_up(tilt: tuple[float, float]) -> None:
    np.testing.assert_allclose(pitch_roll_deg(camera_from_world(*tilt) @ (0, 1, 0)), tilt, atol=1e-9)


@pytest.mark.parametrize("pitch_deg", [0.0, 12.0, 40.0, -15.0])
@pytest.mark.parametrize("speed_m_s", [0.0, 1.2])
def test_people_who_stand_or_walk_are_upright(pitch_deg: float, speed_m_s: float) -> None:
    pitch, roll = found_deg(walker(speed_m_s, 30, pitch_deg=pitch_deg))
    assert pitch == pytest.approx(pitch_deg, abs=1.5)
    assert roll == pytest.approx(0, abs=1)


def test_cameras_are_held_askew_when_people_say_so_but_rather_not() -> None:
    one = found_deg(walker(0, roll_deg=10))[1]
    three = found_deg(*(walker(0, at_m=(x, -6.0), roll_deg=10) for x in (-1.0, 0.0, 1.0)))[1]
    assert 4 < one < three < 10.5


def test_who_leans_is_set_right_by_the_level_they_walk_on() -> None:
    """Everybody leans to the front, towards the camera, which says that it looks up less than it does."""
    standing = found_deg(walker(0, lean_deg=8, pitch_deg=15))[0]
    walking = found_deg(walker(1.2, lean_deg=8, pitch_deg=15))[0]
    assert abs(standing - 15) > 6
    assert abs(walking - 15) < 3


def test_each_may_walk_on_a_level_of_their_own() -> None:
    below, above = walker(1.2, 90, pitch_deg=10), walker(1.2, 80, at_m=(1.0, -9.0), pitch_deg=10, height_m=-0.8)
    assert found_deg(below, above)[0] == pytest.approx(10, abs=1.5)


@pytest.mark.parametrize("unseen", ["R_Ankle", "Neck"])
def test_who_is_cut_off_is_not_asked(unseen: str) -> None:
    visibility = ALL_SEEN.copy()
    visibility[JOINT_NAMES.index(unseen)] = 0
    assert found_deg(walker(pitch_deg=20), visibility=visibility) == pytest.approx((0, 0), abs=1e-9)


def test_too_short_and_nobody() -> None:
    assert found_deg(walker(seconds=0.4, pitch_deg=20)) == pytest.approx((0, 0), abs=1e-9)
    assert found_deg() == pytest.approx((0, 0), abs=1e-9)


def test_who_sits_or_bows_is_not_upright() -> None:
    person = walker(0)
    sitting, bowing = person.joints_m.copy(), person.joints_m.copy()
    for name in ("R_Knee", "L_Knee"):
        sitting[:, JOINT_NAMES.index(name)] = sitting[:, JOINT_NAMES.index(f"{name[0]}_Hip")] - (0, 0, 0.4)
    bowing[:, JOINT_NAMES.index("Neck")] = bowing[:, [2, 3]].mean(1) - (0, 0, 0.5)
    seen = np.ones((len(person.times_s), len(JOINT_NAMES)))
    assert upright(person.joints_m, seen).all()
    assert not upright(sitting, seen).any()
    assert not upright(bowing, seen).any()


def turned(person: Seen, *degrees: float) -> Seen:
    """The same, turned about the middle of the ankles, by Euler angles about x and z."""
    ankles_m = person.joints_m[:, ANKLES].mean(1)[:, None]
    turn = Rotation.from_euler("xz", degrees, degrees=True).as_matrix()
    return replace(person, joints_m=(person.joints_m - ankles_m) @ turn.T + ankles_m)


@pytest.mark.parametrize("degrees", [(90, 0), (-90, 0), (0, 90), (0, 180)])
def test_who_lies_or_stands_on_their_hands_is_not_upright(degrees: tuple[float, float]) -> None:
    assert found_deg(turned(walker(0), *degrees)) == pytest.approx((0, 0), abs=1e-9)


def test_one_who_leans_far_for_a_while_does_not_tilt_the_world() -> None:
    person = walker(0, pitch_deg=10)
    joints_m = person.joints_m.copy()
    joints_m[: len(joints_m) // 3] = turned(person, 45, 0).joints_m[: len(joints_m) // 3]
    assert found_deg(replace(person, joints_m=joints_m))[0] == pytest.approx(10, abs=3)
    leaning = turned(walker(0, at_m=(2.0, -6.0), pitch_deg=10), 40, 0)
    assert found_deg(person, walker(0, at_m=(-1.0, -6.0), pitch_deg=10), leaning)[0] == pytest.approx(10, abs=5)


def test_who_rises_does_not_tilt_the_world() -> None:
    person = walker(0, pitch_deg=5)
    rising = replace(person, joints_m=person.joints_m - person.times_s[:, None, None] * (0, 1.0, 0))
    assert found_deg(rising)[0] == pytest.approx(5, abs=16)
