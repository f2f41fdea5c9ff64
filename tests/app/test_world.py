"""Where camera and floor of 3D files lie."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from app.export.floor import one_floor
from app.export.world import World, turn_up
from core.errors import InputError
from core.joints import ANKLES, JOINT_NAMES
from tests.app.stick_people import FPS, Seen, walker

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
    return World.of(table, vertices_m).camera.place_m


def test_the_origin_lies_amid_the_people_on_the_floor() -> None:
    np.testing.assert_allclose(place_m((1.0, -1.5, 3.0), (2.0, -1.5, 5.0)), (-1.5, 1.5, 4.0), atol=1e-9)
    assert place_m((0.0, -1.5, 3.0), hop_m=0.4)[1] == pytest.approx(1.5, abs=1e-3), "people jump"


def test_somebody_stands_on_the_floor_and_nobody_below() -> None:
    assert place_m((0.0, 0.1, 8.0), (0.0, -1.9, 8.0))[1] == pytest.approx(1.9)
    assert place_m((0.0, 0.1, 8.0), (0.0, -1.9, 8.0), frames=(40, 3))[1] == pytest.approx(-0.1), "too short a while to tell"


def test_feet_that_nobody_sees_do_not_set_the_floor() -> None:
    assert place_m((0.0, -0.9, 5.0), (0.0, -1.7, 3.0), feet=[1, 0])[1] == pytest.approx(0.9)
    assert place_m((0.0, -1.6, 5.0), (0.0, -1.7, 3.0), feet=[0, 0])[1] == pytest.approx(1.7), "better a guess than none"


def test_who_is_hidden_does_not_move_the_origin() -> None:
    assert place_m((1.0, -1.0, 3.0), (9.0, -1.0, 3.0), anything=[1, 0])[0] == pytest.approx(-1.0)
    assert place_m((1.0, -1.0, 3.0), anything=[0])[0] == pytest.approx(-1.0)


def world_of(*people: Seen, glide: float = 0.0, **columns: np.ndarray) -> tuple[World, dict[str, np.ndarray]]:
    """What becomes of them. glide: share of their distances by which these err, to and fro."""
    places_m = [person.pelvis_m for person in people]
    factors = [1 + glide * np.sin(7 * person.times_s)[:, None] for person in people]
    table = {
        "track_id": np.repeat(np.arange(len(people)), [len(person.times_s) for person in people]),
        "frame_index": np.concatenate([np.arange(len(person.times_s)) for person in people]),
        "time_s": np.concatenate([person.times_s for person in people]), "fps": FPS,
        "joints_m": np.concatenate([person.joints_m - place[:, None] for person, place in zip(people, places_m, strict=True)]),
        "translation_m": np.concatenate([place * factor for place, factor in zip(places_m, factors, strict=True)]),
    }  # fmt: skip
    table = table | {"joint_visibility": np.ones(table["joints_m"].shape[:2])} | columns
    return World.of(table, table["joints_m"]), table


def test_people_before_a_tilted_camera_stand_upright_on_one_floor() -> None:
    people = [walker(1.2, 90, at_m=(0.5, -8.0), height_m=3.0, pitch_deg=25), walker(0, at_m=(-1.0, -5.0), height_m=3.0, pitch_deg=25)]
    world, table = world_of(*people)
    assert world.camera.pitch_deg == pytest.approx(25, abs=1)
    assert world.camera.roll_deg == pytest.approx(0, abs=1)
    found_m = world.camera.world_m(table["joints_m"] + world.translation_m[:, None])
    wanted_m = np.concatenate([person.world_m for person in people])
    wanted_m = wanted_m - (wanted_m[..., 0].mean(), wanted_m[..., 1].min(), wanted_m[..., 2].mean())
    assert np.abs(found_m - wanted_m - (found_m - wanted_m).mean((0, 1))).max() < 0.15
    assert np.abs((found_m - wanted_m)[..., 1]).max() < 0.1
    assert world.camera.place_m[1] == pytest.approx(3.0 - 0.1, abs=0.1), "above their ankles, which are all that there is of them"


def test_every_view_of_a_video_has_a_camera_of_its_own() -> None:
    from_above = walker(1.2, 90, at_m=(0.5, -8.0), height_m=3.0, pitch_deg=25)
    level = walker(1.2, 60, at_m=(-1.0, -5.0), height_m=1.6, pitch_deg=4)
    level = replace(level, times_s=level.times_s + 4)
    views = np.repeat([0, 1], [len(from_above.times_s), len(level.times_s)])
    world, table = world_of(from_above, level, frame_index=np.arange(len(views)), view=views)
    at_once, _ = world_of(from_above, level, frame_index=np.arange(len(views)))

    def heights_m(found: World) -> np.ndarray:
        return found.camera.world_m(table["joints_m"] + found.translation_m[:, None])[..., 1]

    def turned(vectors: np.ndarray, found: World) -> np.ndarray:
        """(N, ..., 3) from the axes of each row's camera."""
        return np.einsum("nij,n...j->n...i", found.start_from_camera, vectors)

    wanted_m = np.concatenate([from_above.world_m, level.world_m])
    found_m = world.camera.world_m(turned(table["joints_m"], world) + world.translation_m[:, None])
    assert np.abs((found_m - wanted_m)[..., 1] + 0.1).max() < 0.1, "above their ankles"
    assert np.abs(heights_m(at_once) - wanted_m[..., 1] + 0.1).max() > 0.3
    cameras_m = world.camera.world_m(world.camera_m)
    np.testing.assert_allclose(cameras_m[views == 0, 1], 2.9, atol=0.1)
    np.testing.assert_allclose(cameras_m[views == 1, 1], 1.5, atol=0.1)
    rays = np.einsum("nji,nj->ni", world.start_from_camera, world.translation_m - world.camera_m)
    cosines = (rays * table["translation_m"]).sum(1) / np.linalg.norm(rays, axis=1) / np.linalg.norm(table["translation_m"], axis=1)
    assert cosines.min() > np.cos(np.radians(1)), "everybody is where their own camera sees them"
    for track in world.tracks:
        np.testing.assert_allclose(track.joints_m, (turned(table["joints_m"], world) + world.translation_m[:, None])[track.rows], atol=1e-9)


