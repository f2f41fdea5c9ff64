"""The network on a GPU for the estimator: graphs for a few batch sizes, copies beside the work, crops on the device.

Before anything is used it is compared with float32. A GPU whose memory runs out gets smaller batches, and the log says so.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from core.crop import PlacedCrop, sampling
from core.cuda.buckets import BUCKETS, bucket_of, smaller
from core.cuda.crops import NUM_VALUES, axis_values, cut
from core.cuda.device import Captured, CudaDevice, Device, Event
from core.cuda.fused import fuse_activations
from core.cuda.network import FP32, MODES, NUM_CHECKED, TOLERANCE, Layout, Mode, PackedNetwork, deviation, exactness, prepared
from core.cuda.problems import cuda_problem, out_of_memory
from core.cuda.staging import Downloads, Uploads
from core.errors import InputError
from core.model import FastMETRO, Prediction
from core.pixels import patchwork
from core.registry import Registry
from core.runtimes import RuntimeUnavailable
from core.types import CROP_SIZE_PX

log = logging.getLogger(__name__)

MAX_BATCH = 64
FIRST_BUCKETS = (1, 4)
"""Prepared at the start, so that no second person brings a pause; others when they are first needed."""
NUM_FRAME_SIZES = 8
"""Sizes of frames whose cutting stays prepared."""
TRIALS = 20
IN_FLIGHT = 2
"""Batches of one call that are under way at once."""

WAYS: Registry[Callable[[nn.Module], nn.Module]] = Registry("way to run a backbone on a GPU")
"""Name -> change of the backbone. Inside a graph each; what needs minutes to prepare is for the bench, not for the estimator."""


@WAYS.register("plain")
def _plain(backbone: nn.Module) -> nn.Module:
    return backbone


@WAYS.register("fused")
def _fused(backbone: nn.Module) -> nn.Module:
    fused, count = fuse_activations(backbone)
    if not count:
        raise RuntimeError("this backbone has nothing to fuse")
    return fused


@dataclass(frozen=True)
class Pending:
    """A batch under way."""

    rows: Tensor
    done: Event

    def wait(self) -> Tensor:
        """(B, N) packed on the host, nobody else's."""
        self.done.synchronize()
        return self.rows


