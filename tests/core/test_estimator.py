import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from core import load_estimator
from core.backbones import BACKBONES
from core.bodies import BODIES
from core.checkpoint import save_checkpoint
from core.config import ModelConfig
from core.crop import CROP_SCALE, crop_person
from core.errors import InputError
from core.estimator import MeshEstimator, choose_device, choose_precision
from core.model import FastMETRO
from core.runtimes import MAX_BATCH
from tests.toy import ToyBackbone, ToyBody

CONFIG = ModelConfig("small", "toy", "toy", widths=(32, 16), num_heads=4)
BOXES = np.array([[10, 10, 60, 90], [30, 5, 90, 60], [-20, -20, 40, 70]], np.float32)


@pytest.fixture
def estimator() -> MeshEstimator:
    torch.manual_seed(0)
    return MeshEstimator(FastMETRO(CONFIG, ToyBackbone(), ToyBody()), ToyBody())


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 100, 3)).astype(np.uint8)


def test_one_estimate_per_box_centred_on_the_pelvis(estimator: MeshEstimator, image: np.ndarray) -> None:
    people = estimator.from_boxes(image, BOXES)
    assert len(people) == 3
    for person in people:
        assert person.vertices_m.shape == (30, 3)
        np.testing.assert_allclose(person.joints_m[2:4].mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(ToyBody().joint_regressor @ person.vertices_m, person.joints_m, atol=1e-5)
    assert estimator.faces.shape == (50, 3)


def test_joints_px_are_where_the_camera_puts_them(estimator: MeshEstimator, image: np.ndarray) -> None:
    person = estimator.from_boxes(image, BOXES[:1])[0]
    unit = person.camera[0] * (person.joints_m[:, :2] + person.camera[1:])
    side_px = CROP_SCALE * 80
    np.testing.assert_allclose(person.joints_px, [35, 50] + unit * side_px / 2, atol=1e-3)


def test_a_batch_of_one_equals_that_item_in_a_batch_of_many(estimator: MeshEstimator, image: np.ndarray) -> None:
    boxes = np.tile(BOXES, (MAX_BATCH // 2, 1))
    assert len(boxes) > MAX_BATCH
    many = estimator.from_boxes(image, boxes)
    assert len(many) == len(boxes)
    for index in (0, 1, 2, MAX_BATCH, len(boxes) - 1):
        alone = estimator.from_crops([crop_person(image, boxes[index])])[0]
        np.testing.assert_allclose(alone.vertices_m, many[index].vertices_m, atol=1e-5)
        np.testing.assert_allclose(alone.joints_px, many[index].joints_px, atol=1e-3)


def test_nobody_is_an_empty_list(estimator: MeshEstimator, image: np.ndarray) -> None:
    assert estimator.from_boxes(image, np.zeros((0, 4))) == []
    assert estimator.from_boxes(image, []) == []
    for boxes in ([[0, 0, 10, 10], [1, 2]], [["a", "b", "c", "d"]]):
        with pytest.raises(InputError, match="numbers in rows of one length"):
            estimator.from_boxes(image, boxes)
    assert estimator.from_crops([]) == []


@pytest.mark.parametrize("boxes", [np.zeros((2, 3)), np.zeros(4), [[0, 0, 0, 5]], [[0, 0, np.nan, 5]], [[5, 5, 1, 9]]])
def test_bad_boxes_are_refused(estimator: MeshEstimator, image: np.ndarray, boxes: object) -> None:
    with pytest.raises(InputError, match="box"):
        estimator.from_boxes(image, boxes)


def test_bad_images_are_refused(estimator: MeshEstimator, image: np.ndarray) -> None:
    for bad in (image[..., 0], image / 255.0, image[:0], None, np.concatenate([image, image[..., :1]], 2)):
        with pytest.raises(InputError, match="image"):
            estimator.from_boxes(bad, BOXES)


def test_channels_are_red_green_blue(image: np.ndarray) -> None:
    torch.manual_seed(0)
    model = FastMETRO(CONFIG, ToyBackbone(), ToyBody())
    with torch.no_grad():
        model.backbone.patch.weight[:, 1:] = 0  # sees red alone
    estimator = MeshEstimator(model, ToyBody())
    full, red = np.array(image), np.array(image)
    red[..., 1:] = 0
    np.testing.assert_array_equal(estimator.from_boxes(full, BOXES)[0].vertices_m, estimator.from_boxes(red, BOXES)[0].vertices_m)


def test_bf16_stays_near_fp32(image: np.ndarray) -> None:
    meshes = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        estimator = MeshEstimator(FastMETRO(CONFIG, ToyBackbone(), ToyBody()), ToyBody(), precision=precision)
        assert estimator.precision == precision
        meshes.append(estimator.from_boxes(image, BOXES)[0].vertices_m)
    difference = np.abs(meshes[0] - meshes[1]).max()
    assert 0 < difference < 0.05


def test_the_normalisation_is_the_backbones_own(image: np.ndarray) -> None:
    class Shifted(ToyBackbone):
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)

    torch.manual_seed(0)
    model = FastMETRO(CONFIG, Shifted(), ToyBody())
    crop = crop_person(image, BOXES[0])
    pixels = (torch.from_numpy(crop.image).permute(2, 0, 1)[None] / 255 - torch.tensor(Shifted.mean).view(3, 1, 1)) / torch.tensor(
        Shifted.std
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = model.eval()(pixels).camera[0].numpy()
    np.testing.assert_allclose(MeshEstimator(model, ToyBody()).from_crops([crop])[0].camera, expected, atol=1e-5)


def test_load_estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: np.ndarray) -> None:
    monkeypatch.setitem(BODIES._entries, "toy", lambda mesh_dir: ToyBody())
    monkeypatch.setitem(BACKBONES._entries, "toy", ToyBackbone)
    save_checkpoint(tmp_path / "a.safetensors", FastMETRO(CONFIG, ToyBackbone(), ToyBody()), CONFIG, {"licence": "MIT"})
    estimator = load_estimator(str(tmp_path / "a.safetensors"), device="cpu", precision="fp32")
    assert (estimator.device, estimator.precision, estimator.metadata) == ("cpu", "fp32", {"licence": "MIT"})
    assert estimator.checkpoint == str(tmp_path / "a.safetensors")
    assert estimator.description.startswith("small on cpu (as asked), fp32 (as asked), ")
    assert len(estimator.from_boxes(image, BOXES)) == 3
    assert dataclasses.is_dataclass(estimator.from_boxes(image, BOXES)[0])


def test_unknown_devices_and_precisions_are_refused() -> None:
    with pytest.raises(InputError, match="device: got 'tpu', expected one of auto, cpu, cuda, mps"):
        choose_device("tpu")
    with pytest.raises(InputError, match="precision: got 'int4', expected one of auto, fp32, bf16, int8"):
        choose_precision("int4", "cpu")
    with pytest.raises(InputError, match="8-bit networks are for the CPU"):
        choose_precision("int8", "cuda")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="finds none here"):
            choose_device("cuda")
        assert choose_device("auto")[0] in ("cpu", "mps")


def test_auto_precision_follows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("core.estimator.has_fast_bf16_cpu", lambda native=native: native)
        precision, reason = choose_precision("auto", "cpu")
        assert precision == expected
        assert "bfloat16" in reason


def test_int8_without_openvino_is_one_line() -> None:
    with pytest.raises(InputError, match="8-bit networks need OpenVINO"):
        MeshEstimator(FastMETRO(CONFIG, ToyBackbone(), ToyBody()), ToyBody(), precision="int8")


def test_bf16_is_refused_by_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.estimator.has_fast_bf16_cpu", lambda: False)
    assert choose_precision("bf16", "cpu") == ("fp32", "bf16 was asked for, but this CPU has no native bfloat16")
    assert choose_precision("bf16", "mps") == ("bf16", "as asked")
