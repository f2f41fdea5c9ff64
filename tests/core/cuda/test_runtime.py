import logging
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import core.cuda.runtime as runtime_module
from core.config import ModelConfig
from core.crop import place_person
from core.cuda.buckets import BUCKETS, bucket_of, smaller
from core.cuda.network import BF16, FP16, FP32, MODES, PackedNetwork, prepared
from core.cuda.problems import cuda_problem, has_no_gpu, out_of_memory
from core.cuda.runtime import WAYS, CudaRuntime, Engine, open_cuda
from core.errors import InputError
from core.estimator import MeshEstimator, choose_device
from core.model import FastMETRO
from core.runtimes import BY_DEVICE, RUNTIMES, CuttingRuntime, RuntimeUnavailable, TorchRuntime, warn_once
from tests.core.cuda.pretend import Memory, PretendDevice
from tests.core.cuda.test_crops import picture
from tests.toy import ToyBackbone, ToyBody

CONFIG = ModelConfig("small", "toy", "toy", widths=(32, 16), num_heads=4)
STREAMS = [(), ("compute",), ("uploads", "compute", "downloads")]


def toy(**changes: object) -> FastMETRO:
    torch.manual_seed(0)
    return FastMETRO(replace(CONFIG, **changes), ToyBackbone(), ToyBody())


def means(crops: Tensor) -> Tensor:
    """A network of one number: (B, 1)."""
    return crops.float().flatten(1).mean(1, keepdim=True)


def crops_of(values: list[int]) -> np.ndarray:
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 224, 224, 3)).copy()


def test_buckets() -> None:
    assert [bucket_of(count) for count in (1, 2, 3, 5, 64, 65, 512)] == [1, 2, 4, 8, 64, 128, 512]
    assert bucket_of(2, ready=(1, 4)) == 4
    assert bucket_of(2, ready=(1, 16)) == 2
    assert bucket_of(1, ready=(1, 4)) == 1
    assert smaller(8) == 4
    assert smaller(1) == 0
    for wrong in (0, BUCKETS[-1] + 1):
        with pytest.raises(ValueError, match="bucket"):
            bucket_of(wrong)


@pytest.mark.parametrize("early", STREAMS, ids="+".join)
@pytest.mark.parametrize("count", [1, 3, 8, 9, 21])
def test_batches_of_any_size_come_back_in_order(early: tuple[str, ...], count: int) -> None:
    engine = Engine(means, False, PretendDevice(early), max_batch=8)
    values = list(range(10, 10 + count))
    for _ in range(2):  # what the last call left in its places does not matter
        np.testing.assert_allclose(engine.from_crops(crops_of(values))[:, 0].numpy(), values)
        values = values[::-1]


@pytest.mark.parametrize("early", STREAMS, ids="+".join)
def test_results_are_not_overwritten(early: tuple[str, ...]) -> None:
    engine = Engine(means, False, PretendDevice(early))
    first = engine.from_crops(crops_of([10, 20]))
    for value in range(5):
        engine.from_crops(crops_of([value, value]))
    assert first[:, 0].tolist() == [10, 20]


def test_each_bucket_is_captured_once() -> None:
    device = PretendDevice()
    engine = Engine(means, False, device)
    for count in (1, 1, 3, 4, 3, 1):
        engine.from_crops(crops_of([5] * count))
    assert device.num_captures == 2
    assert engine.buckets == (1, 4)