class Engine:
    """A packed network on a device, one graph a bucket. Threads may share it."""

    def __init__(self, network: Callable[[Tensor], Tensor], tf32: bool, device: Device, max_batch: int = MAX_BATCH) -> None:
        """network: (B, 224, 224, 3) uint8 -> (B, N) float32, on the device; max_batch: a bucket."""
        self.network, self.tf32, self.device, self.max_batch = network, tf32, device, max_batch
        self._turn = threading.RLock()
        self._inputs: dict[int, Tensor] = {}
        self._graphs: dict[int, Captured] = {}
        self._cutters: OrderedDict[tuple[int, int, int], tuple[Tensor, Tensor, Captured]] = OrderedDict()
        self._open_doors()

    def _open_doors(self) -> None:
        """What comes and goes by itself has buffers of its own: crops and parts of frames, places, results."""
        self._pixels, self._places, self._results = Uploads(self.device), Uploads(self.device), Downloads(self.device)

    def prepare(self, bucket: int) -> Captured:
        """The graph of a bucket. Raises what the device raises, torch.OutOfMemoryError for one."""
        with self._turn:
            if bucket not in self._graphs:
                crops = torch.zeros(bucket, CROP_SIZE_PX, CROP_SIZE_PX, 3, dtype=torch.uint8, device=self.device.device)
                with torch.inference_mode(), exactness(self.tf32):
                    self._graphs[bucket] = self.device.capture(lambda: self.network(crops))
                self._inputs[bucket] = crops
            return self._graphs[bucket]

    def place(self, bucket: int) -> Tensor:
        """Where the graph of a prepared bucket finds its crops."""
        return self._inputs[bucket]

    @property
    def buckets(self) -> tuple[int, ...]:
        """Those that are prepared."""
        return tuple(sorted(self._graphs))

    def from_crops(self, crops: np.ndarray) -> Tensor:
        """(B, 224, 224, 3) uint8 of any B -> (B, N) packed, on the host. Raises InputError when the memory does not do for one."""
        pixels = as_tensor(crops)
        return self._in_batches(len(crops), lambda first, last, target: self._fill_from_crops(pixels[first:last], target))

    def from_placed(self, crops: Sequence[PlacedCrop]) -> Tensor:
        """The same of crops that are cut here: a frame is uploaded once for all its people that follow each other."""
        return self._in_batches(len(crops), lambda first, last, target: self._fill_from_frames(crops[first:last], target))

    def _in_batches(self, count: int, fill: Callable[[int, int, Tensor], None]) -> Tensor:
        """Batches as large as they may be, a few under way at once; smaller ones where the memory does not do."""
        rows: list[Tensor] = []
        pending: list[Pending] = []
        first = 0
        while first < count:
            last = min(first + self.max_batch, count)
            try:
                pending.append(self._start(last - first, lambda target, low=first, high=last: fill(low, high, target)))
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self._shrink(last - first, error)
                continue
            first = last
            if len(pending) == IN_FLIGHT:
                rows.append(pending.pop(0).wait())
        rows += [batch.wait() for batch in pending]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    @torch.inference_mode()
    def _start(self, count: int, fill: Callable[[Tensor], None]) -> Pending:
        """Give the device a batch. fill: brings the crops into their place (B, 224, 224, 3), by work on the stream `compute`"""
        with self._turn:
            bucket = bucket_of(count, self.buckets)
            graph = self.prepare(bucket)
            fill(self._inputs[bucket][:count])
            self.device.run(self.device.compute, graph.replay)
            return Pending(*self._results.fetch(graph.outputs[:count]))

    def _fill_from_crops(self, pixels: Tensor, target: Tensor) -> None:
        there, used = self._pixels.send(pixels)
        self.device.run(self.device.compute, lambda: target.copy_(there))
        used.record(self.device.compute)

    def _fill_from_frames(self, crops: Sequence[PlacedCrop], target: Tensor) -> None:
        first = 0
        for _, group in groupby(crops, lambda crop: id(crop.frame)):
            people = list(group)
            self._cut(people[0].frame, [crop.frame_from_crop for crop in people], target[first : first + len(people)])
            first += len(people)

    def _cut(self, frame: np.ndarray, places: list[np.ndarray], target: Tensor) -> None:
        """People of one frame into their places among the crops: what they need of it is uploaded once."""
        device, (height, width) = self.device, frame.shape[:2]
        how = [sampling(width, height, place) for place in places]
        still, values, cutter = self._cutter(height, width, bucket_of(len(places)))
        numbers = np.stack([axis_values(one) for one in how])
        seen = [one for one in how if one is not None]
        if seen:
            x0, y0 = np.min([one.low for one in seen], 0)
            x1, y1 = np.max([one.high for one in seen], 0)
            part, part_used = self._pixels.send(as_tensor(frame[y0:y1, x0:x1]))
            device.run(device.compute, lambda: still[y0:y1, x0:x1].copy_(part))
            part_used.record(device.compute)
        sent, used = self._places.send(torch.from_numpy(numbers.view(np.uint8).reshape(-1)))
        device.run(device.compute, lambda: values[: len(places)].copy_(sent.view(torch.float64).view(-1, 2, NUM_VALUES)))
        used.record(device.compute)
        device.run(device.compute, cutter.replay)
        device.run(device.compute, lambda: target.copy_(cutter.outputs[: len(places)]))

    def _cutter(self, height: int, width: int, bucket: int) -> tuple[Tensor, Tensor, Captured]:
        """For frames of a size and a number of people: places for the frame and the numbers of `cut`, and the graph."""
        key = (height, width, bucket)
        if key not in self._cutters:
            still = torch.zeros(height, width, 3, dtype=torch.uint8, device=self.device.device)
            values = torch.from_numpy(np.stack([axis_values(None)] * bucket)).to(self.device.device)
            with torch.inference_mode(), exactness(tf32=True):  # 8 bits of colour by 11 of weight
                self._cutters[key] = still, values, self.device.capture(lambda: cut(still, values))
            while len(self._cutters) > NUM_FRAME_SIZES:
                self.device.synchronize()  # the oldest may still run
                self._cutters.popitem(last=False)
        self._cutters.move_to_end(key)
        return self._cutters[key]

    def _shrink(self, count: int, error: Exception) -> None:
        """Half the batch from now on, and nothing kept for larger ones. Raises InputError when there is no half."""
        with self._turn:
            self.device.synchronize()  # what is let go below may still be read
            self._cutters.clear()
            limit = smaller(bucket_of(count))
            free, total = (size / 2**30 for size in self.device.free_bytes())
            if limit < 1:
                raise InputError(
                    f"the GPU's memory does not do for one person: {free:.1f} GiB of {total:.1f} are free; "
                    "end other programs on it, or use --device cpu"
                ) from error
            self.max_batch = min(self.max_batch, limit)
            for bucket in [known for known in self._graphs if known > limit]:
                del self._graphs[bucket], self._inputs[bucket]
            self._open_doors()
            self.device.free()
        log.warning("the GPU's memory is short (%.1f GiB of %.1f are free): batches of %d people from now on", free, total, self.max_batch)


def as_tensor(array: np.ndarray) -> Tensor:
    """The same memory, or a copy of what torch does not take as it is: read-only arrays, and views that run backwards."""
    usable = array.flags.writeable and min(array.strides) >= 0
    return torch.from_numpy(array if usable else array.copy())


