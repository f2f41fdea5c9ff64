import json
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest
import torch

from app.config import MOTION_FORMATS, LiveConfig, idle_flags, motion_formats
from app.export.fbx import write_people as write_fbx
from app.export.motions import FORMATS
from app.jobs import Engine, process_video
from app.placing import Finisher, Placement, seen_people
from app.shapes import ENOUGH, MAX_TRACKS, TrackShapes
from app.types import Frame, SmoothedMesh
from core.bodies import load_body
from core.bodies.anny import AVERAGE_ADULT
from core.geometry import weak_to_frame_px
from core.training.poses import FAMILIES, PoseSampler
from core.types import MeshEstimate, PersonCrop
from tests.app.fakes import RectangleDetector
from tests.app.gltf_player import Played
from tests.app.media import write_video

BODY = load_body("anny")
CAMERA = np.array([0.9, 0.02, 0.03], np.float32)
AT_THE_EDGE = np.array([[1.5, 0.0, 700.0], [0.0, 1.5, 100.0]])
BOX = np.array([700, 100, 1036, 436], np.float32)


def estimate_of(rotmats: torch.Tensor, shape: torch.Tensor, rough_m: float = 0.0) -> MeshEstimate:
    """A network's answer: this body with errors that are alike for whole body parts."""
    vertices = BODY.vertices(rotmats[None], shape[None])
    noise = torch.randn(BODY.num_bones, 3, generator=torch.Generator().manual_seed(int(1e6 * float(rotmats.sum())) % 1000))
    vertices = vertices + rough_m * BODY.skinning @ noise
    mesh = (vertices - BODY.pelvis(vertices)[:, None])[0].numpy()
    joints_m = np.asarray(BODY.joint_regressor @ mesh, np.float32)
    joints_px = weak_to_frame_px(joints_m, CAMERA, AT_THE_EDGE).astype(np.float32)
    return MeshEstimate(mesh, joints_m, joints_px, CAMERA, AT_THE_EDGE)


def walk(num_frames: int, rough_m: float) -> list[tuple[Placement, MeshEstimate]]:
    """Two people who alternate between poses; their shapes are guessed anew in each frame."""
    rotmats = PoseSampler(BODY, 0).sample(num_frames, np.full(num_frames, FAMILIES.index("walking"))).rotmats
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for index in range(num_frames):
        frame = Frame(np.zeros((720, 1280, 3), np.uint8), index / 30, index)
        for track_id, age in ((4, 0.7), (9, 0.3)):
            shape = (AVERAGE_ADULT[0] + 0.06 * torch.randn(6, generator=generator)).clamp(0, 1)
            shape[1] = age
            pairs.append((Placement(frame, track_id, BOX, 0.9, None), estimate_of(rotmats[index], shape, rough_m)))
    return pairs


def placed(pairs: list[tuple[Placement, MeshEstimate]], **settings: object) -> list[SmoothedMesh]:
    """Everybody in the frame, not smoothed."""
    config = LiveConfig(smoothing="none", **settings)
    people = seen_people(pairs, BODY, config)
    return [mesh for _, mesh in Finisher(BODY, config)(people, [person.posture for person in people])]


