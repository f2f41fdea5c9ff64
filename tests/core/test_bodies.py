import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.bodies import BODIES, load_body
from core.bodies.anny import AVERAGE_ADULT, AnnyBody
from core.bodies.storage import pack_levels, unpack_levels
from core.errors import InputError
from core.hierarchy import build_levels
from core.joints import JOINT_NAMES, indices
from core.mesh import blank_levels


@pytest.fixture(scope="module")
def body():
    return load_body("anny")


@pytest.fixture(scope="module")
def identity(body):
    return torch.eye(3).expand(1, len(body.bone_names), 3, 3)


def at(joints, *names):
    return joints[..., indices(names), :]


def test_unknown_body_lists_the_known_ones():
    with pytest.raises(InputError, match="anny"):
        BODIES["mannequin"]


def test_the_body_that_all_share_stays_where_it_is(body):
    moved = body.to("meta")
    assert {moved.skinning.device.type, moved.joints(torch.zeros(1, 13718, 3, device="meta")).device.type} == {"meta"}
    assert body.skinning.device.type == body.joints(torch.zeros(1, 13718, 3)).device.type == "cpu"


def test_sizes_and_names_are_those_of_anny(body):
    assert body.faces.shape == (27420, 3)
    assert body.levels.sizes == (431, 1723, 13718)
    assert len(body.bone_names) == 104
    assert body.phenotype_names == ("gender", "age", "muscle", "weight", "height", "proportions")


def test_an_adult_at_rest_stands_upright_and_faces_the_camera(body, identity):
    joints = body.joints(body.vertices(identity, AVERAGE_ADULT))[0]
    height = np.ptp(body.levels.template_m[:, 1])
    assert 1.55 < height < 1.85
    ankle, knee, hip, neck, head = (at(joints, name)[0, 1] for name in ("L_Ankle", "L_Knee", "L_Hip", "Neck", "Head"))
    assert ankle > knee > hip > neck > head  # y points down
    assert at(joints, "L_Shoulder")[0, 0] > 0.1 > -0.1 > at(joints, "R_Shoulder")[0, 0]  # its left is the picture's right
    toes = body.levels.template_m[body.levels.template_m[:, 1] > body.levels.template_m[:, 1].max() - 0.03, 2]
    assert toes.min() < -0.12 < 0.12 > toes.max()  # feet point to the camera


def test_template_is_the_average_adult_with_its_pelvis_at_zero(body, identity):
    vertices = body.vertices(identity, AVERAGE_ADULT)
    centred = vertices - body.pelvis(vertices)[:, None]
    np.testing.assert_allclose(centred[0].numpy(), body.levels.template_m, atol=1e-5)


def test_turning_the_root_turns_the_whole_body(body, identity):
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    pose = identity.clone()
    pose[:, 0] = turn
    rest, turned = body.vertices(identity, AVERAGE_ADULT), body.vertices(pose, AVERAGE_ADULT)
    torch.testing.assert_close(turned, rest @ turn.T, atol=1e-5, rtol=0)


def test_bending_one_elbow_moves_that_forearm_and_nothing_else(body, identity):
    pose = identity.clone()
    pose[:, body.bone_index("lowerarm01.R")] = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    moved = (body.joints(body.vertices(pose, AVERAGE_ADULT)) - body.joints(body.vertices(identity, AVERAGE_ADULT))).norm(dim=-1)[0]
    wrist = JOINT_NAMES.index("R_Wrist")
    assert moved[wrist] > 0.2
    others = [i for i, name in enumerate(JOINT_NAMES) if name not in ("R_Wrist", "R_Elbow")]
    assert moved[others].max() < 0.02


def test_shapes_do_what_their_names_say(body, identity):
    def size(**values):
        """Height, and depth of the belly, in metres."""
        shape = AVERAGE_ADULT.clone()
        for name, value in values.items():
            shape[0, body.phenotype_names.index(name)] = value
        x, y, z = body.vertices(identity, shape)[0].numpy().T
        return float(np.ptp(y)), float(np.ptp(z[(np.abs(x) < 0.1) & (np.abs(y) < 0.2)]))

    assert size(height=0.9)[0] > size(height=0.1)[0] + 0.15
    assert size(age=0.33)[0] < size()[0] - 0.3
    assert size(weight=1.0)[1] > size(weight=0.0)[1] + 0.02


