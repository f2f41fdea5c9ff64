import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.bodies.smpl_files import SMPL_JOINTS
from core.errors import InputError
from core.geometry import HALF_CROP_PX
from core.joints import JOINT_NAMES, indices
from core.training.augmentation import (
    NO_AUGMENTATION,
    Augmentation,
    Change,
    can_mirror,
    changed,
    changed_pose,
    disturbed,
    drawn_change,
    plain_view,
    viewed,
)
from core.training.samples import FROM_24, JOINTS_24, BrokenSample, Sample, open_dataset
from tests.core.training.toy_people import write_toy_shards
from tests.toy import ToyBody

CHANGES = [
    Change(), Change(scale=1.2), Change(angle_rad=0.7), Change(flip=True), Change(shift=(0.1, -0.05)),
    Change(0.8, -0.5, True, (0.04, 0.08)),
]  # fmt: skip


def sample(**changes: object) -> Sample:
    """Somebody whose joints are coloured dots: joint k in a square of 40 px, red = 10 + 16 k."""
    random = np.random.default_rng(0)
    image = np.zeros((500, 600, 3), np.uint8)
    places = np.array([[160 + 60 * (k % 4), 130 + 55 * (k // 4)] for k in range(14)], np.float64)
    for k, place in enumerate(places):
        x, y = place.astype(int)
        image[y - 12 : y + 12, x - 12 : x + 12] = (30 + 16 * k, 255, 0)
    side_px, centre = 300.0, np.array([255.0, 220.0])
    camera = np.array([0.9, 0.1, -0.2])
    unit = (places - centre) / (side_px / 2)
    joints = np.concatenate([unit / camera[0] - camera[1:], random.normal(0, 0.2, (14, 1)), np.ones((14, 1))], 1)
    values = {
        "image": image, "centre_px": centre, "scale": side_px / 200, "joints_2d_px": np.concatenate([places, np.ones((14, 1))], 1),
        "joints_3d_m": joints, "camera": camera, "img_key": "somebody",
    }  # fmt: skip
    return Sample(**{**values, **changes})


@pytest.mark.parametrize("change", CHANGES)
def test_picture_and_truth_move_together(change: Change) -> None:
    """Every joint is where its dot is, and the camera projects the moved 3D joint there."""
    view = changed(sample(), change)
    names = list(JOINT_NAMES)
    for k, (x, y) in enumerate(np.rint((view.joints_crop[:, :2] + 1) * HALF_CROP_PX).astype(int)):
        if not (4 < x < 220 and 4 < y < 220):
            continue
        name = names[k]
        dot = names.index({"R": "L", "L": "R"}[name[0]] + name[1:]) if change.flip and name[1] == "_" else k
        assert abs(int(view.picture[y, x, 0]) - (30 + 16 * dot)) <= 2, name
    projected = view.camera[0] * (view.joints_m[:, :2] + view.camera[1:])
    np.testing.assert_allclose(projected, view.joints_crop[:, :2], atol=1e-5)
    assert view.joints_m.dtype == view.joints_crop.dtype == np.float32


def test_what_leaves_the_crop_is_seen_of_photographed_people_alone() -> None:
    change = Change(0.8, 0.3, True, (0.3, 0.0))
    rendered, photographed = changed(sample(), change), changed(sample(camera=None), change)
    inside = (np.abs(rendered.joints_crop[:, :2]) < 1).all(1)
    assert 0 < inside.sum() < len(inside)
    np.testing.assert_array_equal(rendered.joints_crop[:, 2], inside)
    assert (photographed.joints_crop[:, 2] == 1).all()


def test_depth_stays_and_the_mirror_image_mirrored_is_the_same() -> None:
    person = sample()
    turned = changed(person, Change(angle_rad=0.4))
    np.testing.assert_allclose(turned.joints_m[:, 2], person.joints_3d_m[:, 2], rtol=1e-6)
    flipped = changed(person, Change(flip=True))
    assert np.abs(flipped.picture[:, ::-1].astype(int) - plain_view(person).picture).max() <= 1


def test_mirrored_and_turned_poses_are_smpls() -> None:
    """Chains of rotations: turned by R about z all joints move by R; mirrored, each side takes the other's mirror image."""
    random = np.random.default_rng(1)
    pose = random.normal(0, 0.5, 72)
    matrices = [cv2.Rodrigues(v)[0] for v in pose.reshape(24, 3)]
    turned = [cv2.Rodrigues(v)[0] for v in changed_pose(pose, Change(angle_rad=0.9)).astype(np.float64).reshape(24, 3)]
    around_z = cv2.Rodrigues(np.array([0, 0, 0.9]))[0]
    np.testing.assert_allclose(turned[0], around_z @ matrices[0], atol=1e-6)
    np.testing.assert_allclose(turned[1:], matrices[1:], atol=1e-6)
    mirror = np.diag([-1.0, 1.0, 1.0])
    flipped = [cv2.Rodrigues(v)[0] for v in changed_pose(pose, Change(flip=True)).astype(np.float64).reshape(24, 3)]
    left, right = indices(("L_Knee", "R_Knee"), among=SMPL_JOINTS)
    np.testing.assert_allclose(flipped[left], mirror @ matrices[right] @ mirror, atol=1e-6)
    np.testing.assert_allclose(flipped[0], mirror @ matrices[0] @ mirror, atol=1e-6)


def test_the_defaults_draw_what_the_release_draws() -> None:
    person, random = sample(), np.random.default_rng(0)
    changes = [drawn_change(Augmentation(), person, random) for _ in range(4000)]
    assert np.mean([c.flip for c in changes]) == pytest.approx(0.5, abs=0.03)
    angles = np.degrees([c.angle_rad for c in changes])
    assert np.mean(angles != 0) == pytest.approx(0.4, abs=0.03)
    assert np.abs(angles).max() == pytest.approx(60, abs=0.01)
    assert np.std(angles[angles != 0]) == pytest.approx(28.6, abs=1.5)  # 30, cut at 60
    scales = np.array([c.scale for c in changes])
    assert (scales.min(), scales.max()) == pytest.approx((0.75, 1.25))
    assert np.mean((scales == 0.75) | (scales == 1.25)) == pytest.approx(0.317, abs=0.03)
    assert {c.shift for c in changes} == {(0.0, 0.0)}


def test_colour_noise_multiplies_each_channel() -> None:
    grey = np.full((224, 224, 3), 100, np.uint8)
    seen = np.array([disturbed(grey, Augmentation(), np.random.default_rng(i))[0, 0] for i in range(300)])
    assert seen.min() >= 60
    assert seen.max() <= 140
    assert seen.min() < 65 and seen.max() > 135
    assert (seen.std(axis=1) > 0).mean() > 0.9


@pytest.mark.parametrize("kind", ["occlusion", "blur", "jpeg", "grey"])
def test_each_disturbance_changes_the_picture_and_repeats(kind: str) -> None:
    picture = np.random.default_rng(3).integers(0, 255, (224, 224, 3)).astype(np.uint8)
    alone = replace(NO_AUGMENTATION, **{kind: 1.0})
    first, again = (disturbed(picture, alone, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and first.shape == picture.shape
    assert (first != picture).any()
    assert disturbed(picture, NO_AUGMENTATION, np.random.default_rng(5)) is picture


def test_without_augmentation_a_view_is_the_plain_crop() -> None:
    plain, view = plain_view(sample()), viewed(sample(), NO_AUGMENTATION, np.random.default_rng(0))
    np.testing.assert_array_equal(view.picture, plain.picture)
    np.testing.assert_array_equal(view.joints_crop, plain.joints_crop)


def test_only_what_can_be_mirrored_is() -> None:
    meshy = sample(vertices_m=np.zeros((12, 3), np.float32))
    assert can_mirror(sample()) and can_mirror(sample(pose=np.zeros(72), betas=np.zeros(10), has_smpl=True))
    assert not can_mirror(meshy) and not can_mirror(sample(pose=np.zeros(312), betas=np.zeros(6)))
    always = replace(NO_AUGMENTATION, flip=1.0)
    assert drawn_change(always, sample(), np.random.default_rng(0)).flip
    assert not drawn_change(always, meshy, np.random.default_rng(0)).flip


def test_24_joints_become_the_14() -> None:
    assert FROM_24 == [*range(13), JOINTS_24.index("Head")] == [*range(13), 18]  # as the release picks them
    all_24 = np.concatenate([np.arange(72.0).reshape(24, 3), np.ones((24, 1))], 1)
    person = sample(joints_3d_m=all_24, joints_2d_px=np.ones((24, 3)), has_2d=False)
    np.testing.assert_array_equal(person.joints_3d, all_24[FROM_24].astype(np.float32))
    assert (person.joints_2d == 0).all()


@pytest.mark.parametrize(
    "broken",
    [
        {"scale": 0.0}, {"scale": float("nan")}, {"centre_px": np.array([1.0, np.nan])}, {"image": np.zeros((5, 5), np.uint8)},
        {"joints_2d_px": np.zeros((17, 3))}, {"joints_3d_m": np.full((14, 4), np.nan)}, {"has_smpl": True},
        {"pose": np.full(72, np.inf), "betas": np.zeros(10)}, {"vertices_m": np.zeros((12, 2))},
    ],
)  # fmt: skip
def test_a_broken_sample_says_which(broken: dict) -> None:
    with pytest.raises(BrokenSample, match="somebody"):
        sample(**broken)


def test_unbelieved_joints_may_be_anything() -> None:
    assert (sample(joints_3d_m=np.full((14, 4), np.nan), has_3d=False).joints_3d == 0).all()


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"rotation_deg": -1.0}, {"scale": 1.0}])
def test_amounts_are_checked(wrong: dict) -> None:
    with pytest.raises(InputError, match="augmentation"):
        Augmentation(**wrong)


def test_shards_are_a_data_set(tmp_path: Path) -> None:
    write_toy_shards(tmp_path, num_shards=2, count=5)
    people = open_dataset("shards", ToyBody(), {"path": str(tmp_path)})
    assert len(people) == 10
    person = pickle.loads(pickle.dumps(people))[7]  # noqa: S301  as it goes to workers
    view, truth = plain_view(person), people.shards[1].truth
    np.testing.assert_allclose(view.joints_crop[:, :2], truth.joints_crop[2], atol=1e-6)
    np.testing.assert_array_equal(view.picture, person.image)
    np.testing.assert_allclose(view.camera, truth.camera[2])
    assert person.family in people.shards[1].family_names


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [("no-such", {}, "known: .*shards"), ("shards", {"folder": "x"}, "its options are path"), ("shards", {}, "path")],
)
def test_a_mistaken_data_set_is_one_line(kind: str, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        open_dataset(kind, ToyBody(), options)


def test_people_of_another_body_are_refused(tmp_path: Path) -> None:
    write_toy_shards(tmp_path, body="other")
    with pytest.raises(InputError, match="other"):
        open_dataset("shards", ToyBody(), {"path": str(tmp_path)})
