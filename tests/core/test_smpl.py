import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.bodies import body_from_tensors, load_body
from core.bodies.smpl import SmplBody
from core.bodies.smpl_files import H36M_JOINTS, find_model_file, read_mesh_file, read_model_file
from core.errors import InputError
from core.geometry import rotmats_from_rotvecs
from core.joints import JOINT_NAMES
from core.model import build_model
from tests.smpl_files import NUM_FACES, NUM_VERTICES, egg, nested_ids, smpl_data, write_mesh_files, write_smpl

NAMES = ("basicModel_neutral_lbs_10_207_0_v1.0.0.pkl", "basicmodel_m_lbs_10_207_0_v1.1.0.pkl", "SMPL_NEUTRAL.pkl", "smpl_female.npz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mesh files and an SMPL model."""
    folder = tmp_path_factory.mktemp("smpl")
    write_mesh_files(folder)
    write_smpl(folder)
    return folder


@pytest.fixture(scope="module")
def body(folder: Path) -> SmplBody:
    return load_body("smpl", folder)


def test_an_npz_of_objects_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "SMPL_NEUTRAL.npz", **smpl_data())  # keeps the sparse regressor as a 0-d array of objects
    model = read_model_file(tmp_path / "SMPL_NEUTRAL.npz")
    np.testing.assert_allclose(model.joint_regressor.toarray(), smpl_data()["J_regressor"].toarray())


@pytest.mark.parametrize("name", NAMES)
def test_smpl_files_of_every_name_and_age_are_read(tmp_path: Path, name: str) -> None:
    path = write_smpl(tmp_path, name)
    assert find_model_file(tmp_path) == path
    model, truth = read_model_file(path), smpl_data()
    np.testing.assert_array_equal(model.template_m, truth["v_template"])
    np.testing.assert_array_equal(model.shape_dirs, truth["shapedirs"])
    np.testing.assert_array_equal(model.pose_dirs, truth["posedirs"])
    np.testing.assert_array_equal(model.faces, truth["f"])
    np.testing.assert_allclose(model.joint_regressor.toarray(), truth["J_regressor"].toarray())
    assert model.parents.tolist()[:4] == [-1, 0, 0, 0]
    assert name in model.description


def test_the_description_tells_gender_and_version(tmp_path: Path) -> None:
    described = [read_model_file(write_smpl(tmp_path, name)).description for name in NAMES]
    assert [text.partition("(")[2] for text in described] == [
        "neutral, version 1.0.0)", "male, version 1.1.0)", "neutral, its name states no version)", "female, its name states no version)",
    ]  # fmt: skip


def test_the_neutral_model_comes_first(tmp_path: Path) -> None:
    for name in ("SMPL_MALE.pkl", "SMPL_NEUTRAL.pkl", "basicmodel_f_lbs_10_207_0_v1.1.0.pkl"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "smpl_mean_params.npz").write_bytes(b"")  # lies in most folders of SMPL models, and is none
    (tmp_path / "SMPL_.pkl").write_bytes(b"")
    assert find_model_file(tmp_path).name == "SMPL_NEUTRAL.pkl"
    assert find_model_file(tmp_path / "nowhere") is None


def test_levels_are_those_of_the_mesh_file(folder: Path, body: SmplBody) -> None:
    middle, coarse = nested_ids()
    assert body.levels.sizes == (431, 1723, NUM_VERTICES)
    np.testing.assert_array_equal(body.levels.intermediate_ids, middle)
    np.testing.assert_array_equal(body.levels.coarse_ids, middle[coarse])
    mesh = read_mesh_file(folder / "mesh_downsampling.npz")
    assert body.levels.coarse_adjacency.diagonal().all()
    np.testing.assert_array_equal(body.levels.coarse_adjacency, mesh.adjacency)
    np.testing.assert_allclose(body.levels.template_m, egg()[0] * [1, -1, -1], atol=1e-6)
    assert body.faces.shape == (NUM_FACES, 3)


def test_the_official_mesh_file_gives_the_official_mask(shared: Path) -> None:
    levels = load_body("smpl", shared / "official").levels
    pairs = torch.load(shared / "official" / "smpl_431_adjmat_indices.pt", weights_only=True)
    adjacency = np.zeros((431, 431), bool)
    adjacency[pairs[0], pairs[1]] = True
    np.testing.assert_array_equal(levels.coarse_adjacency, adjacency)
    np.testing.assert_array_equal(levels.intermediate_faces, np.load(shared / "official" / "smpl_1723_faces.npy"))
    assert [int((np.diff(matrix.indptr) == 3).all()) for matrix in levels.upsample] == [1, 1]
    rebuilt = levels.upsample[1] @ levels.template_m[levels.intermediate_ids]
    assert np.abs(rebuilt - levels.template_m).max() < 0.01