def test_batch_equals_single(body):
    generator = torch.Generator().manual_seed(1)
    pose = torch.linalg.qr(torch.randn(3, len(body.bone_names), 3, 3, generator=generator))[0]
    shapes = body.shape_bank[:3]
    together = body.vertices(pose, shapes)
    apart = torch.cat([body.vertices(pose[i : i + 1], shapes[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_a_shape_that_comes_several_times_is_made_once(body, monkeypatch):
    made = []
    monkeypatch.setattr(body, "_rest", lambda shape: made.append(len(shape)) or AnnyBody._rest(body, shape))
    shape = body.shape_bank[[3, 1, 3, 3, 2, 1]]
    with torch.no_grad():
        body.rest(shape)[0].zero_()  # whoever asked may do as they like with it
        at_once = body.rest(shape.flip(0))
    assert made == [3], "in one call, nor for the next one"
    for row, single in enumerate(shape.flip(0)):
        for ours, alone in zip(at_once, AnnyBody._rest(body, single[None]), strict=True):
            torch.testing.assert_close(ours[row], alone[0], rtol=0, atol=1e-5)
    with torch.no_grad():
        body.rest(shape[:2])
    assert made == [3, 2], "others are made anew"
    shape.requires_grad_()
    body.rest(shape)[0].sum().backward()
    assert made[-1] == 6 and shape.grad.abs().sum() > 0


def test_levels_are_nested_and_reproduce_the_rest_mesh(body):
    levels = body.levels
    assert set(levels.coarse_ids) <= set(levels.intermediate_ids)
    intermediate = levels.upsample[0] @ levels.template_m[levels.coarse_ids]
    full = levels.upsample[1] @ intermediate
    np.testing.assert_allclose(intermediate[: len(levels.coarse_ids)], levels.template_m[levels.coarse_ids], atol=1e-6)
    error_mm = np.linalg.norm(full - levels.template_m, axis=1) * 1e3
    assert error_mm.mean() < 3
    np.testing.assert_allclose(levels.upsample[1].sum(1), 1, atol=0.03)


def test_adjacency_is_symmetric_local_and_connected(body):
    adjacency = body.levels.coarse_adjacency
    assert (adjacency == adjacency.T).all()
    assert adjacency.diagonal().all()
    assert 4 < adjacency.sum(1).mean() - 1 < 8
    reach = np.eye(len(adjacency), dtype=bool)
    for _ in range(60):
        reach = (reach.astype(np.float32) @ adjacency) > 0
    assert reach.all()


def test_hierarchy_of_a_small_sphere():
    spots = np.array(
        [[np.sin(a) * np.cos(b), np.cos(a), np.sin(a) * np.sin(b)] for a in np.linspace(0.2, 2.9, 9) for b in np.linspace(0, 5.8, 14)]
    )
    ring = [(i * 14 + j, i * 14 + (j + 1) % 14) for i in range(8) for j in range(14)]
    faces = np.array([f for a, b in ring for f in ((a, b, a + 14), (b, b + 14, a + 14))])
    random = np.random.default_rng(0)
    posed = np.stack([spots @ np.diag(random.uniform(0.8, 1.2, 3)) for _ in range(40)])
    levels = build_levels(spots, faces, posed, sizes=(20, 50))
    assert levels.sizes == (20, 50, len(spots))
    full = levels.upsample[1] @ (levels.upsample[0] @ (spots[levels.coarse_ids] * 1.1))
    assert np.linalg.norm(full - spots * 1.1, axis=1).mean() < 0.08


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file at all", None])
def test_a_missing_or_damaged_body_file_is_one_line(tmp_path, damage):
    path = tmp_path / "anny_body.safetensors"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(InputError) as raised:
        AnnyBody(path)
    assert "anny_body.safetensors" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_levels_survive_a_file_also_where_coarse_and_intermediate_are_the_same(tmp_path):
    for levels in (blank_levels((3, 3, 9), np.array([[0, 1, 2]])), load_body("anny").levels):
        save_file(pack_levels(levels), tmp_path / "levels.safetensors")
        again = unpack_levels(load_file(tmp_path / "levels.safetensors"))
        assert again.sizes == levels.sizes
        for name in ("template_m", "faces", "intermediate_faces", "coarse_ids", "intermediate_ids", "coarse_adjacency"):
            np.testing.assert_array_equal(getattr(again, name), getattr(levels, name))
        for ours, theirs in zip(again.upsample, levels.upsample, strict=True):
            assert (ours != theirs).nnz == 0
