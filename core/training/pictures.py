"""Batches of pictures for training: samples read and augmented by worker processes, in an order that a seed decides.

What a sample looks like follows from (seed, epoch, its number) alone, and the order from (seed, epoch); people who are made come in
that of their numbers. Neither the number of workers nor an interruption changes anything.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from core.errors import InputError
from core.training.augmentation import Augmentation, View, plain_view, viewed
from core.training.batches import Batch, Cursor
from core.training.crew import Crew
from core.training.samples import BrokenSample, Sample, SampleDataset
from core.training.truth import BodySizes, TargetMaker, ViewBatch, stacked
from core.training.workers import Stream, cursors_from, streamed, worker_options

log = logging.getLogger(__name__)

MAX_BROKEN_IN_A_ROW = 100
BATCHES_AHEAD = 4
"""Of each worker."""


@dataclass(frozen=True)
class Loaded:
    """What a worker hands over. views: None = nobody; keys: of the samples; broken: what was skipped on the way, in words."""

    views: ViewBatch | None
    keys: tuple[str, ...]
    broken: tuple[str, ...]

    def pin_memory(self) -> "Loaded":
        """DataLoader asks for it."""
        return Loaded(None if self.views is None else self.views.pin_memory(), self.keys, self.broken)


@dataclass(frozen=True)
class Seen:
    """A view, the key of its sample, and what was skipped to get there, in words. view: None = the sample is broken and left out."""

    view: View | None
    key: str
    broken: tuple[str, ...]


class Views(Dataset):
    """A data set as views: asked for (epoch, number) it reads, augments and checks that sample, or the next that is not broken."""

    def __init__(
        self, people: SampleDataset, augmentation: Augmentation | None, sizes: BodySizes, seed: int, leaves_out: bool = False
    ) -> None:
        """augmentation: None = plain crops; leaves_out: give nobody for a broken sample, instead of the next."""
        self.people, self.augmentation, self.sizes, self.seed, self.leaves_out = people, augmentation, sizes, seed, leaves_out
        self.endless = getattr(people, "endless", False)

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, place: tuple[int, int]) -> "Seen | InputError":
        """A view, or what ends the run: handed over whole, for DataLoader would wrap a traceback around what is raised in a worker."""
        try:
            return self.seen(*place)
        except InputError as error:
            return error

    def seen(self, epoch: int, number: int) -> "Seen":
        """A view. Raises InputError for a sample of another body, or when all seem to be broken."""
        broken: list[str] = []
        for step in range(min(MAX_BROKEN_IN_A_ROW, len(self.people))):
            row = (number + step) % len(self.people)
            try:
                sample = self.people[row + epoch * len(self.people) if self.endless else row]
            except BrokenSample as error:
                broken.append(str(error))
                if self.leaves_out:
                    return Seen(None, "", tuple(broken))
                continue
            view = self._view(sample, np.random.default_rng([self.seed, epoch, row]))
            self.sizes.check(view, sample.img_key or str(row))
            return Seen(view, sample.img_key or str(row), tuple(broken))
        raise InputError(f"data set: {len(broken)} samples in a row are broken, from number {number} on; the first: {broken[0]}")

    def _view(self, sample: Sample, random: np.random.Generator) -> View:
        return plain_view(sample) if self.augmentation is None else viewed(sample, self.augmentation, random)


def collate(items: "list[Seen | InputError]") -> "Loaded | InputError":
    """Views of a batch in one, or the first error."""
    for item in items:
        if isinstance(item, InputError):
            return item
    broken = tuple(text for item in items for text in item.broken)
    found = [item for item in items if item.view is not None]
    return Loaded(stacked([item.view for item in found]) if found else None, tuple(item.key for item in found), broken)


class Order(Sampler):
    """Endless batches of (epoch, number) from a cursor on; this process's part of each."""

    def __init__(self, num_people: int, batch_size: int, seed: int, start: Cursor, crew: Crew, in_turn: bool = False) -> None:
        """in_turn: numbers follow each other, as is cheapest where people are made; else they are shuffled."""
        self.num_people, self.batch_size, self.seed, self.start, self.crew = num_people, batch_size, seed, start, crew
        self.in_turn = in_turn

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches only; who is left over comes in another epoch."""
        return self.num_people // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, done = self.start.epoch, self.start.batches_done
        while True:
            order = np.arange(self.num_people)
            if not self.in_turn:
                order = np.random.default_rng([self.seed, epoch]).permutation(order)
            for k in range(done, self.batches_per_epoch):
                chosen = order[k * self.batch_size : (k + 1) * self.batch_size]
                share = self.crew.stretch(chosen) if self.in_turn else self.crew.share(chosen)
                yield [(epoch, int(number)) for number in share]
            epoch, done = epoch + 1, 0


class BrokenCount:
    """Broken samples that were met: the first few are told one by one, all are counted."""

    TOLD = 5

    def __init__(self) -> None:
        self.count = 0

    def add(self, texts: tuple[str, ...]) -> None:
        """Note some."""
        for text in texts:
            self.count += 1
            if self.count <= self.TOLD:
                log.warning("sample skipped: %s%s", text, "; further ones are only counted" if self.count == self.TOLD else "")


def _loader(views: Views, order: Sampler, num_workers: int, device: torch.device) -> DataLoader:
    options = worker_options(num_workers, BATCHES_AHEAD)
    return DataLoader(views, batch_sampler=order, collate_fn=collate, pin_memory=device.type == "cuda", **options)


def on_device(loaded: Loaded | InputError, maker: TargetMaker, broken: BrokenCount) -> Batch:
    """Pictures and truth on the training's device; raises what a worker handed over as an error."""
    if isinstance(loaded, InputError):
        raise loaded
    broken.add(loaded.broken)
    views = loaded.views.to(maker.device)
    return Batch((maker.images(views),), maker.targets(views), torch.zeros(len(views), dtype=torch.uint8), loaded.keys, pictures=True)


