"""Batches for training: cached features and truth, gathered ahead by a thread, in an order that a seed decides.

The order follows from (seed, epoch, shards of the epoch) alone, so a run that is resumed sees exactly the batches that it
would have seen.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from core.training.crew import Crew
from core.training.features import FeatureCache
from core.training.losses import Targets
from core.training.shards import TRUTH_FIELDS, Shard, check_same_kind, list_shards, load_good_shards

NUM_BATCHES_AHEAD = 4
EPOCH_ENDS = "the epoch ends"
"""Among the batches: who trains says now what the next epoch is made of."""


@dataclass(frozen=True)
class Batch:
    """features: tuple of (B, ...) tensors for `backbone.tail`, or where `pictures` is set normalised pictures (B, 3, 224, 224) alone.

    family: (B,) uint8; keys: names of the samples, for messages; none for cached features
    """

    features: tuple[Tensor, ...]
    targets: Targets
    family: Tensor
    keys: tuple[str, ...] = ()
    pictures: bool = False

    def __len__(self) -> int:
        return len(self.family)

    def to(self, device: torch.device) -> "Batch":
        """On a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def parts(self, count: int) -> "list[Batch]":
        """In `count` nearly equal parts."""
        bounds = np.linspace(0, len(self), count + 1).round().astype(int)
        if count == 1:
            return [self]
        return [
            replace(self._mapped(lambda tensor, low=low, high=high: tensor[low:high]), keys=self.keys[low:high])
            for low, high in pairwise(bounds.tolist())
        ]

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        targets = {name: None if tensor is None else change(tensor) for name, tensor in vars(self.targets).items()}
        return replace(self, features=tuple(map(change, self.features)), targets=Targets(**targets), family=change(self.family))


def finished_names(folder: Path, cache: FeatureCache) -> list[str]:
    """Of the shards whose features are complete by now. Raises InputError when there are no shards."""
    return [path.name for path in cache.finished(list_shards(folder))]


class People:
    """All people of a folder whose features are cached. Truth lies in memory, features are mapped from the disk's cache."""

    def __init__(self, folder: Path, cache: FeatureCache, names: list[str] | None = None) -> None:
        """names: take exactly these shards (to resume an epoch); None = all that have features by now."""
        self.cache = cache
        self.shards: list[Shard] = []
        self.features: list[tuple[np.ndarray, ...]] = []
        wanted = [folder / name for name in (finished_names(folder, cache) if names is None else names)]
        if not wanted:
            raise InputError(f"features: none in {cache.folder}; make them with `python -m core.training.features --shards {folder}`")
        self.folder = folder
        self._known = {path.name for path in wanted}
        self._add(load_good_shards(wanted))

    def _add(self, shards: list[Shard]) -> None:
        check_same_kind([*self.shards, *shards])
        for shard in shards:
            features = self.cache.load(shard.path)
            if any(len(tensor) != len(shard) for tensor in features):
                raise InputError(f"features: those of {shard.path.name} are for another shard; delete {self.cache.folder}")
            truth = shard.truth.zoomed(shard.zoom(self.cache.crop_scale))
            self.shards.append(replace(shard, truth=truth))
            self.features.append(features)
        self.starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self.shards])])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def names(self) -> list[str]:
        """File names of the shards in use."""
        return [shard.path.name for shard in self.shards]

    @property
    def body(self) -> str:
        """Name of the body model."""
        return self.shards[0].body

    @property
    def family_names(self) -> tuple[str, ...]:
        """Names of the pose families."""
        return self.shards[0].family_names

    def take_in(self, names: Sequence[str]) -> None:
        """Use those of these shards as well that were not there before."""
        fresh = [self.folder / name for name in names if name not in self._known]
        if fresh:
            self._known |= {path.name for path in fresh}
            self._add(load_good_shards(fresh))

    def gather(self, chosen: np.ndarray, dtype: torch.dtype = torch.float32) -> Batch:
        """The people of these indices (B,) as a batch; features in `dtype`, truth in float32."""
        shard_of = np.searchsorted(self.starts, chosen, side="right") - 1
        rows = chosen - self.starts[shard_of]
        places = list(zip(shard_of.tolist(), rows.tolist(), strict=True))
        features = []
        for k in range(len(self.features[0])):
            stacked = torch.from_numpy(np.stack([self.features[s][k][r] for s, r in places])).to(dtype)
            features.append(stacked.permute(0, 3, 1, 2) if stacked.dim() == 4 else stacked)
        truth = {name: torch.from_numpy(np.stack([getattr(self.shards[s].truth, name)[r] for s, r in places])) for name in TRUTH_FIELDS}
        family = truth.pop("family")
        return Batch(tuple(features), Targets(**{name: value.float() for name, value in truth.items()}), family)