class CudaRuntime:
    """See core.runtimes.Runtime; takes crops that are not cut yet as well."""

    def __init__(
        self, model: FastMETRO, precision: str, device: Device, max_batch: int = MAX_BATCH, ways: Sequence[str] = tuple(WAYS),
        first_buckets: Sequence[int] = FIRST_BUCKETS,
    ) -> None:  # fmt: skip
        """`model` becomes the runtime's. Raises RuntimeUnavailable when no mode does what float32 does."""
        model = prepared(model, device.device)
        self.device = device
        crops = patchwork(NUM_CHECKED).to(device.device)
        expected = said_in_float32(model, crops)
        self.layout = Layout.of(model, expected)
        self.mode, networks, outcome = near_enough(model, precision, crops, expected, self.layout, ways)
        del model
        self.engine, self.way = quickest(networks, self.mode, device, max_batch)
        for bucket in first_buckets:
            if bucket <= self.engine.max_batch:
                self.engine.prepare(bucket)
        self.words = f"CUDA graphs, {outcome}"

    @property
    def precision(self) -> str:
        """Of the mode that is near enough to float32."""
        return self.mode.name

    @property
    def max_batch(self) -> int:
        """Crops a call at most."""
        return self.engine.max_batch

    def __call__(self, crops: np.ndarray) -> Prediction:
        """As Runtime's."""
        return self.layout.unpacked(self.engine.from_crops(crops))

    def from_placed(self, crops: Sequence[PlacedCrop]) -> Prediction:
        """The same for crops that the device cuts out of their frames."""
        return self.layout.unpacked(self.engine.from_placed(crops))


@torch.inference_mode()
def said_in_float32(model: FastMETRO, crops: Tensor) -> Prediction:
    """What a folded model says, eagerly and without TF32; the body's parameters as matrices. On its device."""
    network = PackedNetwork(model, FP32)
    with exactness(tf32=False):
        return network.model.decode(network.backbone(network.normalised(crops)))


@torch.inference_mode()
def near_enough(
    model: FastMETRO, precision: str, crops: Tensor, expected: Prediction, layout: Layout, ways: Sequence[str]
) -> tuple[Mode, dict[str, PackedNetwork], str]:
    """The first mode for `precision` whose meshes are where float32's are, its networks by way, and words about the outcome.

    Raises RuntimeUnavailable when there is none.
    """
    rejected = []
    for mode in MODES[precision]:
        networks, worst = {}, 0.0
        for way in ways:
            try:
                network = PackedNetwork(model, mode, WAYS[way])
                with exactness(mode.tf32):
                    off = deviation(layout.unpacked(network(crops)).levels[2], expected.levels[2])
            except RuntimeError as error:  # cuDNN has no such operation for this GPU, or fx cannot trace a new backbone
                if out_of_memory(error):
                    raise
                log.info("way %s is not used: %s", way, " ".join(str(error).split())[:200])
                continue
            if off <= TOLERANCE:
                networks[way], worst = network, max(worst, off)
            else:
                log.info("way %s in %s is not used: vertices are off by %.2g of the mesh's radius", way, mode.name, off)
                rejected.append(f"{mode.name} is off by {off:.1%}")
        if networks:
            words = f"{mode.name}, vertices within {worst:.2%} of float32's"
            return mode, networks, f"{words} ({rejected[0]})" if rejected else words
    raise RuntimeUnavailable(f"the GPU does not compute what it should: {'; '.join(rejected) or 'no way runs'}")


def quickest(networks: dict[str, PackedNetwork], mode: Mode, device: Device, max_batch: int) -> tuple[Engine, str]:
    """The engine of the way that takes the least for one person, and its name: a try of milliseconds."""
    tried: dict[str, tuple[float, Engine]] = {}
    for way, network in networks.items():
        engine = Engine(network, mode.tf32, device, max_batch)
        try:
            graph = engine.prepare(BUCKETS[0])
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            log.info("way %s is not used: %s", way, " ".join(str(error).split())[:200])
            continue
        device.synchronize()
        start_s = time.perf_counter()
        for _ in range(TRIALS):
            device.run(device.compute, graph.replay)
        device.synchronize()
        tried[way] = time.perf_counter() - start_s, engine
    if not tried:
        raise RuntimeUnavailable("no CUDA graph can be made of the network")
    way = min(tried, key=lambda name: tried[name][0])
    return tried[way][1], way


def open_cuda(model: FastMETRO, precision: str) -> CudaRuntime:
    """The runtime on the GPU at hand. Raises RuntimeUnavailable, and InputError when its memory is full."""
    if precision not in MODES:
        raise RuntimeUnavailable(f"{precision} is not for GPUs")
    problem = cuda_problem()
    if problem:
        raise RuntimeUnavailable(problem)
    try:
        return CudaRuntime(model, precision, CudaDevice())
    except RuntimeError as error:
        if out_of_memory(error):
            raise InputError("the GPU's memory does not do for the network; end other programs on it, or use --device cpu") from error
        raise
