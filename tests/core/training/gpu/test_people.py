"""People made many at once: clothes, cameras and light as one by one, pictures that go with their truth."""

from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch

from core.bodies import load_body
from core.bodies.anny import AnnyBody
from core.geometry import project
from core.joints import HIPS, JOINT_NAMES
from core.training.appearance import Outfit, label
from core.training.garments import Wardrobe
from core.training.gpu.cameras import draw_cameras, levelled, weak_cameras
from core.training.gpu.people import BatchPeople, Made, plausible_batch
from core.training.gpu.pictures import Dice, blurred, compressed
from core.training.gpu.plan import HAIRS, OUTFIT_NUMBERS, PlanConfig, Plans, draw_look
from core.training.gpu.shading import harmonics
from core.training.gpu.wardrobe import SPOKES, BatchWardrobe, Wearing, label_batch
from core.training.lighting import harmonics as one_harmonics
from core.training.posing import plausible
from core.training.views import FRAMING_NAMES, NECK, CropCamera, draw_leans, levelling, weak_camera

CONFIG = PlanConfig(seed=5, batch=4, scenes=2)


@pytest.fixture(scope="module")
def plans() -> Plans:
    return Plans(load_body("anny"), CONFIG)


@pytest.fixture(scope="module")
def people() -> BatchPeople:
    return BatchPeople(AnnyBody(), torch.device("cpu"))


@pytest.fixture(scope="module")
def made(plans: Plans, people: BatchPeople) -> Made:
    return people.make(plans[3])


def wearing_of(outfit: Outfit) -> Wearing:
    numbers = {name: torch.tensor([[float(getattr(outfit, name))]]) for name in OUTFIT_NUMBERS}
    return Wearing(numbers, torch.tensor([[HAIRS.index(outfit.hair)]]), torch.tensor([[("", "rim", "sun").index(outfit.glasses)]]))


def test_spots_are_labelled_as_one_by_one(people: BatchPeople) -> None:
    random = np.random.default_rng(0)
    surface, channels = people.wardrobe.surface, people.wardrobe.channels[: people.wardrobe.num_body]
    kinds = set()
    for _ in range(25):
        outfit = Outfit.draw(random)
        expected = label(surface.channels, outfit, surface)
        kinds |= set(np.unique(expected).tolist())
        np.testing.assert_array_equal(label_batch(channels, wearing_of(outfit), surface)[0].numpy(), expected)
    assert len(kinds) > 8


def test_skirts_are_those_of_the_wardrobe(people: BatchPeople, plans: Plans) -> None:
    body = load_body("anny")
    outfit = next(o for o in (Outfit.draw(np.random.default_rng(seed)) for seed in range(200)) if o.skirt)
    vertices = torch.from_numpy(body.levels.template_m)
    expected, _, _ = Wardrobe(body, people.wardrobe.surface)._skirt(vertices.numpy(), outfit)
    plan = plans[0]
    numbers = torch.tensor([[float(getattr(outfit, name)) for name in OUTFIT_NUMBERS]])
    tube = people.wardrobe._skirt(vertices[None], type(plan)(**{**vars(plan), "outfit": numbers}))[0].numpy()
    np.testing.assert_allclose(tube[: len(expected)], expected, atol=2e-3)
    below = tube[len(expected) :].reshape(-1, SPOKES, 3)
    assert np.allclose(below, tube[len(expected) - SPOKES : len(expected)], atol=1e-5)  # the hem again: triangles of no size


def test_cameras_project_as_one_by_one(plans: Plans, people: BatchPeople) -> None:
    plan = plans[0]
    vertices = people.body.vertices(plan.rotmats, plan.shapes)
    joints = people.body.joints(vertices)
    count = len(vertices)
    dice = torch.rand(count, 16), torch.randn(count, 16)
    framing = torch.arange(count) % len(FRAMING_NAMES)
    cameras = draw_cameras(vertices, joints, framing, *dice, 1.35)
    torch.testing.assert_close(draw_cameras(vertices, joints, framing, *dice, 1.2).zoom, cameras.zoom * 1.35 / 1.2)
    crops = cameras.project(vertices)
    weak = weak_cameras(vertices, crops, cameras.frame)
    for row in range(count):
        frame = tuple(cameras.frame[row].tolist())
        middle, centre = cameras.middle_m[row].double().numpy(), cameras.centre[row].double().numpy()
        one = CropCamera(middle, float(cameras.distance_m[row]), centre, float(cameras.zoom[row]), frame)
        np.testing.assert_allclose(crops[row].numpy(), one.project(vertices[row].numpy()), atol=1e-3)
        np.testing.assert_allclose(weak[row].numpy(), weak_camera(vertices[row].numpy(), crops[row].numpy(), frame), rtol=2e-3, atol=2e-3)
        assert cameras.depth(vertices)[row].min() > 0.3
        if FRAMING_NAMES[int(framing[row])] in ("full", "wide"):
            assert crops[row].abs().max() < 1.6