def plain_batches(
    people: SampleDataset, rows: np.ndarray, batch_size: int, maker: TargetMaker, workers: int
) -> Iterator[tuple[Batch, Tensor]]:
    """Samples `rows` without augmentation, in order: (batch, its pictures (B, 224, 224, 3) uint8). Broken ones are told and left out."""
    views, broken = Views(people, None, BodySizes.of(maker.body), 0, leaves_out=True), BrokenCount()
    order = [[(0, int(row)) for row in rows[start : start + batch_size]] for start in range(0, len(rows), batch_size)]
    for loaded in _loader(views, order, workers, maker.device):
        if isinstance(loaded, Loaded) and loaded.views is None:
            broken.add(loaded.broken)
        else:
            yield on_device(loaded, maker, broken), loaded.views.pictures


class PictureSource:
    """A data set, ready to be streamed from any cursor."""

    def __init__(self, people: SampleDataset, augmentation: Augmentation, maker: TargetMaker, seed: int, num_workers: int) -> None:
        self.people, self.maker, self.seed, self.num_workers = people, maker, seed, num_workers
        self.views = Views(people, augmentation, BodySizes.of(maker.body), seed)
        self._broken = BrokenCount()

    @property
    def num_broken(self) -> int:
        """Samples that were skipped so far."""
        return self._broken.count

    def __len__(self) -> int:
        return len(self.people)

    def stream(self, batch_size: int, start: Cursor, crew: Crew) -> Stream:
        """Batches from `start` on. Raises InputError when there are too few people for a batch."""
        if batch_size > len(self.people):
            raise InputError(f"batch: got {batch_size}, but the data set holds only {len(self.people)} people; lower the batch")
        order = Order(len(self.people), batch_size, self.seed, start, crew, self.views.endless)
        loader = _loader(self.views, order, self.num_workers, self.maker.device)
        return streamed(loader, cursors_from(start, order.batches_per_epoch), lambda loaded: on_device(loaded, self.maker, self._broken))