def test_who_glides_stands() -> None:
    person = walker(1.2, 20, pitch_deg=10)
    stands = np.linalg.norm(np.diff(person.world_m[:, ANKLES], axis=0), axis=-1) < 1e-6

    def speed_m_s(world: World, table: dict[str, np.ndarray], moves_m: np.ndarray) -> float:
        ankles_m = world.camera.world_m(table["joints_m"][:, ANKLES] + world.translation_m[:, None] + moves_m)
        return float((np.linalg.norm(np.diff(ankles_m, axis=0), axis=-1) * FPS)[stands].mean())

    world, table = world_of(person, glide=0.02)
    measured = replace(world, translation_m=table["translation_m"])
    raw, by_way, by_legs = (
        speed_m_s(measured, table, np.zeros(3)), speed_m_s(world, table, np.zeros(3)), speed_m_s(world, table, world.ankle_moves_m),
    )  # fmt: skip
    assert by_legs < 0.1 * raw
    assert by_legs < by_way < 0.4 * raw
    assert world.tracks[0].joints_m == pytest.approx(table["joints_m"] + world.translation_m[:, None])


@pytest.mark.parametrize("up", [(0, 1, 0), (0.3, 0.8, -0.5), (-0.9, 0.1, 0.2), (0, -1, 0), (1e-6, -1, 0)])
def test_up_becomes_y_by_the_smallest_turn(up: tuple[float, float, float]) -> None:
    up = np.array(up) / np.linalg.norm(up)
    turn = turn_up(up)
    np.testing.assert_allclose(turn @ up, (0, 1, 0), atol=1e-3)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-3)
    assert np.trace(turn) == pytest.approx(1 + 2 * up[1], abs=1e-3)


