import cv2
import numpy as np
import pytest
import torch

from core.bodies import load_body
from core.errors import InputError
from core.joints import JOINT_NAMES, indices
from core.training.appearance import BodySurface, Outfit, Part, label
from core.training.poses import FAMILIES, PoseSampler, about_x, rotation, swing
from core.training.render import Renderer
from core.training.scenery import Scenery
from core.training.synthesize import Maker, SynthesisConfig, synthesize


@pytest.fixture(scope="module")
def body():
    return load_body("anny")


def joints_of(body, family, count=40, seed=0):
    batch = PoseSampler(body, seed).sample(count, np.full(count, FAMILIES.index(family)))
    with torch.inference_mode():
        vertices = body.vertices(batch.rotmats, body.shape_bank[:count])
        return (body.joints(vertices) - body.pelvis(vertices)[:, None]).numpy()


def height(joints, name):
    return -joints[:, JOINT_NAMES.index(name), 1]


def test_rotation_and_swing():
    np.testing.assert_allclose(about_x(np.array([90.0]))[0] @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    ends = np.random.default_rng(0).standard_normal((20, 3))
    ends /= np.linalg.norm(ends, axis=1, keepdims=True)
    np.testing.assert_allclose(swing(np.array([0, 1.0, 0]), ends) @ [0, 1, 0], ends, atol=1e-9)
    np.testing.assert_allclose(rotation(np.array([0, 0, 1.0]), np.array(360.0)), np.eye(3), atol=1e-12)


def test_the_same_seed_gives_the_same_poses_and_they_are_rotations(body):
    first, second, other = (PoseSampler(body, seed).sample(30) for seed in (3, 3, 4))
    assert torch.equal(first.rotmats, second.rotmats)
    assert not torch.equal(first.rotmats, other.rotmats)
    torch.testing.assert_close(first.rotmats @ first.rotmats.mT, torch.eye(3).expand_as(first.rotmats), atol=1e-5, rtol=0)


def test_families_look_like_their_names(body):
    standing, lying, inverted = (joints_of(body, family) for family in ("standing", "lying", "inverted"))
    assert np.median(height(standing, "Head") - height(standing, "L_Ankle")) > 1.1
    assert np.abs(height(lying, "Head") - height(lying, "L_Ankle")).mean() < 0.7
    assert (height(inverted, "Head") < height(inverted, "L_Hip")).all()
    reaching = joints_of(body, "reaching")
    assert (np.maximum(height(reaching, "L_Wrist"), height(reaching, "R_Wrist")) > height(reaching, "Neck") - 0.05).mean() > 0.8
    sitting, tall = joints_of(body, "sitting"), np.median(height(standing, "L_Hip") - height(standing, "L_Knee"))
    assert np.median(height(sitting, "L_Hip") - height(sitting, "L_Knee")) < 0.5 * tall


def test_outfits_dress_the_right_parts(body):
    surface = BodySurface(body)
    outfit = Outfit.draw(np.random.default_rng(1))
    dressed = Outfit(
        **{**vars(outfit), "sleeve": 1.95, "leg": 2.05, "top": True, "shoes": True, "hair": "short", "skirt": 0.0, "gloves": False}
    )
    parts, channels = label(surface.channels, dressed, surface), surface.channels
    region = {name: channels[:, 5 + i] > 0.9 for i, name in enumerate(("head", "neck", "arm", "hand", "leg", "foot", "torso"))}
    assert (parts[region["foot"]] == Part.SHOE).all()
    assert (parts[region["hand"]] == Part.SKIN).all()
    assert (parts[region["leg"]] == Part.BOTTOM).mean() > 0.97
    assert (parts[region["head"]] == Part.HAIR).mean() > 0.15
    assert (parts == Part.IRIS).any()


def test_truth_fits_the_picture(body):
    """The weak camera explains the joints' true projection, and visible joints lie on the person's pixels."""
    joints = joints_of(body, "walking", 12)
    batch = PoseSampler(body, 0).sample(12, np.full(12, FAMILIES.index("walking")))
    vertices = body.vertices(batch.rotmats, body.shape_bank[:12])
    pelvis = body.pelvis(vertices).numpy()
    renderer = Renderer(body, 0)
    for i in range(12):
        crop = renderer.draw(vertices[i].numpy(), joints[i] + pelvis[i], pelvis[i])
        scale, *shift = crop.camera
        weak = scale * (joints[i, :, :2] + shift)
        assert np.abs(weak - crop.joints_crop).max() < 0.15
        assert crop.image.shape == (224, 224, 3)
        assert ((np.abs(crop.joints_crop) < 1).all(1) | (crop.joint_visibility == 0)).all()


def test_what_lies_beyond_the_edge_is_black_and_invisible(body):
    renderer, cut = Renderer(body, 5), 0
    vertices = body.vertices(torch.eye(3).expand(1, 104, 3, 3), body.shape_bank[:1])
    joints, pelvis = body.joints(vertices)[0].numpy(), body.pelvis(vertices)[0].numpy()
    for _ in range(25):
        crop = renderer.draw(vertices[0].numpy(), joints, pelvis)
        legs = crop.joint_visibility[indices(("R_Ankle", "L_Ankle"))]
        bottom = crop.image[-8:].max()
        if bottom == 0 and not legs.any():
            cut += 1
    assert cut >= 2


def test_scenery_reads_pictures_and_refuses_empty_folders(tmp_path):
    with pytest.raises(InputError, match="no picture"):
        Scenery(np.random.default_rng(0), 224, tmp_path)
    with pytest.raises(InputError, match="not found"):
        Scenery(np.random.default_rng(0), 224, tmp_path / "nowhere")
    cv2.imwrite(str(tmp_path / "red.png"), np.full((80, 90, 3), (0, 0, 255), np.uint8))
    scenery = Scenery(np.random.default_rng(0), 224, tmp_path)
    assert scenery.pictures[0][0, 0].tolist() == [255, 0, 0]
    views = np.stack([scenery.background() for _ in range(12)])
    assert views.shape == (12, 224, 224, 3)
    assert views.min() >= 0 and views.max() <= 1


def test_shards_are_reproducible_and_resumable(tmp_path):
    config = SynthesisConfig(tmp_path / "a", count=6, seed=7)
    arrays = Maker(config).make(0)
    synthesize(config)
    with np.load(tmp_path / "a" / "shard-00000.npz") as stored:
        assert set(stored) == set(arrays)
        for key in ("jpeg", "joints_m", "intermediate_m", "camera"):
            np.testing.assert_array_equal(stored[key], arrays[key])
        assert stored["jpeg_offsets"][-1] == len(stored["jpeg"])
    before = (tmp_path / "a" / "shard-00000.npz").stat().st_mtime_ns
    synthesize(config)
    assert (tmp_path / "a" / "shard-00000.npz").stat().st_mtime_ns == before
