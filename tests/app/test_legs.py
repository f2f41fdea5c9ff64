"""Legs that reach, on Anny."""

import numpy as np
import pytest
import torch

from app.export.legs import LONGEST, SIDES, reaching, swing_and_bend
from core.bodies.anny import AnnyBody
from core.fitters import fitter_for
from tests.app.test_bvh import PEOPLE

BODY = AnnyBody()
PHENOTYPE = np.array([0.3, 0.6, 0.5, 0.4, 0.6, 0.5], np.float32)
X = np.array([[1.0, 0, 0]])


def bones(rotmats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns (T, 104, 3, 3) and places (T, 104, 3)."""
    _, heads, alignments = BODY.rest(torch.from_numpy(PHENOTYPE[None]))
    rest = heads.expand(len(rotmats), -1, -1), alignments.expand(len(rotmats), -1, -1, -1)
    return tuple(values.numpy() for values in BODY.bone_transforms(torch.from_numpy(rotmats).float(), *rest))


def reached(rotmats: np.ndarray, moves_m: np.ndarray) -> np.ndarray:
    changed = rotmats.astype(np.float32)
    for bone, turns in reaching(BODY, rotmats.astype(np.float32), np.arange(len(rotmats)), PHENOTYPE, moves_m).items():
        changed[:, bone] = turns
    return changed


def test_ankles_go_where_they_should_and_nothing_else_does() -> None:
    rotmats = PEOPLE[0]["bone_rotmats"]
    turns, places_m = bones(rotmats)
    towards_hips = np.stack([places_m[:, BODY.bone_index(f"upperleg01.{s}")] - places_m[:, BODY.bone_index(f"foot.{s}")] for s in SIDES], 1)
    random = np.random.default_rng(1)
    moves_m = 0.1 * towards_hips + random.uniform(-0.03, 0.03, towards_hips.shape)
    new_turns, new_places_m = bones(reached(rotmats, moves_m))
    for number, side in enumerate(SIDES):
        foot = BODY.bone_index(f"foot.{side}")
        np.testing.assert_allclose(new_places_m[:, foot] - places_m[:, foot], moves_m[:, number], atol=1e-4)
        np.testing.assert_allclose(new_turns[:, foot], turns[:, foot], atol=1e-5)
    below = [
        BODY.bone_index(f"{name}.{side}") for name in ("upperleg01", "upperleg02", "lowerleg01", "lowerleg02", "foot") for side in SIDES
    ]
    rest = [bone for bone in range(BODY.num_bones) if bone not in below and not BODY.bone_names[bone].startswith("toe")]
    np.testing.assert_allclose(new_places_m[:, rest], places_m[:, rest], atol=1e-6)


def test_no_move_is_no_change() -> None:
    rotmats = PEOPLE[0]["bone_rotmats"].astype(np.float32)
    np.testing.assert_allclose(reached(rotmats, np.zeros((len(rotmats), 2, 3))), rotmats, atol=2e-6)


def test_knees_of_somebody_who_stands_bend_to_the_front() -> None:
    standing = fitter_for(BODY).rig.rest_rotmats.numpy()[None].astype(np.float32)
    _, places_m = bones(standing)
    moves_m = np.tile([0.0, -0.1, 0.0], (1, 2, 1))  # up
    _, new_places_m = bones(reached(standing, moves_m))
    for side in SIDES:
        knee = BODY.bone_index(f"lowerleg01.{side}")
        assert new_places_m[0, knee, 2] < places_m[0, knee, 2] - 0.05, "somebody at rest faces the camera"


def test_a_knee_that_seems_to_bend_backwards_bends_to_the_front() -> None:
    """With no jump on the way from a little to the back to a little to the front, whatever the ankle does."""
    bends = np.radians(np.linspace(-12, 12, 97))
    thigh = np.tile([0, 0.45, 0.0], (97, 1))
    shin = 0.4 * np.stack([np.full(97, 0.01), np.cos(bends), np.sin(bends)], 1)  # to the back of somebody who faces -z
    for move in ((0, 0, 0), (0, -0.05, 0), (0.03, -0.02, -0.04)):
        moves = np.tile(move, (97, 1)).astype(float)
        swing, bend = swing_and_bend(thigh, shin, moves, np.tile([1.0, 0, 0], (97, 1)))
        knee = (swing @ thigh[..., None])[..., 0]
        ankle = knee + (swing @ bend @ shin[..., None])[..., 0]
        straight = ankle * (knee * ankle).sum(1, keepdims=True) / (ankle**2).sum(1, keepdims=True)
        assert ((knee - straight)[:, 2] < 0.002).all(), "to the front"
        assert np.abs(np.diff(knee, axis=0)).max() < 0.01
        np.testing.assert_allclose(ankle, thigh + shin + moves, atol=2e-3)


def test_a_leg_is_as_long_as_it_is() -> None:
    thigh, shin = np.array([[0, 0.45, 0.02]]), np.array([[0, 0.4, -0.02]])
    swing, bend = swing_and_bend(thigh, shin, np.array([[0.05, 0.3, 0.0]]), X)
    ankle = (swing @ (thigh + (bend @ shin[..., None])[..., 0])[..., None])[0, :, 0]
    longest = np.linalg.norm(thigh) + np.linalg.norm(shin)
    assert LONGEST * longest - 1e-9 <= np.linalg.norm(ankle) <= longest
    np.testing.assert_allclose(ankle / np.linalg.norm(ankle), (wanted := np.array([0.05, 1.15, 0.0])) / np.linalg.norm(wanted), atol=1e-9)


@pytest.mark.parametrize("move", [(0, 0, 0), (0, -0.85, 0), (0, -(0.45 + 0.4), 0), (0.3, -0.2, 0.1)])
def test_strange_targets_leave_rotations(move: tuple[float, float, float]) -> None:
    thigh, shin = np.array([[0, 0.45, 0.0]]), np.array([[0, 0.4, 0.0]])
    for rotmats in swing_and_bend(thigh, shin, np.array([move], float), X):
        np.testing.assert_allclose(rotmats @ rotmats.transpose(0, 2, 1), np.eye(3)[None], atol=1e-9)