def test_joints_are_human36ms(folder: Path, body: SmplBody) -> None:
    vertices = torch.randn(2, NUM_VERTICES, 3)
    rows = np.load(folder / "J_regressor_h36m_correct.npy")
    joints, pelvis = body.joints(vertices), body.pelvis(vertices)
    for person in range(2):
        for number, name in enumerate(JOINT_NAMES):
            expected = rows[H36M_JOINTS.index(name)] @ vertices[person].numpy()
            np.testing.assert_allclose(joints[person, number], expected, atol=1e-5)
        np.testing.assert_allclose(pelvis[person], rows[0] @ vertices[person].numpy(), atol=1e-5)


def test_posing_is_smplx_own(folder: Path, body: SmplBody, tmp_path: Path) -> None:
    smplx = pytest.importorskip("smplx")
    torch.manual_seed(0)
    rotvecs, betas = 0.4 * torch.randn(2, 24, 3), torch.randn(2, 10)
    plain = tmp_path / "SMPL_NEUTRAL.pkl"
    plain.write_bytes(pickle.dumps(smpl_data()))
    theirs = smplx.SMPL(str(plain), batch_size=2)
    expected = theirs(betas=betas, global_orient=rotvecs[:, 0], body_pose=rotvecs[:, 1:].flatten(1)).vertices
    torch.testing.assert_close(body.vertices(rotmats_from_rotvecs(rotvecs), betas), expected, atol=1e-5, rtol=0)


def test_at_rest_it_is_the_template_in_smpls_axes(body: SmplBody) -> None:
    vertices = body.vertices(torch.eye(3).expand(1, 24, 3, 3), torch.zeros(1, 10))[0]
    np.testing.assert_allclose(vertices.numpy() * [1, -1, -1], body.levels.template_m, atol=1e-5)


def test_without_an_smpl_model_faces_come_from_the_mesh_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_mesh_files(tmp_path)
    body = load_body("smpl", tmp_path)
    assert body.faces.shape == (NUM_FACES, 3)
    assert "no SMPL model" in caplog.text
    assert "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl from https://smplify.is.tue.mpg.de" in caplog.text
    with pytest.raises(InputError, match=r"posing needs an SMPL model, basicModel_neutral.*smplify"):
        body.vertices(torch.eye(3).expand(1, 24, 3, 3), torch.zeros(1, 10))


def test_without_any_faces_it_still_has_joints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_mesh_files(tmp_path, with_mesh=False)
    body = load_body("smpl", tmp_path)
    assert body.faces.shape == (0, 3)
    assert body.levels.template_m is None
    assert "no faces to draw" in caplog.text
    assert body.joints(torch.randn(1, NUM_VERTICES, 3)).shape == (1, 14, 3)
    with pytest.raises(InputError, match="rest mesh"):
        build_model("fastmetro-s-r50/baseline", body="smpl", mesh_dir=tmp_path)


def test_without_a_joint_regressor_it_says_which_file(tmp_path: Path) -> None:
    write_mesh_files(tmp_path)
    (tmp_path / "J_regressor_h36m_correct.npy").unlink()
    with pytest.raises(InputError, match=r"J_regressor_h36m_correct\.npy from https://github.com/postech-ami"):
        _ = load_body("smpl", tmp_path).joint_regressor


def test_with_an_smpl_model_alone_levels_are_our_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_smpl(tmp_path)
    body = load_body("smpl", tmp_path)
    assert body.levels.sizes == (431, 1723, NUM_VERTICES)
    assert "mesh levels are computed" in caplog.text
    assert "do not compare with published ones" in caplog.text
    coarse_m = body.levels.template_m[body.levels.coarse_ids]
    rebuilt = body.levels.upsample[1] @ (body.levels.upsample[0] @ coarse_m)
    assert np.linalg.norm(rebuilt - body.levels.template_m, axis=1).mean() < 0.02
    assert body.joint_regressor.shape == (14, NUM_VERTICES)
    save_file(body.tensors(), tmp_path / "body.safetensors")
    kept = SmplBody.from_tensors(load_file(tmp_path / "body.safetensors"), "a file")  # as in a checkpoint of one's own training
    np.testing.assert_array_equal(kept.levels.coarse_ids, body.levels.coarse_ids)
    np.testing.assert_array_equal(kept.levels.coarse_adjacency, body.levels.coarse_adjacency)


