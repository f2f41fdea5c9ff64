from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from core.bodies import load_body
from core.errors import InputError
from core.joints import JOINT_NAMES, indices
from core.rotations import about_x, about_y, rotation, swing, without_heading
from core.training.appearance import BodySurface, Outfit, Part, label
from core.training.fabrics import CLOTHS
from core.training.garments import ACCESSORIES, Wardrobe
from core.training.lighting import Light, probe_light
from core.training.people_config import PeopleConfig
from core.training.places import PLACES
from core.training.poses import FAMILIES, PoseSampler
from core.training.render import Renderer
from core.training.scenery import Scenery
from core.training.shapes import GROUPS, draw_shapes, is_held_out
from core.training.shards import load_shard
from core.training.synthesize import Maker, SynthesisConfig, synthesize
from core.training.views import CLEAR_M, FRAMING_NAMES, draw_camera, draw_views, weak_camera


@pytest.fixture(scope="module")
def body():
    return load_body("anny")


def joints_of(body, family, count=40, seed=0):
    batch = PoseSampler(body, seed).sample(count, np.full(count, FAMILIES.index(family)), np.tile(np.eye(3), (count, 1, 1)))
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
    tilted = about_x(np.array([20.0, -35.0]))
    np.testing.assert_allclose(without_heading(about_y(np.array([110.0, -80.0])) @ tilted), tilted, atol=1e-9)


def test_the_same_seed_gives_the_same_poses_and_they_are_rotations(body):
    first, second, other = (PoseSampler(body, seed).sample(30) for seed in (3, 3, 4))
    assert torch.equal(first.rotmats, second.rotmats)
    assert not torch.equal(first.rotmats, other.rotmats)
    torch.testing.assert_close(first.rotmats @ first.rotmats.mT, torch.eye(3).expand_as(first.rotmats), atol=1e-5, rtol=0)


def test_families_look_like_their_names(body):
    standing, lying, inverted = (joints_of(body, family) for family in ("standing", "lying", "inverted"))
    assert np.median(height(standing, "Head") - height(standing, "L_Ankle")) > 1.1
    assert np.abs(height(lying, "Head") - height(lying, "L_Ankle")).mean() < 0.7
    assert (height(inverted, "Head") < height(inverted, "L_Hip")).mean() > 0.9
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
    batch = PoseSampler(body, 0).sample(12, np.full(12, FAMILIES.index("walking")), np.tile(np.eye(3), (12, 1, 1)))
    vertices = body.vertices(batch.rotmats, body.shape_bank[:12])
    pelvis = body.pelvis(vertices).numpy()
    renderer = Renderer(body, 0)
    for i in range(12):
        crop = renderer.draw(vertices[i].numpy(), joints[i] + pelvis[i], pelvis[i])
        scale, *shift = crop.camera
        weak = scale * (joints[i, :, :2] + shift)
        error = np.abs(weak - crop.joints_crop)[crop.joint_visibility > 0]  # perspective from near is what a weak camera lacks
        assert error.max() < 0.7 and np.median(error) < 0.12
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
        Scenery(np.random.default_rng(0), 224, [tmp_path])
    with pytest.raises(InputError, match="not found"):
        Scenery(np.random.default_rng(0), 224, [tmp_path / "nowhere"])
    cv2.imwrite(str(tmp_path / "red.png"), np.full((80, 90, 3), (0, 0, 255), np.uint8))
    scenery = Scenery(np.random.default_rng(0), 224, [tmp_path])
    assert scenery.pictures[0][0, 0].tolist() == [255, 0, 0]
    views = np.stack([scenery.scene().image for _ in range(12)])
    assert views.shape == (12, 224, 224, 3)
    assert views.min() >= 0 and views.max() <= 1


def test_shards_are_reproducible_and_resumable(tmp_path):
    config = SynthesisConfig(tmp_path / "a", 6, PeopleConfig(seed=7))
    arrays = Maker(config).make(0)
    synthesize(config)
    with np.load(tmp_path / "a" / "shard-00000.npz") as stored:
        assert set(stored) == set(arrays)
        for key in ("jpeg", "joints_m", "intermediate_m", "camera"):
            np.testing.assert_array_equal(stored[key], arrays[key])
        assert stored["jpeg_offsets"][-1] == len(stored["jpeg"])
    labels = load_shard(tmp_path / "a" / "shard-00000.npz").labels
    assert set(labels["group"]) <= set(GROUPS) and set(labels["framing"]) <= set(FRAMING_NAMES)
    before = (tmp_path / "a" / "shard-00000.npz").stat().st_mtime_ns
    synthesize(config)
    assert (tmp_path / "a" / "shard-00000.npz").stat().st_mtime_ns == before