def test_people_on_one_floor_are_as_large_as_they_have_to_be() -> None:
    near, far = (walker(0, at_m=at_m, height_m=2.5, pitch_deg=15) for at_m in ((-0.5, -5.0), (1.0, -8.0)))
    small = replace(far, joints_m=far.joints_m * 0.9)  # looks the same in the picture
    world, table = world_of(near, small)
    assert world.sizes[0] * 0.9 == pytest.approx(world.sizes[1] * 0.81, rel=0.03)
    rows = [table["track_id"] == number for number in (0, 1)]
    feet_m = [world.camera.world_m(table["joints_m"][own][:, ANKLES] * world.sizes[number] + world.translation_m[own][:, None])
              for number, own in enumerate(rows)]  # fmt: skip
    assert [float(ankles_m[..., 1].mean()) for ankles_m in feet_m] == pytest.approx([0, 0], abs=0.02)
    rays = [world.translation_m[own] / np.linalg.norm(world.translation_m[own], axis=1, keepdims=True) for own in rows]
    wanted = [table["translation_m"][own] / np.linalg.norm(table["translation_m"][own], axis=1, keepdims=True) for own in rows]
    np.testing.assert_allclose(np.concatenate(rays), np.concatenate(wanted), atol=5e-3)


@pytest.mark.parametrize(
    ("levels_m", "times_s", "floor_m", "sizes"),
    [
        ([-1.5], [3], -1.5, [1]),
        ([-2.0, -2.1, -1.9], [5, 9, 5], -2.0, [1, 20 / 21, 20 / 19]),
        ([-2.0, -1.2], [5, 5], -2.0, [1, 1]),  # on a roof
        ([-2.0, -2.2, -3.5], [50, 50, 5], -2.2, [1.1, 1, 1]),  # an odd one below
        ([-0.2, -0.1, 0.4], [5, 5, 5], -0.2, [1, 1, 1]),  # a camera at the height of feet
        ([0.5, 0.6], [5, 5], 0.5, [1, 1]),  # from below
        ([0.0], [3], 0.0, [1]),
    ],
)
def test_the_floor(levels_m: list[float], times_s: list[float], floor_m: float, sizes: list[float]) -> None:
    found_m, found = one_floor(np.array(levels_m), np.array(times_s))
    assert found_m == pytest.approx(floor_m)
    assert found == pytest.approx(sizes)


def test_the_floor_does_not_turn_with_the_camera() -> None:
    """The same person before a camera that rests, and one that turns; which of two feet at one height is lower is a matter of rounding."""
    person = walker(1.2, 70, at_m=(0.5, -7.0), height_m=2.5, pitch_deg=15)
    count = len(person.times_s)
    turns = Rotation.from_euler("yx", np.linspace((0, 0), (25, -8), count), degrees=True)
    turned = replace(person, joints_m=np.stack([turn.inv().apply(joints) for turn, joints in zip(turns, person.joints_m, strict=True)]))
    rests, _ = world_of(person, start_from_camera=np.tile(np.eye(3), (count, 1, 1)))
    moves, _ = world_of(turned, start_from_camera=turns.as_matrix())
    assert (rests.rests, moves.rests) == (True, False)
    np.testing.assert_allclose(moves.camera.turn, rests.camera.turn, atol=3e-3)
    np.testing.assert_allclose(moves.camera.place_m, rests.camera.place_m, atol=3e-3)
    np.testing.assert_allclose(moves.translation_m, rests.translation_m, atol=3e-3)
    np.testing.assert_allclose(moves.tracks[0].joints_m, rests.tracks[0].joints_m, atol=3e-3)
    np.testing.assert_allclose(moves.ankle_moves_m, rests.ankle_moves_m, atol=3e-3)
    without, _ = world_of(turned)
    assert np.linalg.norm(without.tracks[0].joints_m[-1] - rests.tracks[0].joints_m[-1], axis=1).min() > 2, "and not as if it had not"


@pytest.mark.parametrize("column", ["joints_m", "translation_m", "start_from_camera"])
def test_places_that_are_no_numbers_are_named(column: str) -> None:
    person = walker(0)
    _, table = world_of(person, start_from_camera=np.tile(np.eye(3), (len(person.times_s), 1, 1)))
    broken = table[column].astype(float)
    broken[17] = np.nan
    with pytest.raises(InputError, match=r"row 17 \(frame 17, track_id 0\) has places that are no numbers"):
        World.of(table | {column: broken}, table["joints_m"])
