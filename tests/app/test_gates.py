"""Bodies that seem to turn about in no time, and meshes that collapse."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from app.config import SmoothConfig
from app.gates import GATES, HOLDS_S, PERSISTS_S, BodyGate, DistanceGate, NoGate
from app.smooth import FILTERS, MeshSmoother, RecordingSmoother
from app.types import Posture, Sample
from core.joints import JOINT_NAMES, indices

UPRIGHT = np.zeros((14, 3))
UPRIGHT[indices(("R_Hip", "L_Hip", "R_Shoulder", "L_Shoulder"))] = [[-0.1, 0, 0], [0.1, 0, 0], [-0.2, -0.5, 0], [0.2, -0.5, 0]]


def sample(angle_deg: float, frame: int, fps: float = 30.0) -> Sample:
    """Somebody turned about the vertical, who also moves to the side; the vertices are the joints."""
    joints_m = UPRIGHT @ Rotation.from_euler("y", angle_deg, degrees=True).as_matrix().T
    return Sample(1, frame / fps, Posture(joints_m, np.array([0.01 * frame, 0.0, 4.0])), joints_m)


def passed(angles_deg: list[float], fps: float = 30.0) -> list[bool]:
    """For each frame whether what was said is what is taken."""
    gate, shown = BodyGate(), []
    for frame, angle_deg in enumerate(angles_deg):
        said = sample(angle_deg, frame, fps)
        taken = gate(said)
        np.testing.assert_array_equal(taken.translation_m, said.posture.translation_m)
        shown.append(taken.vertices_m is said.posture.vertices_m)
    return shown


def test_a_frame_from_behind_is_not_believed() -> None:
    assert passed([0, 5, 180, 10, 15]) == [True, True, False, True, True]


def test_back_and_forth_stays_as_it_was() -> None:
    assert passed([0.0, 180.0] * 30) == [True, False] * 30


@pytest.mark.parametrize("fps", [15.0, 30.0, 60.0])
def test_what_persists_is_believed(fps: float) -> None:
    shown = passed([0.0] * 5 + [170.0] * 40, fps)
    late = shown.index(False), len(shown) - 1 - shown[::-1].index(False)
    assert late[0] == 5
    assert PERSISTS_S - 1 / fps <= (late[1] - late[0] + 1) / fps <= PERSISTS_S + 1 / fps
    assert all(shown[late[1] + 1 :])


@pytest.mark.parametrize("fps", [10.0, 25.0, 60.0])
def test_a_pirouette_is_believed(fps: float) -> None:
    random = np.random.default_rng(0)
    assert all(passed([720 * frame / fps + random.normal(0, 8) for frame in range(60)], fps))


def test_what_changes_while_it_is_doubted_is_doubted_on() -> None:
    assert passed([0.0, 180.0, 90.0, 180.0, 90.0, 180.0, 90.0, 180.0, 90.0, 180.0]) == [True] + [False] * 9


def held(soundness: list[float], gate: BodyGate, fps: float = 10.0, angles_deg: list[float] | None = None) -> list[int]:
    """For each frame the number of the frame whose posture is shown. coming is not looked at."""
    people = [sample(angle, number, fps) for number, angle in enumerate(angles_deg or [0.0] * len(soundness))]
    people = [replace(person, soundness=sound) for person, sound in zip(people, soundness, strict=True)]
    numbers = {id(person.posture.vertices_m): number for number, person in enumerate(people)}
    return [numbers[id(gate(person).vertices_m)] for person in people]


def test_the_last_sound_posture_stands_for_a_collapsed_mesh() -> None:
    assert held([1, 1, 0.2, 0.4, 0.9, 0, 1], BodyGate()) == [0, 1, 1, 1, 4, 4, 6]


def test_what_stays_collapsed_is_let_through_to_be_hidden_and_the_next_body_is_believed_at_once() -> None:
    shown = held([1, 0, 0, 0, 0, 0, 0, 1, 1], BodyGate(), angles_deg=[0.0] * 7 + [180.0] * 2)
    assert HOLDS_S == 0.4
    assert shown == [0, 0, 0, 0, 0, 5, 6, 7, 8]


def test_who_is_collapsed_from_the_start_is_let_through() -> None:
    assert held([0, 0.3, 1], BodyGate()) == [0, 1, 2]


def test_a_collapse_says_nothing_about_turns() -> None:
    """Neither does it end a doubt, nor does it begin one."""
    assert held([1, 1, 0, 1, 1], BodyGate(), 30.0, [0, 5, 170, 10, 12]) == [0, 1, 1, 3, 4]
    angles = [0.0] * 3 + [170.0] * 9
    without, with_one = ([1.0] * 12, [1.0] * 5 + [0.0] + [1.0] * 6)
    assert held(without, BodyGate(), 30.0, angles) == held(with_one, BodyGate(), 30.0, angles) == [0, 1] + [2] * 8 + [10, 11]


def test_a_recording_looks_past_a_collapse() -> None:
    people = [replace(sample(170 if number else 0, number), soundness=0.0 if number in (3, 4) else 1.0) for number in range(12)]
    gate = BodyGate()
    shown = [gate(person, people[number:]).vertices_m is person.posture.vertices_m for number, person in enumerate(people, start=1)]
    assert shown == [True] * 3 + [False] * 2 + [True] * 7


def test_every_filter_has_its_gate_and_none_believes_everything() -> None:
    assert set(GATES) == set(FILTERS)
    said = sample(180, 1)
    assert NoGate()(said) is said.posture


def test_a_recording_sees_what_persists_from_its_beginning() -> None:
    angles = [0.0] * 5 + [170.0] * 3 + [0.0] * 5 + [170.0] * 12
    people, gate = [sample(angle_deg, frame) for frame, angle_deg in enumerate(angles)], BodyGate()
    shown = [gate(person, people[number:]).vertices_m is person.posture.vertices_m for number, person in enumerate(people, start=1)]
    assert shown == [True] * 5 + [False] * 3 + [True] * 17


def test_smoothing_does_not_show_a_flip() -> None:
    people = [sample(180 if frame in (20, 21) else 0, frame) for frame in range(40)]
    live, recording = MeshSmoother("one-euro", SmoothConfig()), RecordingSmoother("one-euro", SmoothConfig())
    recording(people)
    for postures in ([live(person) for person in people], *recording.rest()):
        shoulder = np.array([posture.vertices_m[JOINT_NAMES.index("L_Shoulder"), 0] for posture in postures])
        np.testing.assert_allclose(shoulder, 0.2, atol=1e-9)


def distances_m(said_m: list[float], fps: float = 30.0, soundness: dict[int, float] | None = None) -> list[float]:
    """What is taken for each distance that is said."""
    gate, taken = DistanceGate(), []
    for frame, distance_m in enumerate(said_m):
        posture = replace(sample(0, frame, fps).posture, translation_m=np.array([0.1, 0.0, distance_m]))
        said = replace(sample(0, frame, fps), posture=posture, soundness=(soundness or {}).get(frame, 1.0))
        taken.append(round(distance_m * gate(said), 6))
    return taken


def test_a_leap_of_metres_for_a_moment_is_not_believed() -> None:
    assert distances_m([10.0, 10.2, 7.0, 6.9, 10.1]) == [10.0, 10.2, 10.2, 10.2, 10.1]


@pytest.mark.parametrize("fps", [10.0, 30.0, 60.0])
def test_a_distance_that_persists_is_believed_and_so_is_a_sprint(fps: float) -> None:
    taken = distances_m([5.0] * 5 + [9.0] * 60, fps)
    assert PERSISTS_S - 1 / fps <= taken[5:].count(5.0) / fps <= PERSISTS_S + 1 / fps
    assert taken[-1] == 9.0
    run_m = [30 - 9 * frame / fps for frame in range(int(3 * fps))]
    assert distances_m(run_m, fps) == pytest.approx(run_m)


def test_how_far_away_a_collapsed_mesh_is_counts_for_nothing() -> None:
    assert distances_m([10.0, 9.0, 10.1], soundness={1: 0.0}) == [10.0, 10.0, 10.1]
    assert distances_m([10.0, 9.0], soundness={0: 0.0}) == [10.0, 9.0]


def test_smoothing_does_not_show_a_leap() -> None:
    people = [sample(0, frame) for frame in range(40)]
    for frame in (20, 21):
        people[frame] = replace(people[frame], posture=replace(people[frame].posture, translation_m=np.array([0.05 * frame, 0.0, 20.0])))
    live, recording = MeshSmoother("one-euro", SmoothConfig()), RecordingSmoother("one-euro", SmoothConfig())
    recording(people)
    for postures in ([live(person) for person in people], *recording.rest()):
        np.testing.assert_allclose([posture.translation_m[2] for posture in postures], 4.0, atol=1e-9)
        ways_m = np.array([posture.translation_m[0] for posture in postures])
        np.testing.assert_allclose(ways_m, 0.01 * np.arange(40), atol=0.02)  # they stay where they are seen