def posed(rotmats: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """(B, V, 3) with the pelvis at 0, as anybody would pose Anny with what was written."""
    vertices = BODY.vertices(torch.from_numpy(rotmats), torch.from_numpy(shape))
    return (vertices - BODY.pelvis(vertices)[:, None]).numpy()


def test_the_mesh_is_what_the_parameters_pose() -> None:
    meshes = placed(walk(3, rough_m=0.03))
    again = posed(np.stack([mesh.rotmats for mesh in meshes]), np.stack([mesh.shape for mesh in meshes]))
    np.testing.assert_allclose(again, np.stack([mesh.vertices_m for mesh in meshes]), atol=1e-5)


def test_each_person_has_one_shape() -> None:
    meshes = placed(walk(6, rough_m=0.0))
    for track_id in (4, 9):
        shapes = np.stack([mesh.shape for mesh in meshes if mesh.track_id == track_id])
        assert np.ptp(shapes, axis=0).max() == 0
    adult, child = (next(mesh.shape for mesh in meshes if mesh.track_id == track_id) for track_id in (4, 9))
    assert adult[1] - child[1] > 0.2


def test_the_fitted_body_covers_the_free_one() -> None:
    """In the picture, though each person keeps one shape and stands at the edge of the frame."""
    pairs = walk(4, rough_m=0.02)
    free, own = placed(pairs, mesh="free"), placed(pairs)
    gaps_px = [np.linalg.norm(a.joints_px - b.joints_px, axis=1).mean() for a, b in zip(free, own, strict=True)]
    assert max(gaps_px) < 3  # of a person 280 pixels tall
    assert all(mesh.rotmats is None for mesh in free)
    assert not np.allclose(free[0].vertices_m, own[0].vertices_m, atol=1e-3)


def test_parameters_beside_the_free_mesh() -> None:
    pairs = walk(2, rough_m=0.02)
    free, both = placed(pairs, mesh="free"), placed(pairs, mesh="free", parametric=True)
    for plain, mesh in zip(free, both, strict=True):
        np.testing.assert_array_equal(plain.vertices_m, mesh.vertices_m)
        error_m = np.linalg.norm(posed(mesh.rotmats[None], mesh.shape[None])[0] - mesh.vertices_m, axis=1).mean()
        assert error_m < 0.05


class _Walker:
    """An estimator that sees somebody walk."""

    body = BODY

    def __init__(self) -> None:
        self.config = type("Config", (), {"parametric": False})
        self.device = self.precision = self.description = "none"
        self.warning = ""
        self._answers = iter([estimate for placement, estimate in walk(8, rough_m=0.02) if placement.track_id == 4])

    def crop(self, image: np.ndarray, box_px: np.ndarray, roll_rad: float = 0.0) -> PersonCrop:
        del image, box_px, roll_rad
        return PersonCrop(np.zeros((224, 224, 3), np.uint8), np.eye(2, 3) * 0.3)

    def from_crops(self, crops: list[PersonCrop]) -> list[MeshEstimate]:
        return [next(self._answers) for _ in crops]


def test_a_written_video_can_be_posed_again(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", (96, 64), [index / 30 for index in range(8)])
    process_video(clip, tmp_path / "out", Engine(_Walker(), RectangleDetector(), LiveConfig(parametric=True)))
    with np.load(tmp_path / "out" / "meshes.npz") as rows:
        assert rows["bone_names"].tolist() == list(BODY.bone_names)
        assert "start_from_camera" not in rows
        assert rows["phenotype_names"].tolist() == list(BODY.phenotype_names)
        again = posed(rows["bone_rotmats"], rows["phenotype"])
        assert np.linalg.norm(again - rows["vertices_m"], axis=2).max() < 1e-4
        assert len(again) == 8
        np.testing.assert_allclose(BODY.joint_regressor @ rows["vertices_m"][5], rows["joints_m"][5], atol=1e-5)


@pytest.mark.parametrize(("mesh", "rigged"), [("auto", True), ("free", False)])
def test_people_glb_has_skeletons_where_bodies_are_fitted(mesh: str, rigged: bool, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", (96, 64), [index / 30 for index in range(8)])
    process_video(clip, tmp_path / "out", Engine(_Walker(), RectangleDetector(), LiveConfig(glb=True, mesh=mesh, show_hidden=True)))
    with np.load(tmp_path / "out" / "meshes.npz") as rows:
        assert ("bone_rotmats" in rows) == rigged
        assert rows["start_from_camera"].shape == (8, 3, 3)
        assert (rows["view"] == 0).all()
    assert bool(Played(tmp_path / "out" / "people.glb").tree.get("skins")) == rigged


def test_each_persons_motion_in_the_same_run(tmp_path: Path) -> None:
    clip, folder = write_video(tmp_path / "clip.mp4", (96, 64), [index / 30 for index in range(8)]), tmp_path / "out"

    def run(*formats: str, **settings: object) -> list[str]:
        said = process_video(clip, folder, Engine(_Walker(), RectangleDetector(), LiveConfig(motion=formats, overlay=False, **settings)))
        assert all(f"person-*.{name}" in said for name in formats)
        return sorted(path.name for path in folder.glob("person-*"))

    (folder / "person-9.fbx").parent.mkdir()
    (folder / "person-9.fbx").touch()
    assert run(*MOTION_FORMATS) == ["person-1.bvh", "person-1.fbx", "person-1.vrma"]
    with np.load(folder / "meshes.npz") as rows:
        assert rows["start_from_camera"].shape == (8, 3, 3)
    content = (folder / "person-1.fbx").read_bytes()
    assert "already done" in process_video(clip, folder, Engine(_Walker(), RectangleDetector(), LiveConfig(motion=("fbx",), overlay=False)))
    assert run("fbx", overwrite=True) == ["person-1.fbx"]
    assert (folder / "person-1.fbx").read_bytes() == content == write_fbx(folder / "meshes.npz", tmp_path / "later")[0].read_bytes()
    assert run("fbx", overwrite=True, mesh="free") == []
    (warning,) = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["warnings"]
    assert warning.startswith("no person-*.fbx: ")
    assert "without --mesh free" in warning


def test_formats_of_motion() -> None:
    assert tuple(FORMATS) == MOTION_FORMATS
    assert motion_formats("vrma,BVH,bvh") == ("bvh", "vrma")
    for bad in ("", "fbx,", "obj", "fbx bvh"):
        with pytest.raises(ArgumentTypeError, match=f"got '{bad}', expected one or more of bvh, fbx, vrma"):
            motion_formats(bad)
    assert idle_flags("webcam", LiveConfig(motion=("fbx",))) == ["--motion"]


def test_a_mean_shape_ignores_a_frame_that_went_wrong() -> None:
    shapes, deviation = TrackShapes(), np.full(3, 0.2)
    random = np.random.default_rng(0)
    for number in range(200):
        sample = np.array([5.0, -5.0, 5.0]) if number % 20 == 7 else np.array([0.5, 0.3, 0.7]) + random.normal(0, 0.05, 3)
        shapes.add(1, sample, 1.0, deviation)
    np.testing.assert_allclose(shapes.of(1), [0.5, 0.3, 0.7], atol=0.03)


def test_unsure_samples_count_less() -> None:
    shapes, deviation = TrackShapes(), np.ones(1)
    for value, weight in ((0.0, 1.0), (0.5, 0.1)):
        shapes.add(1, np.array([value]), weight, deviation)
    assert shapes.of(1)[0] == pytest.approx(0.5 / 11, rel=1e-3)


def test_shapes_are_learned_often_at_first() -> None:
    shapes = TrackShapes()
    wanted = []
    for number in range(1, 21):
        if shapes.wants(1):
            wanted.append(number)
            shapes.add(1, np.zeros(2), 1.0, np.ones(2))
    assert wanted == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20]
    with pytest.raises(KeyError):
        shapes.of(2)
    for _ in range(9):
        assert shapes.wants(2)  # nothing is known of this one yet
    with pytest.raises(KeyError):
        shapes.of(2)


def test_a_shape_that_is_known_well_stays() -> None:
    shapes = TrackShapes()
    taken = 0
    for _ in range(10 * round(ENOUGH)):
        if shapes.wants(1):
            shapes.add(1, np.zeros(2), 1.0, np.ones(2))
            taken += 1
    assert taken == ENOUGH


def test_shapes_of_long_gone_people_are_forgotten() -> None:
    shapes = TrackShapes()
    for track_id in range(MAX_TRACKS + 10):
        shapes.add(track_id, np.zeros(2), 1.0, np.ones(2))
        shapes.add(0, np.zeros(2), 1.0, np.ones(2))  # somebody who stays
    shapes.forget_old(num_present=MAX_TRACKS + 5)
    assert len(shapes) == MAX_TRACKS + 5
    shapes.forget_old(num_present=2)
    assert len(shapes) == MAX_TRACKS
    shapes.of(0)
    with pytest.raises(KeyError):
        shapes.of(1)


def test_a_crowd_larger_than_the_memory_is_fitted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.shapes.MAX_TRACKS", 1)
    meshes = placed(walk(2, rough_m=0.0))
    assert [mesh.track_id for mesh in meshes] == [4, 9, 4, 9]
    for track_id in (4, 9):
        shapes = np.stack([mesh.shape for mesh in meshes if mesh.track_id == track_id])
        assert np.ptp(shapes, axis=0).max() == 0