def test_people_are_levelled_as_one_by_one() -> None:
    random = np.random.default_rng(2)
    joints = random.normal(0, 0.4, (40, 14, 3)).astype(np.float32)
    leans = draw_leans(random, 40, 0.6)
    assert 10 < np.isinf(leans).sum() < 25
    expected = np.einsum("bij,bnj->bni", levelling(joints, leans), joints)
    found = levelled(torch.from_numpy(joints), torch.from_numpy(joints), torch.from_numpy(leans.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    trunk = found[:, NECK] - found[:, HIPS].mean(1)
    turned = ~np.isinf(leans)
    np.testing.assert_allclose(np.arctan2(trunk[turned, 0], -trunk[turned, 1]), leans[turned], atol=1e-4)
    np.testing.assert_array_equal(found[~turned], joints[~turned])


def test_plausible_and_light_as_one_by_one() -> None:
    joints = np.random.default_rng(1).normal(0, 0.4, (200, 14, 3)).astype(np.float32)
    expected = plausible(joints)
    assert 5 < expected.sum() < 195
    np.testing.assert_array_equal(plausible_batch(torch.from_numpy(joints)).numpy(), expected)
    directions = joints[:, 0] / np.linalg.norm(joints[:, 0], axis=1, keepdims=True)
    np.testing.assert_allclose(harmonics(torch.from_numpy(directions)).numpy(), one_harmonics(directions), atol=1e-5)


def test_plans_and_pictures_repeat(plans: Plans, people: BatchPeople, made: Made) -> None:
    again = Plans(load_body("anny"), CONFIG)[3]
    first = plans[3]
    assert all(torch.equal(getattr(first, entry.name), getattr(again, entry.name)) for entry in fields(first))
    assert torch.equal(people.make(again).pictures, made.pictures)
    assert not torch.equal(plans[4].rotmats, first.rotmats)


def test_pictures_go_with_their_truth(made: Made) -> None:
    targets = made.targets
    assert made.pictures.shape == (4, 3, 224, 224)
    assert made.pictures.dtype == torch.uint8
    assert targets.intermediate_m.shape == (4, 1723, 3)
    assert made.pictures.float().std(dim=(1, 2, 3)).min() > 5
    assert torch.isfinite(targets.intermediate_m).all()
    distance = (project(targets.joints_m, targets.camera) - targets.joints_crop).norm(dim=-1)
    assert distance.median() < 0.1  # the weak camera stands for the pinhole one
    assert targets.joint_visibility.mean() > 0.4
    outside = (targets.joints_crop.abs() > 1).any(-1)
    assert not targets.joint_visibility[outside].any()
    assert targets.joints_m[:, [JOINT_NAMES.index("R_Hip"), JOINT_NAMES.index("L_Hip")]].mean(1).abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_people(plans: Plans, made: Made) -> None:
    """The truth agrees; pictures differ in the dice that each device throws itself."""
    found = BatchPeople(AnnyBody(), torch.device("cuda")).make(plans[3])
    for entry in ("intermediate_m", "joints_m", "joints_crop", "camera"):
        torch.testing.assert_close(getattr(found.targets, entry).cpu(), getattr(made.targets, entry), atol=5e-3, rtol=5e-3)
    assert found.pictures.float().std(dim=(1, 2, 3)).min() > 5


def test_the_person_is_where_the_truth_says(plans: Plans, people: BatchPeople) -> None:
    plan = plans[6].to(torch.device("cpu"))
    rows = torch.arange(4)
    person, mask, outside, joints_crop, _ = people._draw(plan, rows, rows)
    at = ((joints_crop + 1) * 112).long()
    for row in rows.tolist():
        for x, y in at[row].tolist():
            if 0 <= x < 224 and 0 <= y < 224:
                assert mask[row, 0, max(y - 6, 0) : y + 7, max(x - 6, 0) : x + 7].any()
    assert person[(mask == 0).expand_as(person)].abs().max() == 0
    assert outside.shape == (4, 224, 224)


def test_looks_follow_the_rule_of_held_out_outfits() -> None:
    looks = [draw_look(np.random.default_rng(seed), held_out) for seed in range(8) for held_out in (False, True)]
    assert all(look["colours"].min() >= 0 and look["colours"].max() <= 1 for look in looks)
    assert any(not np.array_equal(a["outfit"], b["outfit"]) for a, b in zip(looks[::2], looks[1::2], strict=True))


def test_blur_and_jpeg_as_opencv() -> None:
    picture = cv2.GaussianBlur(np.random.default_rng(2).random((64, 64, 3)).astype(np.float32), (0, 0), 1.5)
    picture = np.clip((picture - 0.5) * 3 + 0.5, 0, 1)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
    found = blurred(tensor, torch.tensor([1.2]))[0].permute(1, 2, 0).numpy()
    expected = cv2.GaussianBlur(picture, (13, 13), 1.2, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for quality in (40, 85):
        pixels = (picture * 255).round().astype(np.uint8)
        grey = np.repeat(pixels[..., :1], 3, -1)
        decoded = cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
        ours = compressed(torch.from_numpy(grey).permute(2, 0, 1)[None] / 255, torch.tensor([float(quality)]))[0, 0].numpy() * 255
        lost = np.abs(decoded[..., 0].astype(float) - grey[..., 0]).mean()
        assert lost > 1
        assert np.abs(ours - decoded[..., 0]).mean() < 0.3 * lost  # what lies on the edge of a step may fall to either side
        assert abs(np.abs(ours - grey[..., 0]).mean() / lost - 1) < 0.05


def test_dice_repeat() -> None:
    rolls = [Dice(torch.tensor(3), 5, torch.device("cpu")).uniform(1.0, 2.0, 2) for _ in range(2)]
    assert torch.equal(*rolls)
    assert rolls[0].min() >= 1


def test_wardrobe_smooths_without_loss(people: BatchPeople) -> None:
    wardrobe: BatchWardrobe = people.wardrobe
    even = torch.full((1, wardrobe.num_body), 0.3)
    torch.testing.assert_close(wardrobe._smoothed(even), even)
