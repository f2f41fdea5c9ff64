"""The app on the SMPL body and with body parameters: an invented official checkpoint through the real pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import app.detect
from app.config import LiveConfig
from app.jobs import Engine, process_video
from app.placing import in_frame
from app.types import Intrinsics
from core import load_estimator
from core.bodies import load_body
from core.checkpoint import save_checkpoint
from core.model import FastMETRO, build_model
from core.types import MeshEstimate
from tests.app.fakes import RectangleDetector
from tests.app.launching import outcome
from tests.app.media import write_video
from tests.core.test_official import official_state
from tests.smpl_files import NUM_VERTICES, write_mesh_files


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FastMETRO:
    """An official network with parameter regressor and random weights, at about the size of a person."""
    folder = tmp_path_factory.mktemp("mesh")
    write_mesh_files(folder)
    torch.manual_seed(0)
    model = build_model("fastmetro-s-r50", body="smpl", mesh_dir=folder, release="released", parametric=True).eval()
    with torch.no_grad():
        model.xyz_regressor.weight *= 0.1
    return model


@pytest.fixture
def smpl_folder(tmp_path: Path, model: FastMETRO) -> Path:
    """Mesh files and the network's state dict."""
    write_mesh_files(tmp_path)
    torch.save(official_state(model), tmp_path / "state_dict.bin")
    return tmp_path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Eight frames with a bright quarter, which the fake detector takes for somebody."""
    return write_video(tmp_path / "clip.mp4", (96, 64), [index / 30 for index in range(8)])


@pytest.fixture
def bright_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program finds bright rectangles."""
    monkeypatch.setitem(app.detect.DETECTORS._entries, "nanodet", lambda *_: RectangleDetector())


@pytest.mark.usefixtures("bright_person")
def test_official_weights_run_through_the_whole_program(smpl_folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--checkpoint", smpl_folder / "state_dict.bin", "--mesh-dir", smpl_folder, "--parametric", "--body", "smpl", "--device", "cpu")
    code, out, _ = outcome(capsys, "--video", clip, "--out", smpl_folder / "out", *flags)
    assert code == 0
    assert "8 frames, 1 person" in out
    with np.load(smpl_folder / "out" / "clip" / "meshes.npz") as rows:
        assert str(rows["body"]) == "smpl"
        assert rows["vertices_m"].shape == (8, NUM_VERTICES, 3)
        assert rows["faces"].shape == (13776, 3)
        assert (rows["rotmats"].shape, rows["betas"].shape) == ((8, 24, 3, 3), (8, 10))
        np.testing.assert_allclose(rows["rotmats"] @ rows["rotmats"].swapaxes(2, 3), np.tile(np.eye(3), (8, 24, 1, 1)), atol=1e-4)
        regressor = load_body("smpl", smpl_folder).joint_regressor
        np.testing.assert_allclose(regressor @ rows["vertices_m"][3], rows["joints_m"][3], atol=1e-5)


@pytest.mark.usefixtures("bright_person")
def test_without_faces_skeletons_are_drawn_and_told(smpl_folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mesh_files(smpl_folder, with_mesh=False)
    code, _, _ = outcome(
        capsys, "--video", clip, "--out", smpl_folder / "out", "--checkpoint", smpl_folder / "state_dict.bin", "--mesh-dir", smpl_folder
    )
    assert code == 0
    summary = json.loads((smpl_folder / "out" / "clip" / "summary.json").read_text())
    assert any("skeletons are drawn" in warning for warning in summary["warnings"])
    with np.load(smpl_folder / "out" / "clip" / "meshes.npz") as rows:
        assert rows["faces"].shape == (0, 3)
        assert rows["joints_m"].shape == (8, 14, 3)
        assert "rotmats" not in rows.files
    assert (smpl_folder / "out" / "clip" / "overlay.mp4").stat().st_size > 1000


@pytest.mark.parametrize(("flags", "said"), [
    (("--body", "smpl"), "is for anny"),
    (("--mesh-dir", "somewhere"), "'anny' ships with its files"),
])  # fmt: skip
def test_flags_that_do_not_fit_the_checkpoint_are_one_line(
    capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    code, _, err = outcome(capsys, "--video", clip, "--out", tmp_path / "out", *flags)
    lines = [line for line in err.splitlines() if line.startswith("launch.py:")]
    assert code == 1
    assert len(lines) == 1
    assert said in lines[0]


def test_missing_mesh_files_are_one_line_that_says_what_to_get(capsys: pytest.CaptureFixture[str], smpl_folder: Path, clip: Path) -> None:
    (smpl_folder / "mesh_downsampling.npz").unlink()
    code, _, err = outcome(
        capsys, "--video", clip, "--out", smpl_folder / "out", "--checkpoint", smpl_folder / "state_dict.bin", "--mesh-dir", smpl_folder
    )
    assert code == 1
    assert "https://github.com/postech-ami/FastMETRO" in err.splitlines()[-1]


def test_annys_parameters_are_written_with_their_names(tmp_path: Path, clip: Path) -> None:
    torch.manual_seed(0)
    model = build_model("fastmetro-xs-blazepose", parametric=True)
    save_checkpoint(tmp_path / "a.safetensors", model, model.config)
    engine = Engine(load_estimator(tmp_path / "a.safetensors", device="cpu"), RectangleDetector(), LiveConfig(parametric=True))
    process_video(clip, tmp_path / "out", engine)
    with np.load(tmp_path / "out" / "meshes.npz") as rows:
        assert rows["bone_rotmats"].shape == (8, 104, 3, 3)
        assert rows["phenotype"].shape == (8, 6)
        assert rows["bone_names"].shape == (104,)
        assert rows["phenotype_names"].tolist() == ["gender", "age", "muscle", "weight", "height", "proportions"]


def test_the_roots_rotation_turns_with_the_mesh() -> None:
    """Posing with the written rotations gives the written mesh, wherever the person stands in the picture."""
    body = load_body("anny")
    rotmats = torch.eye(3).repeat(1, 104, 1, 1)
    rotmats[0, 0] = torch.from_numpy(Rotation.from_euler("y", 40, degrees=True).as_matrix())
    shape = torch.tensor([[0.5, 0.67, 0.5, 0.5, 0.5, 0.5]])
    posed = body.vertices(rotmats, shape)
    vertices = (posed - body.pelvis(posed)[:, None])[0].numpy()
    joints = np.asarray(body.joint_regressor @ vertices, np.float32)
    at_the_edge = np.array([[1.0, 0.0, 900.0], [0.0, 1.0, 100.0]])
    camera, joints_px = np.array([0.9, 0, 0], np.float32), np.zeros((14, 2), np.float32)
    estimate = MeshEstimate(vertices, joints, joints_px, camera, at_the_edge, rotmats[0].numpy(), shape[0].numpy())
    posture, _ = in_frame(estimate, Intrinsics(1000.0, (512.0, 384.0)), parametric=True)
    again = body.vertices(torch.from_numpy(posture.rotmats)[None], torch.from_numpy(posture.shape)[None])
    np.testing.assert_allclose((again - body.pelvis(again)[:, None])[0].numpy(), posture.vertices_m, atol=1e-4)
    assert np.abs(posture.vertices_m - vertices).max() > 0.05
    assert in_frame(estimate, Intrinsics(1000.0, (512.0, 384.0)))[0].rotmats is None
