"""meshes.npz of people whose shape was found little by little: all rows get the last one, and stay what the parameters pose."""

from pathlib import Path

import numpy as np
import pytest
import torch

from app.export import Parameters, Recording
from app.export.npz import NpzSink
from app.settling import Settling
from app.types import Frame, Intrinsics, Scene, SmoothedMesh
from app.visibility import body_joint_weights
from core.bodies.anny import AnnyBody
from core.geometry import project_pinhole
from tests.app.test_bvh import NUM_FRAMES, PEOPLE

BODY = AnnyBody()
PARAMETERS = Parameters(BODY.parameter_names, BODY.num_bones, BODY.num_shape, BODY.parameter_labels)
CAMERA = Intrinsics(800.0, (320.0, 240.0))


def posed(rotmats: np.ndarray, shape: np.ndarray) -> np.ndarray:
    vertices = BODY.vertices(torch.from_numpy(rotmats), torch.from_numpy(shape))
    return (vertices - BODY.pelvis(vertices)[:, None]).numpy()


def mesh_of(track_id: int, rotmats: np.ndarray, shape: np.ndarray, place_m: np.ndarray) -> SmoothedMesh:
    (vertices_m,) = posed(rotmats[None], shape[None])
    joints_m = (BODY.joint_regressor @ vertices_m).astype(np.float32)
    joints_px = project_pinhole(joints_m + place_m, CAMERA.focal_px, CAMERA.principal_px)
    return SmoothedMesh(
        track_id=track_id, score=0.9, box_px=np.array([0, 0, 50, 90], np.float32), vertices_m=vertices_m, joints_m=joints_m,
        joint_visibility=np.ones(14, np.float32), joints_px=joints_px.astype(np.float32), camera=np.ones(3, np.float32),
        translation_m=place_m.astype(np.float32), raw_joints_m=joints_m, rotmats=rotmats, shape=shape,
    )  # fmt: skip


def scenes() -> list[Scene]:
    """Two people whose shapes come nearer to what they are in the end."""
    found = []
    for index in range(NUM_FRAMES):
        meshes = []
        for person in PEOPLE:
            rotmats, shape = person["bone_rotmats"][index].astype(np.float32), person["phenotype"][index].copy()
            shape[4] += 0.3 * (1 - index / (NUM_FRAMES - 1))
            meshes.append(mesh_of(int(person["track_id"][0]), rotmats, shape, person["translation_m"][index]))
        found.append(Scene(Frame(np.zeros((480, 640, 3), np.uint8), index / 25, index), CAMERA, tuple(meshes)))
    return found


def recording_in(folder: Path, posing: bool) -> Recording:
    settle = Settling(BODY, PARAMETERS, posing)
    return Recording(folder, BODY.faces, body_joint_weights(BODY), "anny", (640, 480), 25.0, parameters=PARAMETERS, settle=settle)


def written(folder: Path, posing: bool) -> dict[str, np.ndarray]:
    with NpzSink(recording_in(folder, posing)) as sink:
        for scene in scenes():
            sink.write(scene)
    with np.load(sink.path) as file:
        return dict(file)


@pytest.mark.parametrize("chunk", [64, 5])
def test_everybody_has_their_last_shape_in_all_rows(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.export.npz.SETTLED_ROWS", chunk)
    rows = written(tmp_path, posing=True)
    before = [mesh for scene in scenes() for mesh in scene.meshes]
    last = {mesh.track_id: mesh.shape for mesh in before}
    np.testing.assert_array_equal(rows["phenotype"], [last[track_id] for track_id in rows["track_id"]])
    np.testing.assert_array_equal(rows["bone_rotmats"], [mesh.rotmats for mesh in before])
    np.testing.assert_allclose(rows["vertices_m"], posed(rows["bone_rotmats"], rows["phenotype"]), atol=1e-5)
    np.testing.assert_allclose(rows["joints_m"], np.stack([BODY.joint_regressor @ mesh for mesh in rows["vertices_m"]]), atol=5e-5)
    moved_m = np.linalg.norm(rows["vertices_m"] - [mesh.vertices_m for mesh in before], axis=2).max(axis=1)
    assert moved_m[0] > 0.02
    assert moved_m[-2:].max() < 1e-6, "the last rows have been right"


def test_they_stay_where_they_are_seen(tmp_path: Path) -> None:
    rows = written(tmp_path, posing=True)
    before = [mesh for scene in scenes() for mesh in scene.meshes]
    away_px = np.linalg.norm(rows["joints_px"] - [mesh.joints_px for mesh in before], axis=2)
    assert away_px.mean() < 2.0
    for joints_m, place_m, joints_px in zip(rows["joints_m"], rows["translation_m"], rows["joints_px"], strict=True):
        np.testing.assert_allclose(project_pinhole(joints_m + place_m, CAMERA.focal_px, CAMERA.principal_px), joints_px, atol=0.01)


def test_rows_are_kept_where_settling_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no room to write in place")

    monkeypatch.setattr(Settling, "__call__", full)
    with NpzSink(recording_in(tmp_path, posing=True)) as sink:
        for scene in scenes():
            sink.write(scene)
    assert len(sink.warnings) == 1 and "no room to write in place" in sink.warnings[0]
    with np.load(sink.path) as rows:
        before = [mesh for scene in scenes() for mesh in scene.meshes]
        np.testing.assert_array_equal(rows["vertices_m"], [mesh.vertices_m for mesh in before])
        np.testing.assert_array_equal(rows["phenotype"], [mesh.shape for mesh in before])


def test_the_networks_own_meshes_stay(tmp_path: Path) -> None:
    rows = written(tmp_path, posing=False)
    before = [mesh for scene in scenes() for mesh in scene.meshes]
    assert all(np.ptp(rows["phenotype"][rows["track_id"] == track_id], axis=0).max() == 0 for track_id in (3, 7))
    for name in ("vertices_m", "joints_m", "joints_px", "translation_m"):
        np.testing.assert_array_equal(rows[name], [getattr(mesh, name) for mesh in before])
