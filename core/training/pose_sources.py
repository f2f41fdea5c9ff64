"""Where recorded poses come from: the table POSE_SOURCES. A source is "fitted", what ships with us, or a file or folder of recordings."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from core.bodies.anny import AnnyBody
from core.errors import InputError
from core.registry import Registry
from core.rotations import without_heading
from core.training.mocap import Motion, PoseBank, Reference, bank_of, read_cmu, read_deepmimic
from core.training.pose_files import read_amass, read_any_bvh

log = logging.getLogger(__name__)

FITTED = "fitted"
CMU_STRIDE = 4
"""One frame in so many of CMU's 120 in a second."""
WITHOUT_MOTION = ("shape.npz", "*_stagei.npz")
"""What AMASS keeps beside each subject's motions: their shape alone."""


class PoseSource(Protocol):
    """Something to draw poses from."""

    def sample(self, random: np.random.Generator, count: int) -> Tensor:
        """(count, J, 3, 3) float32 rotations of each bone relative to its parent; the root faces -z, tilted as recorded."""
        ...


Reader = Callable[[Path, Reference], Iterator[Motion]]
POSE_SOURCES: Registry[tuple[str, Reader]] = Registry("kind of pose source")
"""Name -> (what its files are called, reader of one file). A reader raises ValueError for a file that is none of its kind."""

POSE_SOURCES.register("cmu")(("cmu_expmap*.npz", lambda path, _: read_cmu(path, CMU_STRIDE)))
POSE_SOURCES.register("amass")(("*.npz", lambda path, _: read_amass(path)))
POSE_SOURCES.register("bvh")(("*.bvh", read_any_bvh))
POSE_SOURCES.register("deepmimic")(("humanoid3d*.txt", lambda path, _: read_deepmimic(path, 1)))


class RecordedPoses:
    """Frames of recordings: first a clip, with a weight that grows with the square root of its length, then a frame of it."""

    def __init__(self, bank: PoseBank) -> None:
        self.bank = bank
        self.lengths = np.bincount(bank.clip_index)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    def sample(self, random: np.random.Generator, count: int) -> Tensor:
        """See PoseSource."""
        weights = np.sqrt(self.lengths)
        clips = random.choice(len(weights), count, p=weights / weights.sum())
        rotmats = self.bank.rotmats_of(self.starts[clips] + (random.random(count) * self.lengths[clips]).astype(int))
        rotmats[:, 0] = torch.from_numpy(without_heading(rotmats[:, 0].numpy()).astype(np.float32))
        return rotmats


class MixedPoses:
    """Several sources in equal shares."""

    def __init__(self, sources: Sequence[PoseSource]) -> None:
        self.sources = tuple(sources)

    def sample(self, random: np.random.Generator, count: int) -> Tensor:
        """See PoseSource."""
        chosen = random.integers(len(self.sources), size=count)
        parts = [source.sample(random, count) for source in self.sources]
        return torch.stack(parts)[torch.from_numpy(chosen), torch.arange(count)]


def check_names(names: Sequence[str | Path]) -> None:
    """Raise InputError for a source that is not there; whether it can be read shows when it is opened."""
    for name in names:
        if str(name) != FITTED and not Path(name).exists():
            raise InputError(f"pose source {name}: not found; expected {FITTED!r}, or a file or folder of motion capture")


def open_pose_sources(names: Sequence[str | Path], body: AnnyBody) -> PoseSource | None:
    """The sources of these names, mixed; None for no names. Raises InputError for what is missing, foreign or broken."""
    sources = [open_pose_source(name, body) for name in names]
    return None if not sources else sources[0] if len(sources) == 1 else MixedPoses(sources)


def open_pose_source(name: str | Path, body: AnnyBody) -> PoseSource:
    """Poses of "fitted", or of a file or a folder (with all below it) of the kinds in POSE_SOURCES; see open_pose_sources."""
    if str(name) == FITTED:
        from core.training.fitted_poses import load

        return load(body)
    check_names([name])
    path = Path(name)
    reference = Reference.of(body)
    files = _files(path)
    bank = bank_of((motion for file, kind in files for motion in _read(file, kind, reference)), reference, body.bone_names)
    if bank is None:
        raise InputError(f"pose source {path}: its {len(files)} files hold no frame")
    log.info("pose source %s: %d clips, %d frames", path, len(bank.names), len(bank))
    return RecordedPoses(bank)


def kind_of_file(path: Path) -> str | None:
    """The first kind in POSE_SOURCES whose files are called so."""
    return next((kind for kind in POSE_SOURCES if path.match(POSE_SOURCES[kind][0])), None)


def _files(path: Path) -> list[tuple[Path, str]]:
    """The files to read, each with its kind; in folders those WITHOUT_MOTION are passed over."""
    wanted = ", ".join(POSE_SOURCES[kind][0] for kind in POSE_SOURCES)
    found = sorted(entry for entry in path.rglob("*") if entry.is_file() and not any(map(entry.match, WITHOUT_MOTION)))
    files = [(file, kind) for file in (found if path.is_dir() else [path]) if (kind := kind_of_file(file))]
    if not files:
        raise InputError(f"pose source {path}: no motion capture in it; expected {wanted}")
    return files


def _read(path: Path, kind: str, reference: Reference) -> Iterator[Motion]:
    try:
        for motion in POSE_SOURCES[kind][1](path, reference):
            if len(motion.positions) and not np.isfinite(motion.rotations).all():
                raise ValueError("it holds numbers that are not finite")
            if len(motion.positions):
                yield motion
    except (ValueError, KeyError, IndexError, TypeError, EOFError, OSError, StopIteration, RuntimeError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"pose source {path}: cannot be read as {kind} ({text}); fetch it anew or take it out of the folder") from error