def test_joints_are_where_the_camera_puts_them(body):
    """The truth is the pinhole projection of the very mesh that is drawn: the body's pixels fill the box of its projected vertices."""
    joints = joints_of(body, "standing", 8)
    batch = PoseSampler(body, 0).sample(8, np.zeros(8, int), np.tile(np.eye(3), (8, 1, 1)))
    vertices = body.vertices(batch.rotmats, body.shape_bank[:8]).numpy()
    random = np.random.default_rng(0)
    for framing in FRAMING_NAMES:
        for i in range(8):
            crop_scale = (1.35, 1.2)[i % 2]
            camera = draw_camera(random, vertices[i], joints[i], framing, crop_scale)
            flat, depth = camera.project(vertices[i]), camera.depth(vertices[i])
            assert depth.min() > CLEAR_M - 1e-3
            expected = (vertices[i][:, :2] - camera.middle_m[:2]) / depth[:, None]
            np.testing.assert_allclose(flat, (expected - camera.center) * camera.zoom, atol=2e-4)
            left, top, right, bottom = camera.frame
            shown = (flat > [left, top]).all(1) & (flat < [right, bottom]).all(1)
            cut = not shown.all()
            assert cut == (framing in ("webcam", "half", "side", "headless")) or framing in ("edge", "webcam", "half")
            box = np.concatenate([flat[shown].min(0), flat[shown].max(0)])
            assert 0.6 < 2 / (box[2:] - box[:2]).max() / crop_scale < 1.6  # what is shown fills the crop as a detector's box would
            assert np.abs((box[:2] + box[2:]) / 2).max() < 0.45


def test_weak_camera_fits_what_is_shown(body):
    joints = joints_of(body, "standing", 6)
    vertices = body.vertices(PoseSampler(body, 0).sample(6, np.zeros(6, int), np.tile(np.eye(3), (6, 1, 1))).rotmats, body.shape_bank[:6])
    vertices = (vertices - body.pelvis(vertices)[:, None]).numpy()
    random, errors = np.random.default_rng(1), []
    for i in range(6):
        camera = draw_camera(random, vertices[i], joints[i], "webcam", 1.35)
        flat = camera.project(vertices[i])
        scale, *shift = weak_camera(vertices[i], flat, camera.frame)
        error = ((scale * (vertices[i][:, :2] + shift) - flat) ** 2).sum(1)
        left, top, right, bottom = np.clip(camera.frame, -1, 1)
        shown = (flat > [left, top]).all(1) & (flat < [right, bottom]).all(1)
        whole = weak_camera(vertices[i], flat, (-99.0, -99.0, 99.0, 99.0))
        of_whole = ((whole[0] * (vertices[i][:, :2] + whole[1:]) - flat) ** 2).sum(1)
        errors.append((error[shown].mean(), of_whole[shown].mean()))
    weighted, plain = np.sqrt(np.mean(errors, 0))
    assert weighted < 0.1 and weighted < plain


def test_every_side_is_seen_often_enough():
    views = draw_views(np.random.default_rng(0), 4000)
    facing = views.rotmats @ [0, 0, -1.0]
    heading = np.degrees(np.arctan2(facing[:, 0], -facing[:, 2]))
    shares = np.histogram(heading % 360, [0, 45, 135, 225, 315, 360])[0] / len(heading)
    assert 0.35 < shares[0] + shares[4] < 0.58
    assert (shares[1:4] > 0.13).all()


def test_shapes_follow_their_groups_and_held_out_ones_are_apart(body):
    random = np.random.default_rng(0)
    shapes, group = draw_shapes(random, 3000)
    unseen, _ = draw_shapes(random, 500, held_out=True)
    assert not is_held_out(shapes).any()
    assert is_held_out(unseen).all()
    assert shapes.min() >= 0 and shapes.max() <= 1
    counts = np.bincount(group, minlength=len(GROUPS)) / len(group)
    np.testing.assert_allclose(counts, [row.share for row in GROUPS.values()], atol=0.03)
    of = {name: torch.from_numpy(shapes[group == i][:40]) for i, name in enumerate(GROUPS)}
    identity = torch.eye(3).expand(40, 104, 3, 3)
    meshes = {name: body.vertices(identity[: len(of[name])], of[name]) for name in ("toddler", "child", "adult", "heavy", "thin")}
    tall = {name: np.ptp(mesh[..., 1].numpy(), axis=1) for name, mesh in meshes.items()}
    assert 0.75 < np.median(tall["toddler"]) < 1.1 < np.median(tall["child"]) < 1.5 < np.median(tall["adult"]) < 1.85
    template = body.levels.template_m
    waist = (np.abs(template[:, 0]) < 0.25) & (np.abs(template[:, 1] + 0.1) < 0.1)
    belly = {name: np.ptp(meshes[name][:, waist, 2].numpy(), axis=1).mean() for name in ("heavy", "thin")}
    assert belly["heavy"] > 1.3 * belly["thin"]


def test_held_out_outfits_are_apart():
    random = np.random.default_rng(0)
    assert not {Outfit.draw(random).key for _ in range(400)} & {Outfit.draw(random, held_out=True).key for _ in range(60)}


