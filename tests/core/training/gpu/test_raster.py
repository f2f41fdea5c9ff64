"""The rasteriser of many meshes draws what the one of a single mesh draws."""

import numpy as np
import pytest
import torch

from core.bodies import load_body
from core.raster import interpolate, rasterize, vertex_normals
from core.training.gpu import raster
from core.training.gpu.raster import interpolate_batch, rasterize_batch, vertex_normals_batch

SIZE = 48


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (3, V, 2), depths (3, V), faces: a whole body, one that is cut by the edges, and a tilted one."""
    body = load_body("anny")
    template = body.levels.template_m
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]], np.float32)
    meshes = np.stack([template, template * 3 + np.float32([0.3, 0.9, 0]), template @ turn])
    depth = meshes[..., 2] + np.float32([[2.2], [3.0], [2.5]])
    return ((meshes[..., :2] / depth[..., None] * 2 + 1) * SIZE / 2).astype(np.float32), depth.astype(np.float32), body.faces


def compare(scene: tuple[np.ndarray, np.ndarray, np.ndarray], device: str, wrong: int) -> None:
    """wrong: pixels that may differ, as where two faces meet."""
    points, depth, faces = scene
    values = np.random.default_rng(0).standard_normal((points.shape[1], 4)).astype(np.float32)
    moved = torch.from_numpy(faces.astype(np.int64)).to(device)
    found = rasterize_batch(torch.from_numpy(points).to(device), torch.from_numpy(depth).to(device), moved, SIZE, SIZE)
    assert found.covered.sum(dim=(1, 2)).min() > 100
    spread = found.spread(torch.cat([found.face[:, None].double() + 1, found.barycentric, found.inverse_depth[:, None]], 1)).cpu().numpy()
    seen = found.spread(interpolate_batch(found, torch.from_numpy(values).to(device), moved)).cpu().numpy()
    for row in range(len(points)):
        expected = rasterize(points[row], depth[row], faces, SIZE, SIZE)
        differ = expected.face_index != spread[row, ..., 0] - 1
        assert differ.sum() <= wrong
        same = ~differ & expected.covered
        np.testing.assert_allclose(spread[row, ..., 1:4][same], expected.barycentric[same], atol=2e-3)
        np.testing.assert_allclose(spread[row, ..., 4][same], expected.inverse_depth[same], atol=1e-5)
        picture = np.zeros((SIZE, SIZE, 4), np.float32)
        picture[expected.covered] = interpolate(expected, values, faces)
        np.testing.assert_allclose(seen[row][same], picture[same], atol=1e-2)


def test_agrees_with_the_rasteriser_of_one_mesh(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    compare(scene, "cpu", wrong=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_agrees_on_a_gpu(scene: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    compare(scene, "cuda", wrong=5)


def test_in_portions_as_at_once(scene: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    points, depth, faces = (torch.from_numpy(array) for array in (scene[0], scene[1], scene[2].astype(np.int64)))
    once = rasterize_batch(points, depth, faces, SIZE, SIZE)
    monkeypatch.setattr(raster, "CANDIDATES_AT_ONCE", 500)
    portions = rasterize_batch(points, depth, faces, SIZE, SIZE)
    assert torch.equal(once.face, portions.face)
    assert torch.equal(once.pixel, portions.pixel)


def test_what_lies_behind_the_camera_is_not_drawn() -> None:
    points = torch.tensor([[[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]])
    faces = torch.tensor([[0, 1, 2]])
    assert rasterize_batch(points, torch.ones(1, 3), faces, 8, 8).covered.sum() > 20
    assert rasterize_batch(points, torch.tensor([[1.0, 1.0, -1.0]]), faces, 8, 8).covered.sum() == 0


def test_normals_agree() -> None:
    body = load_body("anny")
    vertices = torch.from_numpy(body.levels.template_m)
    found = vertex_normals_batch(vertices[None], torch.from_numpy(body.faces.astype(np.int64)))[0].numpy()
    np.testing.assert_allclose(found, vertex_normals(vertices.numpy(), body.faces), atol=1e-4)