def test_an_empty_folder_says_what_to_get_and_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mesh_downsampling\.npz: not found.*https://github.com/postech-ami/FastMETRO") as caught:
        load_body("smpl", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["mesh_downsampling.npz", "J_regressor_h36m_correct.npy", NAMES[0]])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_damaged_files_are_one_line(folder: Path, tmp_path: Path, file: str, share: float) -> None:
    for name in ("mesh_downsampling.npz", "J_regressor_h36m_correct.npy", NAMES[0]):
        data = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(share * len(data))] if name == file else data)
    with pytest.raises(InputError, match=file.replace(".", r"\.")) as caught:
        SmplBody.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_topology_is_refused(tmp_path: Path) -> None:
    write_mesh_files(tmp_path)
    data = smpl_data()
    other = {**data, "v_template": data["v_template"][:-1]}
    (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps(other))
    with pytest.raises(InputError, match=r"template_m of shape \(6889, 3\), expected \(6890, 3\)"):
        SmplBody.from_folder(tmp_path)
    (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps({"v_template": 1}))
    with pytest.raises(InputError, match="no SMPL model, it lacks J_regressor"):
        SmplBody.from_folder(tmp_path)
    (tmp_path / "SMPL_NEUTRAL.pkl").unlink()
    np.save(tmp_path / "J_regressor_h36m_correct.npy", np.ones((17, 778), np.float32))
    with pytest.raises(InputError, match=r"shape \(17, 778\)"):
        SmplBody.from_folder(tmp_path)


@pytest.mark.parametrize(("change", "said"), [
    ({"v_template": np.full((6890, 3), np.nan)}, "template_m holds 20670 values that are no numbers"),
    ({"f": np.full((13776, 3), 6890, np.uint32)}, "vertices below 6890"),
    ({"kintree_table": np.array([[2**32 - 1, 5, *[0] * 22], range(24)], np.uint32)}, "a bone that comes before its parent"),
    ({"weights": smpl_data}, "asks for"),
    ({"shapedirs": np.zeros((6890, 3, 10), complex)}, "real numbers"),
])  # fmt: skip
def test_values_that_cannot_be_are_refused(tmp_path: Path, change: dict, said: str) -> None:
    (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps({**smpl_data(), **change}))
    with pytest.raises(InputError, match=said) as caught:
        read_model_file(tmp_path / "SMPL_NEUTRAL.pkl")
    assert "\n" not in str(caught.value)


def test_a_mesh_file_of_hands_is_refused(tmp_path: Path) -> None:
    from scipy import sparse

    from tests.smpl_files import objects

    hand = sparse.eye(778, format="csc")
    np.savez(tmp_path / "mesh_downsampling.npz", A=objects(hand, hand, hand), U=objects(hand, hand), D=objects(hand, hand))
    with pytest.raises(InputError, match=r"mesh_downsampling\.npz.*another topology"):
        read_mesh_file(tmp_path / "mesh_downsampling.npz")


def test_a_damaged_body_in_a_checkpoint_is_one_line(body: SmplBody) -> None:
    tensors = body.tensors()
    harms = {
        "regressor.indices": {name: tensor for name, tensor in tensors.items() if name != "regressor.indices"},
        "not whole": {**tensors, "upsample_full.indices": tensors["upsample_full.indices"] + 5000},
        "coarse_adjacency": {**tensors, "coarse_adjacency": torch.ones(3, 3, dtype=torch.uint8)},
    }
    for harmed in harms.values():
        with pytest.raises(InputError, match=r"a\.safetensors: the body in it is not whole") as caught:
            body_from_tensors("smpl", harmed, Path("a.safetensors"))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="only 'smpl' is kept"):
        body_from_tensors("anny", tensors, Path("a.safetensors"))


def test_an_smpl_model_beside_a_self_contained_checkpoint_is_used(tmp_path: Path) -> None:
    write_mesh_files(tmp_path, with_mesh=False)
    tensors = load_body("smpl", tmp_path).tensors()
    assert body_from_tensors("smpl", tensors, Path("a.safetensors")).faces.shape == (0, 3)
    write_smpl(tmp_path)
    body = body_from_tensors("smpl", tensors, Path("a.safetensors"), tmp_path)
    assert body.faces.shape == (NUM_FACES, 3)
    assert body.vertices(torch.eye(3).expand(1, 24, 3, 3), torch.zeros(1, 10)).shape == (1, NUM_VERTICES, 3)


def test_what_a_checkpoint_keeps_of_the_body_is_the_body(body: SmplBody) -> None:
    again = SmplBody.from_tensors(body.tensors(), "a file")
    vertices = torch.randn(1, NUM_VERTICES, 3)
    torch.testing.assert_close(again.joints(vertices), body.joints(vertices))
    np.testing.assert_array_equal(again.faces, body.faces)
    np.testing.assert_array_equal(again.levels.coarse_ids, body.levels.coarse_ids)
    for ours, theirs in zip(again.levels.upsample, body.levels.upsample, strict=True):
        assert (ours != theirs).nnz == 0