@pytest.mark.parametrize("name", ACCESSORIES)
def test_accessories_move_with_the_body(body, name):
    surface = BodySurface(body)
    wardrobe = Wardrobe(body, surface)
    outfit = replace(Outfit.draw(np.random.default_rng(0)), accessories=(name,), skirt=0.0)
    vertices = body.vertices(PoseSampler(body, 0).sample(1).rotmats, body.shape_bank[:1])[0].numpy()
    turn = rotation(np.array([0, 1.0, 0]), np.array(70.0))
    meshes = [wardrobe.dress(np.random.default_rng(1), mesh.astype(np.float32), outfit).mesh_m for mesh in (vertices, vertices @ turn.T)]
    np.testing.assert_allclose(meshes[0][len(vertices) :] @ turn.T, meshes[1][len(vertices) :], atol=1e-4)
    assert len(meshes[0]) > len(vertices)


def test_light_of_a_probe_comes_from_where_it_is_bright():
    probe = np.full((32, 64, 3), 0.1, np.float32)
    probe[:16] = 1.0  # a bright sky
    ambient, _, share = probe_light(probe)
    up, down = Light(ambient, (), 1.0).soft(np.array([[0, -1.0, 0], [0, 1.0, 0]], np.float32)).mean(1)
    assert up > 3 * down
    assert share < 0.05
    probe[4, 10] = 5000
    ambient, lamp, share = probe_light(probe)
    longitude = (10 + 0.5) / 64 * 2 * np.pi
    assert share > 0.3
    assert lamp.direction[1] < -0.8
    assert abs(np.arctan2(lamp.direction[0], lamp.direction[2]) - longitude) < 0.2


@pytest.mark.parametrize("name", CLOTHS)
def test_cloths_are_colours(name):
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 3)).astype(np.float32)
    colours = np.broadcast_to(CLOTHS[name][1](np.random.default_rng(1), points), points.shape)
    assert np.isfinite(colours).all()
    assert colours.min() > -0.5 and colours.max() < 3


@pytest.mark.parametrize("name", PLACES)
def test_places_are_pictures(name):
    picture = PLACES[name][1](np.random.default_rng(0), 64)
    assert picture.shape == (64, 64, 3) and np.isfinite(picture).all()
    assert 0.02 < np.clip(picture, 0, 1).mean() < 0.99


def test_held_out_backgrounds_are_apart(tmp_path):
    for number in range(60):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((64, 64, 3), number * 4, np.uint8))
    seen, unseen = (
        {int(picture[0, 0, 0]) for picture in Scenery(np.random.default_rng(0), 64, [tmp_path], held_out).pictures}
        for held_out in (False, True)
    )
    assert not seen & unseen and len(seen | unseen) == 60
    assert 1 <= len(unseen) <= 15


def test_people_beside_are_of_like_size(body):
    """Somebody lying, low and wide, is not blown up to the height of who stands."""
    renderer = Renderer(body, 0)
    picture, mask = np.full((224, 224, 3), 200, np.uint8), np.zeros((224, 224), np.uint8)
    mask[100:120, 20:200] = 255
    renderer.reseed(np.random.default_rng(0), [(picture, mask)])
    standing = np.zeros((224, 224), np.float32)
    standing[20:200, 100:120] = 1
    for _ in range(10):
        alpha = renderer._paste(np.zeros((224, 224, 3), np.float32), standing, 0.3, (1.0, 1.0))[1]
        rows = np.flatnonzero((alpha > 0.5).any(1))
        assert len(rows) < 30


def test_the_pixels_are_where_the_truth_says(body):
    """The drawn person covers the projection of its mesh (clothes only add), and its joints but for a raised hand's edge."""
    batch = PoseSampler(body, 2).sample(8, np.zeros(8, int), np.tile(np.eye(3), (8, 1, 1)))
    vertices = body.vertices(batch.rotmats, body.shape_bank[:8])
    joints, pelvis, renderer = body.joints(vertices).numpy(), body.pelvis(vertices).numpy(), Renderer(body, 4)
    drawn = 0
    for i in range(8):
        alone = []
        crop = renderer.draw(vertices[i].numpy(), joints[i], pelvis[i], "full", alone.append)
        for _, mask in alone:
            centred = vertices[i].numpy() - pelvis[i]
            flat = crop.camera[0] * (centred[:, :2] + crop.camera[1:])
            pixels = np.clip(((flat + 1) * 112).astype(int), 0, 223)
            near = cv2.dilate(mask, np.ones((5, 5), np.uint8))
            assert (near[pixels[:, 1], pixels[:, 0]] > 0).mean() > 0.75  # as far as a weak camera can tell
            joint_px = ((crop.joints_crop + 1) * 112).astype(int)
            assert (mask[joint_px[:, 1], joint_px[:, 0]] > 0).mean() > 0.9
            drawn += 1
    assert drawn >= 4