@dataclass(frozen=True)
class Cursor:
    """Where a run stands in its data: batches done in this epoch, and the shards that the epoch is made of."""

    epoch: int
    batches_done: int
    shard_names: tuple[str, ...]


@cache
def _noise_store(dtype: torch.dtype) -> Tensor:
    """A few million normal numbers: drawing them anew for each batch would take a tenth of the training's time."""
    return torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).to(dtype)


def noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of a tensor's shape: a stretch of a fixed store, from a place that the generator draws."""
    store = _noise_store(tensor.dtype)
    if tensor.numel() >= len(store):
        return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    start = int(torch.randint(len(store) - tensor.numel(), (1,), generator=generator))
    return store[start : start + tensor.numel()].view(tensor.shape)


@dataclass(frozen=True)
class FeatureNoise:
    """Disturbance of cached features, the only augmentation that they allow.

    scale: standard deviation of the noise relative to that of the tensor; dropped_channels: share of channels set to 0
    """

    scale: float = 0.0
    dropped_channels: float = 0.0

    def applied(self, features: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        """The disturbed features; the generator decides, so that a resumed run repeats it."""
        return tuple(self._disturbed(tensor, generator) for tensor in features)

    def _disturbed(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        if self.scale:
            noise = noise_like(tensor, generator)
            tensor = torch.addcmul(tensor, noise, (self.scale * tensor[:4].float().std()).to(tensor))
        if self.dropped_channels:
            kept = torch.rand(tensor.shape[:2], generator=generator) >= self.dropped_channels
            scale = kept / (1 - self.dropped_channels)
            tensor = tensor * scale.to(tensor).view(*kept.shape, *[1] * (tensor.dim() - 2))
        return tensor


class BatchStream:
    """Endless batches, gathered by a thread of its own. Iterating gives (cursor after the batch, batch).

    At the end of an epoch shards join whose features were finished since. The processes agree on them where batches are taken, since
    the thread of one may be some batches ahead of another's.
    A context manager: leaving it ends the thread. An error in the thread is raised where the batch is taken.
    """

    def __init__(
        self, people: People, batch_size: int, seed: int, start: Cursor, dtype: torch.dtype, noise: FeatureNoise, crew: Crew | None = None
    ) -> None:
        """crew: the processes that share each batch; this one gathers its part only."""
        if batch_size > len(people):
            raise InputError(f"batch: got {batch_size}, but there are only {len(people)} people; make more or lower --batch")
        self.people, self.batch_size, self.seed, self.start = people, batch_size, seed, start
        self.dtype, self.noise, self.crew = dtype, noise, crew or Crew()
        self._ready: queue.Queue = queue.Queue(NUM_BATCHES_AHEAD)
        self._names: queue.Queue = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def __enter__(self) -> "BatchStream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._names.put([])
        self._thread.join()

    def __iter__(self) -> Iterator[tuple[Cursor, Batch]]:
        while True:
            item = self._ready.get()
            if isinstance(item, BaseException):
                raise item
            if item is EPOCH_ENDS:
                self._names.put(self.crew.gathered(finished_names(self.people.folder, self.people.cache))[0])
            else:
                yield item

    def _work(self) -> None:
        try:
            for item in self._batches():
                if not self._put(item):
                    return
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which raises it
            self._put(error)

    def _put(self, item: object) -> bool:
        """Wait for room; False when the stream was closed meanwhile."""
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def _batches(self) -> Iterator[tuple[Cursor, Batch] | str]:
        epoch, done = self.start.epoch, self.start.batches_done
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.people))
            names = tuple(self.people.names)
            for k in range(done, len(order) // self.batch_size):
                chosen = np.sort(order[k * self.batch_size : (k + 1) * self.batch_size])
                batch = self.people.gather(self.crew.share(chosen), self.dtype)
                seeds = np.random.SeedSequence([self.seed, epoch, k, self.crew.rank]).generate_state(1)
                generator = torch.Generator().manual_seed(int(seeds[0]))
                features = self.noise.applied(batch.features, generator)
                yield Cursor(epoch, k + 1, names), Batch(features, batch.targets, batch.family)
            epoch, done = epoch + 1, 0
            yield EPOCH_ENDS
            self.people.take_in(self._names.get())


class FeatureSource:
    """Cached people, ready to be streamed from any cursor."""

    num_broken = 0

    def __init__(self, people: People, noise: FeatureNoise, seed: int, dtype: torch.dtype) -> None:
        self.people, self.noise, self.seed, self.dtype = people, noise, seed, dtype

    def __len__(self) -> int:
        return len(self.people)

    def stream(self, batch_size: int, start: Cursor, crew: Crew) -> BatchStream:
        """Batches from `start` on. Raises InputError when there are too few people for a batch."""
        return BatchStream(self.people, batch_size, self.seed, start, self.dtype, self.noise, crew)
