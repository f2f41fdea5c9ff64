"""Drawing meshes into pictures."""

import numpy as np
import pytest

from app.colors import track_color
from app.render import draw_overlay, draw_skeletons
from app.types import Frame, Intrinsics, Scene
from app.visibility import vertex_joint_weights
from tests.app.media import SPHERE_FACES, SPHERE_JOINTS_M, SPHERE_VERTICES_M, mesh, scene

WEIGHTS = vertex_joint_weights(SPHERE_VERTICES_M, SPHERE_JOINTS_M)


def _changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=-1)


def _disc(center_px: tuple[float, float], radius_px: float, size_px: tuple[int, int]) -> np.ndarray:
    x, y = np.meshgrid(np.arange(size_px[0]) + 0.5, np.arange(size_px[1]) + 0.5)
    return np.hypot(x - center_px[0], y - center_px[1]) < radius_px


@pytest.mark.parametrize(
    ("side_px", "focal_px", "translation_m"),
    [(200, 200.0, (0.0, 0.0, 2.0)), (300, 200.0, (0.2, -0.3, 1.5)), (1500, 2000.0, (0.1, 0.0, 1.3)), (1500, 4000.0, (0.1, 0.2, 1.5))],
)
def test_pixels_change_where_the_body_is_and_nowhere_else(side_px: int, focal_px: float, translation_m: tuple[float, float, float]) -> None:
    """Radius of a sphere's outline: f * r / sqrt(z^2 - r^2) when it stands near the middle."""
    before = scene(mesh(translation_m=translation_m), image=np.full((side_px, side_px, 3), 100, np.uint8), focal_px=focal_px)
    changed = _changed(before.frame.image, draw_overlay(before, SPHERE_FACES))
    x, y, z = translation_m
    center_px = (focal_px * x / z + side_px / 2, focal_px * y / z + side_px / 2)
    radius_px = focal_px * 0.3 / z
    assert changed[_disc(center_px, 0.92 * radius_px, (side_px, side_px))].all()
    assert not changed[~_disc(center_px, 1.35 * radius_px + 3, (side_px, side_px))].any()


def test_the_input_is_left_alone() -> None:
    before = scene(mesh())
    original = before.frame.image.copy()
    assert _changed(original, draw_overlay(before, SPHERE_FACES)).any()
    np.testing.assert_array_equal(before.frame.image, original)
    draw_skeletons(before.frame.image, before.meshes)
    np.testing.assert_array_equal(before.frame.image, original)


def test_nobody_there_changes_nothing() -> None:
    empty = scene()
    np.testing.assert_array_equal(draw_overlay(empty, SPHERE_FACES), empty.frame.image)


@pytest.mark.parametrize("translation_m", [(9.0, 0.0, 2.0), (0.0, -9.0, 2.0), (0.0, 0.0, -2.0)])
def test_a_body_out_of_the_picture(translation_m: tuple[float, float, float]) -> None:
    before = scene(mesh(translation_m=translation_m))
    np.testing.assert_array_equal(draw_overlay(before, SPHERE_FACES), before.frame.image)


def test_a_body_around_the_camera_and_a_tiny_picture_draw_without_error() -> None:
    assert draw_overlay(scene(mesh(translation_m=(0.0, 0.0, 0.1))), SPHERE_FACES).shape == (48, 64, 3)
    tiny = scene(mesh(), image=np.zeros((1, 1, 3), np.uint8))
    assert draw_overlay(tiny, SPHERE_FACES).shape == (1, 1, 3)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_person_is_in_front(order: tuple[int, int]) -> None:
    people = [mesh(0, (0.0, 0.0, 2.0)), mesh(1, (0.05, 0.0, 4.0))]
    image = draw_overlay(scene(*(people[i] for i in order), image=np.zeros((48, 64, 3), np.uint8)), SPHERE_FACES, opacity=1.0)
    color = image[24, 32].astype(float)
    np.testing.assert_allclose(color / color.max(), np.array(track_color(0)) / max(track_color(0)), atol=0.04)


