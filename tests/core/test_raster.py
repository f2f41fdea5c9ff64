import numpy as np

from core.raster import NO_FACE, rasterize

SQUARE = np.array([[2.0, 2], [8, 2], [8, 8], [2, 8]])
TWO_TRIANGLES = np.array([[0, 1, 2], [0, 2, 3]])


def test_covers_exactly_the_pixels_whose_centres_lie_inside():
    fragments = rasterize(SQUARE, np.ones(4), TWO_TRIANGLES, 10, 12)
    expected = np.zeros((10, 12), bool)
    expected[2:8, 2:8] = True
    assert (fragments.covered == expected).all()
    assert (fragments.face_index[~expected] == NO_FACE).all()


def test_the_nearer_face_wins_whatever_the_order():
    points, faces = np.concatenate([SQUARE, SQUARE]), np.concatenate([TWO_TRIANGLES, TWO_TRIANGLES + 4])
    depth = np.array([2.0] * 4 + [1.0] * 4)
    near_last = rasterize(points, depth, faces, 10, 10)
    near_first = rasterize(points, depth[::-1], faces, 10, 10)
    assert set(near_last.face_index[near_last.covered]) == {2, 3}
    assert set(near_first.face_index[near_first.covered]) == {0, 1}


def test_barycentric_weights_are_perspective_correct():
    depth = np.array([1.0, 4.0, 4.0, 1.0])
    fragments = rasterize(SQUARE, depth, TWO_TRIANGLES, 10, 10)
    weights = fragments.barycentric[fragments.covered]
    corners = depth[TWO_TRIANGLES[fragments.face_index[fragments.covered]]]
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose((weights * corners).sum(1), 1 / fragments.inverse_depth[fragments.covered], rtol=1e-4)


def test_faces_behind_the_camera_and_outside_the_picture_are_left_out():
    assert not rasterize(SQUARE, np.array([1.0, 1, -1, 1]), TWO_TRIANGLES[:1], 10, 10).covered.any()
    assert not rasterize(SQUARE + 1e7, np.ones(4), TWO_TRIANGLES, 10, 10).covered.any()
    assert rasterize(SQUARE * 1e5 - 4e5, np.ones(4), TWO_TRIANGLES, 10, 10).covered.all()