def test_two_threads_get_their_own() -> None:
    engine, wrong = Engine(means, False, PretendDevice(), max_batch=4), []

    def work(value: int) -> None:
        for count in (1, 2, 5, 3) * 5:
            got = engine.from_crops(crops_of([value] * count))[:, 0].tolist()
            if got != [value] * count:
                wrong.append((value, got))

    with_lock = engine._turn  # the pretended streams are no thread-safe thing: results are waited for under the same lock
    original = runtime_module.Pending.wait
    runtime_module.Pending.wait = lambda pending: _locked(with_lock, lambda: original(pending))
    try:
        threads = [threading.Thread(target=work, args=(value,)) for value in (7, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        runtime_module.Pending.wait = original
    assert wrong == []


def _locked(lock: threading.RLock, work: Callable[[], Tensor]) -> Tensor:
    with lock:
        return work()


def test_out_of_memory_means_smaller_batches_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    device = PretendDevice(memory=Memory(limit=4))
    engine = Engine(means, False, device, max_batch=16)
    values = list(range(40))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(engine.from_crops(crops_of(values))[:, 0].numpy(), values)
        np.testing.assert_allclose(engine.from_crops(crops_of(values))[:, 0].numpy(), values)
    assert engine.max_batch == 4
    assert device.num_frees == 2
    said = [record.message for record in caplog.records]
    assert len(said) == 2  # 16 to 8, 8 to 4
    assert said[-1] == "the GPU's memory is short (1.0 GiB of 8.0 are free): batches of 4 people from now on"


def test_no_memory_for_one_person_is_one_line() -> None:
    engine = Engine(means, False, PretendDevice(memory=Memory(limit=0)))
    with pytest.raises(InputError, match=r"does not do for one person: 1.0 GiB of 8.0 are free; .* --device cpu"):
        engine.from_crops(crops_of([1]))


def test_other_errors_are_not_taken_for_it() -> None:
    def broken(crops: Tensor) -> Tensor:
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        Engine(broken, False, PretendDevice()).from_crops(crops_of([1]))


def test_memory_errors_are_known_in_all_their_shapes() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    after = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    after.__context__ = torch.OutOfMemoryError("CUDA out of memory.")  # as where leaving torch.cuda.graph fails as well
    assert out_of_memory(after)
    assert not out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("early", STREAMS, ids="+".join)
def test_people_of_several_frames_in_one_batch(early: tuple[str, ...]) -> None:
    device = PretendDevice(early)
    engine = Engine(lambda crops: crops.float().flatten(1), False, device, max_batch=4)
    frames = [picture(120, 160, seed) for seed in range(3)]
    boxes = [[10, 10, 60, 100], [300, 300, 350, 350], [50, 20, 150, 110]]  # the second is outside of the frame
    crops = [place_person(frame, np.array(box, float)) for frame in frames for box in boxes]
    for _ in range(2):
        pixels = engine.from_placed(crops).view(-1, 224, 224, 3).numpy()
        expected = np.stack([crop.image for crop in crops])
        difference = np.abs(pixels - expected)
        assert difference.mean() < 0.6
        assert np.quantile(difference, 0.999) <= 4
        frames.reverse()


def test_frames_that_are_read_only_or_run_backwards() -> None:
    engine = Engine(lambda crops: crops.float().flatten(1), False, PretendDevice())
    frame, box = picture(120, 160), np.array([10.0, 10, 60, 100])
    expected = engine.from_placed([place_person(frame, box)])
    backwards = frame[..., ::-1].copy()[..., ::-1]
    locked = frame.copy()
    locked.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for image in (backwards, locked):
            assert torch.equal(engine.from_placed([place_person(image, box)]), expected)


def test_only_so_many_frame_sizes_stay_prepared() -> None:
    engine = Engine(means, False, PretendDevice())
    for width in range(40, 40 + 2 * runtime_module.NUM_FRAME_SIZES):
        engine.from_placed([place_person(picture(50, width), np.array([5.0, 5, 30, 40]))])
    assert len(engine._cutters) == runtime_module.NUM_FRAME_SIZES


def test_memory_that_is_lost_while_cutting_is_found_again() -> None:
    engine = Engine(means, False, PretendDevice(memory=Memory(limit=2)), max_batch=8)
    frame = np.full((60, 60, 3), 90, np.uint8)
    crops = [place_person(frame, np.array([20.0, 20, 40, 40])) for _ in range(7)]
    np.testing.assert_allclose(engine.from_placed(crops)[:, 0].numpy(), 90, atol=0.01)
    assert engine.max_batch == 2


@pytest.mark.parametrize("parametric", [False, True])
def test_the_estimator_on_it_is_the_estimator_without(monkeypatch: pytest.MonkeyPatch, parametric: bool) -> None:
    monkeypatch.setitem(RUNTIMES._entries, "cuda", lambda model, device, precision: CudaRuntime(model, precision, PretendDevice()))
    monkeypatch.setitem(BY_DEVICE, "cpu", ("cuda",))
    ours = MeshEstimator(toy(parametric=parametric), ToyBody())
    monkeypatch.setitem(BY_DEVICE, "cpu", ("torch",))
    theirs = MeshEstimator(toy(parametric=parametric), ToyBody())
    assert isinstance(ours._runtime, CuttingRuntime)
    assert not isinstance(theirs._runtime, CuttingRuntime)
    assert "CUDA graphs, fp32, vertices within 0.00% of float32's" in ours.description
    image, boxes = picture(120, 160), np.array([[10, 10, 60, 90], [30, 5, 90, 60], [-20, -20, 40, 70]], np.float32)
    for got, want in zip(ours.from_boxes(image, boxes), theirs.from_boxes(image, boxes), strict=True):
        np.testing.assert_allclose(got.vertices_m, want.vertices_m, atol=2e-3)  # the crops differ by a grey level
        np.testing.assert_array_equal(got.frame_from_crop, want.frame_from_crop)
    for got, want in zip(ours.from_crops([theirs.crop(image, box) for box in boxes]), theirs.from_boxes(image, boxes), strict=True):
        np.testing.assert_allclose(got.vertices_m, want.vertices_m, atol=1e-5)
        if parametric:
            np.testing.assert_allclose(got.rotmats, want.rotmats, atol=1e-4)
            np.testing.assert_allclose(got.shape, want.shape, atol=1e-4)


def test_the_first_precision_that_is_near_enough_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 that is too far off gives way to float16, and the description says so."""
    original = PackedNetwork.forward

    def off_in_bf16(network: PackedNetwork, crops: Tensor) -> Tensor:
        rows = original(network, crops)
        return rows + torch.randn(rows.shape) * 0.1 if network.mode is BF16 else rows

    monkeypatch.setattr(PackedNetwork, "forward", off_in_bf16)
    monkeypatch.setattr(runtime_module, "TOLERANCE", 0.02)
    runtime = CudaRuntime(toy(), "bf16", PretendDevice())
    assert runtime.mode is FP16
    assert "(bf16 is off by " in runtime.words
    monkeypatch.setitem(RUNTIMES._entries, "cuda", lambda model, device, precision: CudaRuntime(model, precision, PretendDevice()))
    monkeypatch.setitem(BY_DEVICE, "cpu", ("cuda",))
    assert MeshEstimator(toy(), ToyBody(), precision="bf16").precision == "fp16", "what runs, not what was asked for"
    monkeypatch.setattr(PackedNetwork, "forward", lambda network, crops: torch.full_like(original(network, crops), torch.nan))
    with pytest.raises(RuntimeUnavailable, match="does not compute what it should: fp32 is off by"):
        CudaRuntime(toy(), "fp32", PretendDevice())


def test_a_way_that_cannot_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(backbone: torch.nn.Module) -> torch.nn.Module:
        raise RuntimeError("cuDNN: no engine")

    monkeypatch.setitem(WAYS._entries, "fused", unsupported)
    assert CudaRuntime(toy(), "fp32", PretendDevice()).way == "plain"


def test_batches_do_not_change_what_is_said() -> None:
    model = prepared(toy(), torch.device("cpu"))
    engine = Engine(PackedNetwork(model, FP32), False, PretendDevice(), max_batch=8)
    crops = np.random.default_rng(0).integers(0, 256, (11, 224, 224, 3)).astype(np.uint8)
    many = engine.from_crops(crops)
    for row in (0, 5, 10):
        torch.testing.assert_close(engine.from_crops(crops[row : row + 1])[0], many[row], atol=1e-5, rtol=0)


def test_without_a_gpu_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert has_no_gpu(cuda_problem())
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "without CUDA" in cuda_problem()
    monkeypatch.setattr(torch.version, "hip", "7.0")  # AMD's GPUs, which PyTorch calls cuda too
    assert "without CUDA" not in cuda_problem()
    with pytest.raises(RuntimeUnavailable, match=r"NVIDIA|CUDA"):
        open_cuda(toy(), "fp32")
    with pytest.raises(RuntimeUnavailable, match="int8 is not for GPUs"):
        open_cuda(toy(), "int8")
    old = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by ..."

    def too_old() -> bool:
        import warnings

        warnings.warn(f"CUDA initialization: {old}", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    assert choose_device("auto") == (
        "cpu", "auto: the GPU is of no use, CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)"
    )  # fmt: skip
    with pytest.raises(InputError, match=r"finds none here \(CUDA initialization: The NVIDIA driver .* too old .*; use cpu or auto"):
        choose_device("cuda")


def test_a_gpu_without_kernels_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernels(*_: object, **__: object) -> Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    monkeypatch.setattr(torch, "ones", no_kernels)
    assert cuda_problem().startswith("Old GPU does not compute (CUDA error: no kernel image")
    assert not has_no_gpu(cuda_problem())


def test_when_the_runtime_cannot_run_pytorch_does_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot(model: FastMETRO, device: str, precision: str) -> TorchRuntime:
        raise RuntimeUnavailable("the driver is on holiday")

    monkeypatch.setitem(RUNTIMES._entries, "cuda", cannot)
    monkeypatch.setitem(BY_DEVICE, "cpu", ("cuda", "torch"))
    warn_once.cache_clear()
    for _ in range(3):
        estimator = MeshEstimator(toy(), ToyBody())
    assert estimator.description.endswith(", PyTorch (the driver is on holiday)")
    assert estimator.warning == "the network runs in PyTorch, which is slower: the driver is on holiday"
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [estimator.warning]
    monkeypatch.setitem(BY_DEVICE, "cpu", ("torch",))
    assert MeshEstimator(toy(), ToyBody()).warning == "", "the best that there is for a device is no fallback"


def test_every_precision_ends_in_float32() -> None:
    assert all(modes[-1] is FP32 for modes in MODES.values())