def test_together_equals_one_by_one_when_apart() -> None:
    left, right = mesh(0, (-0.8, 0.0, 2.0)), mesh(1, (0.8, 0.1, 2.0))
    image = np.full((120, 300, 3), 90, np.uint8)
    both = draw_overlay(scene(left, right, image=image), SPHERE_FACES)
    one = draw_overlay(scene(left, image=image), SPHERE_FACES)
    np.testing.assert_array_equal(both, draw_overlay(scene(right, image=one), SPHERE_FACES))


def test_hidden_parts_are_not_drawn_and_the_edge_fades() -> None:
    visibility = np.where(SPHERE_JOINTS_M[:, 1] > 0, 0.0, 1.0)  # the lower half, y down
    before = scene(mesh(visibility=visibility), image=np.zeros((200, 200, 3), np.uint8))
    image = draw_overlay(before, SPHERE_FACES, WEIGHTS).astype(int).sum(axis=-1)
    assert image[80, 100] > 150
    assert image[120:].max() == 0
    column = image[96:112, 100]
    assert ((column > 15) & (column < 0.8 * image[85, 100])).sum() >= 2


def test_a_hidden_part_hides_nobody_behind_it() -> None:
    unseen, behind = mesh(0, (0.0, 0.0, 2.0), visibility=0.0), mesh(1, (0.0, 0.0, 4.0))
    image = np.zeros((100, 100, 3), np.uint8)
    np.testing.assert_array_equal(
        draw_overlay(scene(unseen, behind, image=image), SPHERE_FACES, WEIGHTS),
        draw_overlay(scene(behind, image=image), SPHERE_FACES, WEIGHTS),
    )


def test_the_middle_is_lit_more_than_the_rim() -> None:
    image = draw_overlay(scene(mesh(), image=np.zeros((48, 64, 3), np.uint8)), SPHERE_FACES).astype(int).sum(axis=-1)
    assert image[24, 32] > 1.2 * image[48 // 2, 32 + 26] > 0


def test_winding_does_not_matter() -> None:
    before = scene(mesh())
    flipped = np.ascontiguousarray(SPHERE_FACES[:, ::-1])
    difference = draw_overlay(before, SPHERE_FACES).astype(int) - draw_overlay(before, flipped)
    assert np.abs(difference).max() <= 2


def test_colours_are_stable_and_distinct() -> None:
    colors = [track_color(i) for i in range(40)]
    assert colors == [track_color(i) for i in range(40)]
    assert len(set(colors)) == 40


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_mesh_raises_instead_of_drawing_nonsense(bad: float) -> None:
    vertices_m = SPHERE_VERTICES_M.copy()
    vertices_m[3, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        draw_overlay(scene(mesh(vertices_m=vertices_m)), SPHERE_FACES)
    with pytest.raises(ValueError, match="does not fit"):
        draw_overlay(scene(mesh(vertices_m=SPHERE_VERTICES_M[:9])), SPHERE_FACES)


def test_vertex_joint_weights_follow_the_nearest_joint() -> None:
    nearest = np.linalg.norm(SPHERE_VERTICES_M[:, None] - SPHERE_JOINTS_M[None], axis=-1).argmin(axis=1)
    np.testing.assert_allclose(WEIGHTS.sum(axis=1), 1, atol=1e-5)
    assert WEIGHTS.shape == (len(SPHERE_VERTICES_M), 14)
    assert (WEIGHTS.argmax(axis=1) == nearest).mean() > 0.99


def test_skeleton_draws_bones_between_visible_joints_only() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    joints_px = np.full((14, 2), 50, np.float32)
    joints_px[12], joints_px[13] = (20, 20), (80, 20)  # neck, head
    visibility = np.zeros(14)
    visibility[12:] = 1.0
    drawn = draw_skeletons(image, (mesh(joints_px=joints_px, visibility=visibility),))
    assert drawn[20, 50].any()
    assert not drawn[30:].any()
    joints_px[12] = np.nan
    assert draw_skeletons(image, (mesh(joints_px=joints_px),)).shape == image.shape


def test_8k() -> None:
    image = np.zeros((4320, 7680, 3), np.uint8)
    big = Scene(Frame(image, 0.0, 0), Intrinsics(9000.0, (3840.0, 2160.0)), (mesh(),))
    drawn = draw_overlay(big, SPHERE_FACES)
    assert drawn.shape == image.shape
    assert drawn[2160, 3840].any()
