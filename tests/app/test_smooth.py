"""The filters on synthetic jitter, with the irregular times of real cameras."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from app.config import SmoothConfig
from app.smooth import (
    FILTERS,
    ROTATION_FILTERS,
    MeshSmoother,
    OneEuroFilter,
    OneEuroRotationFilter,
    PersonSmoother,
    RecordingSmoother,
)
from app.types import Posture, Sample
from core.errors import InputError

CONFIG = SmoothConfig()
STILL = np.random.default_rng(3).normal(size=(14, 3))
"""Joints of somebody who does not turn."""


def body_filter() -> OneEuroFilter:
    return OneEuroFilter(CONFIG.min_cutoff_hz, CONFIG.beta_hz_per_m_s, CONFIG.derivative_cutoff_hz, CONFIG.previous_share)


def irregular_times(rate_hz: float, duration_s: float, seed: int = 0) -> np.ndarray:
    """Frames that come up to 40 % early or late."""
    random = np.random.default_rng(seed)
    count = int(rate_hz * duration_s)
    return (np.arange(count) + random.uniform(-0.4, 0.4, count)) / rate_hz


def run(filter_: OneEuroFilter, signal: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    return np.stack([filter_(values, time_s) for values, time_s in zip(signal, times_s, strict=True)])


@pytest.mark.parametrize("rate_hz", [25.0, 30.0, 60.0])
def test_jitter_at_rest_is_more_than_halved(rate_hz: float) -> None:
    """From frame to frame; of the noise's size itself two fifths go."""
    times_s = irregular_times(rate_hz, 6)
    noise = np.random.default_rng(1).normal(0, 0.008, (len(times_s), 50, 3))
    smooth = run(body_filter(), noise, times_s)[len(times_s) // 3 :]
    assert smooth.std() < 0.65 * 0.008
    steps, jerks = (np.diff(smooth, n, axis=0).std() / np.diff(noise[len(times_s) // 3 :], n, axis=0).std() for n in (1, 3))
    assert steps < 0.4
    assert jerks < 0.35


@pytest.mark.parametrize("rate_hz", [15.0, 30.0, 60.0])
@pytest.mark.parametrize(("speed_m_s", "frames"), [(0.8, 0.9), (2.0, 0.5), (3.0, 0.35)])
def test_lag_in_motion_is_under_half_a_frame(speed_m_s: float, frames: float, rate_hz: float) -> None:
    """In slow motion it is a little more: there noise weighs more than two centimetres of lag."""
    times_s = irregular_times(rate_hz, 3)
    path = np.zeros((len(times_s), 1, 3))
    path[:, 0, 0] = speed_m_s * times_s
    smooth = run(body_filter(), path, times_s)
    lag_s = ((path - smooth)[len(times_s) // 2 :, 0, 0] / speed_m_s).mean()
    assert 0 <= lag_s < frames / rate_hz


def test_the_frame_rate_hardly_matters() -> None:
    def wave(times_s: np.ndarray) -> np.ndarray:
        return 0.2 * np.sin(2 * np.pi * 0.7 * times_s)[:, None, None] * np.ones((1, 1, 3))

    slow, quick = irregular_times(25, 4), irregular_times(100, 4)
    slow_path, quick_path = run(body_filter(), wave(slow), slow)[:, 0, 0], run(body_filter(), wave(quick), quick)[:, 0, 0]
    later = slow > 1
    assert np.abs(np.interp(slow[later], quick, quick_path) - slow_path[later]).max() < 0.02


def test_each_point_has_its_own_cutoff() -> None:
    filter_, random = body_filter(), np.random.default_rng(0)
    still, errors = [], []
    for index in range(90):
        values = np.array([[index / 30 * 2.0, 0, 0], [0.0, 0, 0]]) + random.normal(0, 0.005, (2, 3))
        smooth = filter_(values, index / 30)
        still.append(smooth[1])
        errors.append(abs(smooth[0, 0] - index / 30 * 2.0))
    assert np.std(still[30:]) < 0.0033
    assert np.mean(errors[30:]) < 0.03


def test_the_mean_with_the_frame_before_removes_what_alternates_and_lags_by_its_share() -> None:
    times_s = np.arange(60) / 30
    alternating = 0.01 * (-1.0) ** np.arange(60)[:, None, None]
    ramp = 2.0 * times_s[:, None, None]
    open_filters = [OneEuroFilter(1e6, 0.0, 1.0, share) for share in (0.5, 0.3)]
    assert np.abs(run(open_filters[0], alternating, times_s)[1:]).max() < 1e-4
    lag_frames = (ramp - run(open_filters[1], ramp, times_s))[1:, 0, 0] / 2.0 * 30
    assert lag_frames == pytest.approx(0.3, abs=0.01)


def test_after_a_gap_the_frame_before_counts_little() -> None:
    filter_ = OneEuroFilter(1e6, 0.0, 1.0, 0.4)
    for index in range(5):
        filter_(np.zeros((1, 3)), index / 30)
    assert filter_(np.ones((1, 3)), 4 / 30 + 0.4).min() > 0.96


def test_rotations_are_meant_with_the_frame_before_too() -> None:
    angles = 0.2 * (-1.0) ** np.arange(20)
    smooth = OneEuroRotationFilter(1e6, 0.0, 1.0, 0.5)
    steps = [smooth(Rotation.from_rotvec([[0, 0, angle]]).as_matrix(), index / 30) for index, angle in enumerate(angles)]
    assert np.abs(Rotation.from_matrix(np.concatenate(steps[1:])).magnitude()).max() < 1e-3


def test_time_standing_still_changes_nothing() -> None:
    filter_ = body_filter()
    first = filter_(np.zeros((1, 3)), 1.0)
    assert np.array_equal(filter_(np.ones((1, 3)), 1.0), first)
    assert np.isfinite(filter_(np.ones((1, 3)), 1.1)).all()


def test_input_is_not_changed_and_output_not_shared() -> None:
    filter_, values = body_filter(), np.ones((4, 3), np.float32)
    result = filter_(values, 0.0)
    result[:] = 7
    assert (values == 1).all()
    assert np.allclose(filter_(values, 0.1), 1)
    assert filter_(values, 0.2).dtype == np.float32


def test_noisy_depth_does_not_move_the_picture() -> None:
    random, person = np.random.default_rng(0), PersonSmoother("one-euro", CONFIG)
    places, depths = [], []
    for index in range(120):
        depth_m = 5 * np.exp(random.normal(0, 0.02))
        translation_m = person(Posture(np.zeros((3, 3), np.float32), np.array([0.2, -0.1, 1.0]) * depth_m), index / 30).translation_m
        places.append(translation_m[:2] / translation_m[2])
        depths.append(translation_m[2])
    assert np.allclose(places, [0.2, -0.1], atol=1e-9)
    assert np.std(np.diff(depths[30:], 3)) < 0.5 * 0.02 * 5 * np.sqrt(20)


def test_people_are_kept_apart_and_forgotten() -> None:
    smoother = MeshSmoother("one-euro", CONFIG)
    here, there = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    forward = np.array([0.0, 0.0, 4.0])
    smoother(Sample(1, 0.0, Posture(here, forward), STILL))
    assert np.array_equal(smoother(Sample(2, 0.0, Posture(there, forward), STILL)).vertices_m, there)
    assert np.abs(smoother(Sample(1, 0.03, Posture(there, forward), STILL)).vertices_m - there).max() > 0.02
    assert np.array_equal(smoother(Sample(1, 0.03 + CONFIG.max_gap_s + 0.1, Posture(there, forward), STILL)).vertices_m, there)
    smoother.forget_before(0.2 + CONFIG.max_gap_s)
    assert len(smoother) == 1
    smoother.reset()
    assert len(smoother) == 0


@pytest.mark.parametrize("name", list(FILTERS))
def test_every_filter_keeps_a_still_signal(name: str) -> None:
    person = PersonSmoother(name, CONFIG)
    vertices, place = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), np.array([0.1, 0.2, 3.0])
    rotmats, shape = Rotation.random(4, random_state=0).as_matrix().astype(np.float32), np.ones(3, np.float32)
    for index in range(5):
        smooth = person(Posture(vertices, place, rotmats, shape), index * 0.1)
    assert np.allclose(smooth.vertices_m, vertices)
    assert np.allclose(smooth.translation_m, place)
    assert np.allclose(smooth.rotmats, rotmats, atol=1e-5)
    assert np.allclose(smooth.shape, shape)


def test_rotations_are_calmed_and_stay_rotations() -> None:
    random, smooth = np.random.default_rng(0), OneEuroRotationFilter(1.0, 0.5)
    true = Rotation.from_rotvec([[0, 0, 3.1], [1.0, -2.0, 0.5]])  # one beside the half turn, where rotation vectors jump
    errors_rad = []
    for index in range(90):
        noisy = Rotation.from_rotvec(random.normal(0, 0.1, (2, 3))) * true
        rotmats = smooth(noisy.as_matrix().astype(np.float32), index / 30 + random.uniform(0, 0.01))
        np.testing.assert_allclose(rotmats @ rotmats.transpose(0, 2, 1), np.tile(np.eye(3), (2, 1, 1)), atol=1e-5)
        errors_rad.append([(Rotation.from_matrix(rotmats) * true.inv()).magnitude(), (noisy * true.inv()).magnitude()])
    smoothed_rad, noisy_rad = np.mean(errors_rad[30:], axis=0)
    assert (smoothed_rad < 0.5 * noisy_rad).all()


def test_fast_rotations_are_followed() -> None:
    smooth = OneEuroRotationFilter(1.2, 3.0)
    for index in range(60):
        true = Rotation.from_rotvec([[0.0, 4.0 * index / 30, 0.0]])
        rotmats = smooth(true.as_matrix(), index / 30)
    lag_rad = (Rotation.from_matrix(rotmats) * true.inv()).magnitude()
    assert lag_rad < 4.0 / 30 / 2  # half a frame


def test_every_filter_has_its_kind_for_rotations() -> None:
    assert set(FILTERS) == set(ROTATION_FILTERS)


def test_none_changes_nothing() -> None:
    person, random = PersonSmoother("none", CONFIG), np.random.default_rng(0)
    for index in range(5):
        vertices, place = random.normal(size=(5, 3)).astype(np.float32), np.array([*random.normal(size=2), 3.0])
        smooth = person(Posture(vertices, place), index * 0.1)
        assert np.array_equal(smooth.vertices_m, vertices)
        assert np.allclose(smooth.translation_m, place)


def test_unknown_filter_lists_the_known() -> None:
    with pytest.raises(InputError, match="one-euro"):
        MeshSmoother("kalman", CONFIG)


FAR = np.array([0.0, 0.0, 4.0])
RUN = 8
"""Frames of a run, as in a recording at 30 frames/s."""


def samples(signal: np.ndarray, track_id: int = 1, first: int = 0) -> list[Sample]:
    """signal: (T, V, 3) at 30 frames/s."""
    return [Sample(track_id, (first + index) / 30, Posture(points, FAR), STILL) for index, points in enumerate(signal)]


def recorded(people: list[Sample], run: int = RUN, name: str = "one-euro") -> list[Posture]:
    smoother = RecordingSmoother(name, CONFIG)
    runs = [done for first in range(0, len(people), run) for done in smoother(people[first : first + run])] + smoother.rest()
    return [posture for done in runs for posture in done]


def waving(num_frames: int = 150) -> np.ndarray:
    """(T, 20, 3): points that go to and fro by 0.3 m in 1.25 s."""
    return np.tile(0.3 * np.sin(np.arange(num_frames) / 30 * 2 * np.pi / 1.25)[:, None, None], (1, 20, 3))


def points_of(postures: list[Posture]) -> np.ndarray:
    return np.stack([posture.vertices_m for posture in postures])


def test_a_recording_is_calmer_than_a_camera_and_nothing_is_late() -> None:
    true = waving()
    noisy = true + np.random.default_rng(0).normal(0, 0.008, true.shape)
    smoother = MeshSmoother("one-euro", CONFIG)
    live, two_way = points_of([smoother(sample) for sample in samples(noisy)]), points_of(recorded(samples(noisy)))

    def jerk(points: np.ndarray) -> float:
        return np.abs(np.diff(points - true, 3, axis=0)[20:-20]).mean()

    def lag(points: np.ndarray) -> float:
        """Frames: the share of the true velocity by which the path is behind."""
        velocity = np.gradient(true, axis=0)[20:-20]
        return float(((true - points)[20:-20] * velocity).sum() / (velocity**2).sum())

    assert jerk(two_way) < 0.6 * jerk(live)
    assert lag(live) > 0.2
    assert abs(lag(two_way)) < 0.05
    assert np.abs(two_way - true)[20:-20].mean() < np.abs(live - true)[20:-20].mean()


def test_runs_do_not_show() -> None:
    noisy = waving() + np.random.default_rng(0).normal(0, 0.008, (150, 20, 3))
    in_runs, at_once = points_of(recorded(samples(noisy))), points_of(recorded(samples(noisy), run=1000))
    assert np.abs(in_runs - at_once).max() < 0.25 * 0.008
    assert np.abs(in_runs - at_once).mean() < 0.02 * 0.008


def test_a_recordings_people_are_kept_apart_and_come_back_in_order() -> None:
    here, there = samples(np.zeros((20, 2, 3)), 1), samples(np.ones((12, 2, 3)), 2, first=4)
    both = sorted([*here, *there], key=lambda sample: (sample.time_s, sample.track_id))
    for sample, posture in zip(both, recorded(both), strict=True):
        np.testing.assert_allclose(posture.vertices_m, float(sample.track_id == 2), atol=1e-12)


def test_somebody_away_for_long_is_smoothed_anew() -> None:
    gap = round(30 * CONFIG.max_gap_s) + 3
    people = [*samples(np.zeros((5, 2, 3))), *samples(np.ones((5, 2, 3)), first=5 + gap)]
    np.testing.assert_allclose(points_of(recorded(people, run=10))[:, 0, 0], [0] * 5 + [1] * 5, atol=1e-12)


def test_a_cut_is_not_smoothed_over() -> None:
    smoother, zeros, ones = RecordingSmoother("one-euro", CONFIG), np.zeros((5, 2, 3)), np.ones((5, 2, 3))
    assert smoother(samples(zeros), starts_scene=True) == []
    assert smoother(samples(zeros[:2], first=5)) == []
    five, two = smoother(samples(ones, first=7), starts_scene=True)
    np.testing.assert_allclose(points_of([*five, *two]), np.zeros((7, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(points_of(*smoother.rest()), ones, atol=1e-12)
    assert smoother.rest() == []


def test_runs_of_nobody_keep_their_place() -> None:
    smoother, zeros = RecordingSmoother("one-euro", CONFIG), np.zeros((3, 2, 3))
    done = [run for people in ([], samples(zeros), [], [], samples(zeros, first=9)) for run in smoother(people)] + smoother.rest()
    assert [len(run) for run in done] == [0, 3, 0, 0, 3]


def test_none_leaves_a_recording_as_it_is() -> None:
    noise = np.random.default_rng(0).normal(size=(30, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(points_of(recorded(samples(noise), name="none")), noise)
