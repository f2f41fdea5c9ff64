"""FBX files, played by a reader that knows nothing of how they are written, against people.glb of the same people."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from app.colors import track_color
from app.export.angles import continuous_angles
from app.export.bones import NAMES
from app.export.fbx import main, write_people
from app.export.fbx_binary import Node, to_bytes
from app.export.glb import write_glb
from core.joints import JOINT_NAMES
from tests.app.fbx_reader import TICKS_PER_S, PlayedFbx
from tests.app.gltf_player import Played
from tests.app.test_bvh import BODY, FIRST, FPS, NUM_FRAMES, PEOPLE, columns_of, write_npz

KNEES_DOWN = [JOINT_NAMES.index(f"{side}_{name}") for side in "LR" for name in ("Knee", "Ankle")]


def test_every_frame_is_that_of_people_glb(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "meshes.npz", PEOPLE)
    write_glb(path, tmp_path / "people.glb")
    played, files = Played(tmp_path / "people.glb"), write_people(path)
    assert [file.name for file in files] == ["person-3.fbx", "person-7.fbx"]
    nodes = played.tree["nodes"]
    for skin, (track_id, file) in enumerate(zip((3, 7), files, strict=True)):
        read = PlayedFbx(file)
        joints = {nodes[joint]["name"]: joint for joint in played.tree["skins"][skin]["joints"]}
        assert read.bones.keys() == joints.keys()
        for frame in range(FIRST, FIRST + NUM_FRAMES, 3):
            for name, bone in read.bones.items():
                np.testing.assert_allclose(read.world(bone, frame / FPS), played.world(joints[name], frame / FPS), atol=1e-5)
            np.testing.assert_allclose(read.skinned(frame / FPS), played.skinned(frame / FPS)[f"body {track_id}"], atol=1e-4)


def test_it_is_what_programs_expect_of_a_character(tmp_path: Path) -> None:
    """Names, units, axes, rate, and a rest that stands on the floor."""
    read = PlayedFbx(write_people(write_npz(tmp_path / "meshes.npz", PEOPLE[:1]))[0])
    settings = {name: values[0] for name, values in read.settings.items() if values}
    assert (settings["UnitScaleFactor"], settings["TimeMode"], settings["CustomFrameRate"]) == (1, 14, FPS)
    assert (settings["UpAxis"], settings["FrontAxis"], settings["CoordAxis"]) == (1, 2, 0)
    assert read.bones.keys() >= set(NAMES.values())
    assert len(set(read.names.values())) == len(read.names)
    counts = {row.values[0]: row.one("Count").values[0] for row in read.root.one("Definitions").all("ObjectType")}
    assert counts == {"GlobalSettings": 1, **Counter(record.name for record in read.objects.values())}
    (stack,) = read.of_kind("AnimationStack")
    assert stack.properties["LocalStart"] == [0]
    end = stack.properties["LocalStop"][0]
    assert end == pytest.approx((FIRST + NUM_FRAMES - 1) / FPS * TICKS_PER_S, abs=1)
    mesh_m = read.skinned(None)
    np.testing.assert_allclose(mesh_m, read.points_m, atol=1e-6)
    assert mesh_m[:, 1].min() == pytest.approx(0, abs=1e-6)
    at_rest = {name: read.world(bone, None) for name, bone in read.bones.items()}
    np.testing.assert_allclose(at_rest["Hips"][[0, 2], 3], 0, atol=1e-6)
    assert at_rest["LeftArm"][0, 3] > 0.1 > -0.1 > at_rest["RightArm"][0, 3], "faces z"
    (pose,) = read.of_kind("Pose", "BindPose")
    rows = pose.all("PoseNode")
    assert len(rows) == pose.one("NbPoseNodes").values[0] == len(read.names)
    for row in rows:
        model, matrix = row.one("Node").values[0], row.one("Matrix").values[0].reshape(4, 4).T.copy()
        matrix[:3, 3] /= 100
        np.testing.assert_allclose(matrix, read.world(model, None), atol=1e-6)
    (material,) = read.of_kind("Material")
    np.testing.assert_allclose(material.properties["DiffuseColor"], np.array(track_color(3)) / 255)
    np.testing.assert_array_equal(read.faces, BODY.faces)
    normals = read.mesh.one("LayerElementNormal").one("Normals").values[0].reshape(-1, 3)
    across = np.cross(*(mesh_m[read.faces[:, corner]] - mesh_m[read.faces[:, 0]] for corner in (1, 2)))
    assert np.mean((across * normals[read.faces[:, 0]]).sum(axis=1) > 0) > 0.95


def test_keys_are_on_frames_and_nobody_moves_who_is_not_there(tmp_path: Path) -> None:
    """Times of containers are rounded to milliseconds. A long gap is waited out."""
    fps, kept = 30000 / 1001, np.array([2, 3, 5, 6, 11])
    person = columns_of(PEOPLE[0], kept)
    person["time_s"] = np.round(person["frame_index"] / fps, 3)
    read = PlayedFbx(*write_people(write_npz(tmp_path / "meshes.npz", [person], fps=fps)))
    frames = read.key_times_s("LeftLeg") * fps
    jumps = np.abs(frames - np.round(frames)) > 1e-6
    assert np.round(frames[~jumps]).tolist() == person["frame_index"].tolist()
    assert jumps.sum() == 1, "the key that ends the wait"

    def at(frame: float) -> np.ndarray:
        return read.world(read.bones["LeftFoot"], frame / fps)[:3, 3]

    np.testing.assert_allclose(at(0), at(FIRST + 2), atol=1e-9)
    np.testing.assert_allclose(at(999), at(FIRST + 11), atol=1e-9)
    np.testing.assert_allclose(at(FIRST + 10), at(FIRST + 6), atol=1e-9)
    assert np.linalg.norm(at(FIRST + 11) - at(FIRST + 6)) > 0.1


def test_what_is_never_seen_is_cut(tmp_path: Path) -> None:
    visibility = np.ones((NUM_FRAMES, len(JOINT_NAMES)))
    visibility[:, KNEES_DOWN] = 0
    whole, cut, hidden = (
        PlayedFbx(write_people(write_npz(tmp_path / "meshes.npz", PEOPLE[:1], joint_visibility=values), tmp_path / str(number))[0])
        for number, values in enumerate((np.ones_like(visibility), visibility, np.zeros_like(visibility)))
    )
    assert len(cut.faces) < 0.9 * len(whole.faces)
    assert np.unique(cut.faces).tolist() == list(range(len(cut.points_m))), "no vertex that nothing shows"
    assert cut.points_m[:, 1].min() == pytest.approx(0, abs=1e-6)
    assert cut.world(cut.bones["LeftFoot"], None)[1, 3] < 0, "the skeleton is whole"
    assert len(hidden.faces) == len(whole.faces)


def test_angles_run_on_where_others_jump() -> None:
    """Past the pole of the three angles, and more than once around."""
    over = np.linspace(1, 721, 145)
    rotmats = Rotation.from_euler("xyz", np.stack([np.full_like(over, 30), over, over / 9], 1), degrees=True).as_matrix()
    angles = continuous_angles(rotmats[:, None], "xyz")[:, 0]
    np.testing.assert_allclose(Rotation.from_euler("xyz", angles, degrees=True).as_matrix(), rotmats, atol=1e-9)
    plain = np.unwrap(Rotation.from_matrix(rotmats).as_euler("xyz", degrees=True), period=360, axis=0)
    assert np.abs(np.diff(plain, axis=0)).max() > 150
    assert np.abs(np.diff(angles, axis=0)).max() < 6


def test_lists_that_autodesk_wants_ended_are_ended() -> None:
    """Its SDK sees no animation in a file whose layer has no end of a list, though nothing is in it; others do not mind."""
    layer = Node("AnimationLayer", [np.int64(5), "base\0\1AnimLayer", ""])
    data = to_bytes([Node("Objects", [], [layer])])
    end = data.index(b"AnimationLayer") + len("AnimationLayer") + 9 + 5 + len("base\0\1AnimLayer") + 5
    assert data[end : end + 13] == bytes(13)


def test_values_that_fbx_does_not_have_are_refused() -> None:
    for value in (np.uint8(3), np.zeros(3, np.uint16), 1j):
        with pytest.raises(TypeError, match="FBX"):
            to_bytes([Node("P", [value])])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_npz(tmp_path / "meshes.npz", PEOPLE)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "out" / f"person-{number}.fbx") for number in (3, 7)]
    assert main([str(tmp_path / "none.npz")]) == 1
    assert "none.npz" in capsys.readouterr().err
