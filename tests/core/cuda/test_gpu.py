"""What only a GPU can show. On one: python -m pytest -m gpu"""

import threading

import numpy as np
import pytest
import torch

from core.config import VARIANTS, ModelConfig
from core.crop import place_person
from core.cuda.buckets import BUCKETS
from core.cuda.crops import axis_values, cut
from core.cuda.network import MODES, TOLERANCE, PackedNetwork, deviation, exactness, prepared
from core.cuda.problems import cuda_problem
from core.cuda.runtime import WAYS, CudaRuntime, Engine, said_in_float32
from core.estimator import MeshEstimator
from core.model import FastMETRO, build_model
from core.pixels import patchwork
from tests.core.cuda.test_crops import BOXES, on_device, picture
from tests.toy import ToyBackbone, ToyBody

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that PyTorch can use"),
]

CONFIG = ModelConfig("small", "toy", "toy", num_layers=2, widths=(64, 32), num_heads=4, parametric=True)
LARGEST = 64
SOME = ("fastmetro-s-r50", "fastmetro-l-h64", "fastmetro-s-blazepose", "fastmetro-xs-blazepose-heavy", "fastmetro-xs-movenet-thunder")


@pytest.fixture(scope="module")
def device():
    from core.cuda.device import CudaDevice

    assert cuda_problem() == ""
    return CudaDevice()


def toy() -> FastMETRO:
    torch.manual_seed(0)
    return FastMETRO(CONFIG, ToyBackbone(), ToyBody())


def crops_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3)).astype(np.uint8)


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("mode", MODES["bf16"], ids=lambda mode: mode.name)
@pytest.mark.parametrize("name", SOME)
def test_every_fast_mode_against_float32(device, name: str, mode, way: str) -> None:
    assert name in VARIANTS
    torch.manual_seed(0)
    model = prepared(build_model(name), device.device)
    crops = patchwork(4).to(device.device)
    expected = said_in_float32(model, crops)
    try:
        network = PackedNetwork(model, mode, WAYS[way])
    except RuntimeError as error:
        pytest.skip(f"{way}: {error}")
    from core.cuda.network import Layout

    with torch.inference_mode(), exactness(mode.tf32):
        got = Layout.of(model, expected).unpacked(network(crops))
    off = deviation(got.levels[2], expected.levels[2])
    limit = {"fp32": 1e-4, "tf32": TOLERANCE, "fp16": TOLERANCE, "bf16": 0.1}[mode.name]
    assert off <= limit


@pytest.mark.parametrize("bucket", [bucket for bucket in BUCKETS if bucket <= LARGEST])
def test_a_replay_equals_the_eager_network_in_every_bucket(device, bucket: int) -> None:
    network = PackedNetwork(prepared(toy(), device.device), MODES["fp32"][0])
    engine = Engine(network, False, device, max_batch=LARGEST)
    for seed in (1, 2):
        crops = crops_of(bucket, seed)
        with torch.inference_mode(), exactness(tf32=False):
            eager = network(torch.from_numpy(crops).to(device.device)).cpu()
        torch.testing.assert_close(engine.from_crops(crops), eager, atol=1e-4, rtol=1e-4)


def test_results_are_not_overwritten_by_the_next_replay(device) -> None:
    engine = Engine(PackedNetwork(prepared(toy(), device.device), MODES["fp32"][0]), False, device)
    first = engine.from_crops(crops_of(2, 1))
    kept = first.clone()
    for seed in range(2, 12):
        engine.from_crops(crops_of(2, seed))
    assert torch.equal(first, kept)


def test_two_threads_get_what_one_gets(device) -> None:
    engine = Engine(PackedNetwork(prepared(toy(), device.device), MODES["fp32"][0]), False, device, max_batch=8)
    jobs = [crops_of(count, count) for count in (1, 3, 8, 13)]
    expected = [engine.from_crops(job) for job in jobs]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(25):
            for number, job in enumerate(jobs):
                if not torch.allclose(engine.from_crops(job), expected[number], atol=1e-4):
                    wrong.append(number)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_it_cuts_as_the_host_does(device, box: list[int]) -> None:
    from core.crop import sampling

    image = picture()
    crop = place_person(image, np.array(box, float))
    values = torch.from_numpy(axis_values(sampling(640, 480, crop.frame_from_crop)))[None].to(device.device)
    for tf32 in (False, True):
        with exactness(tf32):
            got = cut(torch.from_numpy(image).to(device.device), values)[0].cpu().numpy().astype(int)
        assert np.abs(got - on_device(image, [crop])[0]).max() <= 1
        difference = np.abs(got - crop.image)
        assert difference.mean() < 0.6
        assert np.quantile(difference, 0.999) <= 4


def test_the_estimator_says_what_it_says_on_the_host() -> None:
    image, boxes = picture(), np.array(list(BOXES.values()), float)
    here, there = MeshEstimator(toy(), ToyBody(), "cpu"), MeshEstimator(toy(), ToyBody(), "cuda")
    assert "CUDA graphs" in there.description
    crops = [here.crop(image, box) for box in boxes]
    for got, want in zip(there.from_crops(crops), here.from_crops(crops), strict=True):
        np.testing.assert_allclose(got.vertices_m, want.vertices_m, atol=1e-3)
        np.testing.assert_allclose(got.rotmats, want.rotmats, atol=1e-2)
    for got, want in zip(there.from_boxes(image, boxes), here.from_boxes(image, boxes), strict=True):
        np.testing.assert_allclose(got.vertices_m, want.vertices_m, atol=5e-3)


def test_memory_that_is_not_there_means_smaller_batches(device) -> None:
    """A network that takes 64 MiB a crop, in a process that may have little."""

    def hungry(crops: torch.Tensor) -> torch.Tensor:
        large = crops.new_ones((len(crops), 1 << 24), dtype=torch.float32)
        return large.mean(1, keepdim=True) * crops.float().flatten(1).mean(1, keepdim=True)

    total = torch.cuda.mem_get_info(device.device)[1]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device.device) + (1 << 30)) / total, device.device)
    try:
        engine = Engine(hungry, False, device, max_batch=64)
        crops = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 224, 224, 3)).copy()
        np.testing.assert_allclose(engine.from_crops(crops)[:, 0].numpy(), np.arange(40), atol=0.01)
        assert engine.max_batch < 64
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device.device)
        torch.cuda.empty_cache()


def test_the_runtime_says_how_near_it_is(device) -> None:
    runtime = CudaRuntime(toy(), "bf16", device)
    assert "of float32's" in runtime.words
    assert runtime.mode in MODES["bf16"]
