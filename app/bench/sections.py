"""What can be measured: SECTIONS maps a name to a function that puts its rows into the report. A new section is a function and a row."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from app.bench.clips import Scenery
from app.bench.report import Report
from app.config import LiveConfig
from core.registry import Registry
from core.timing import WARM_UP, take_turns

if TYPE_CHECKING:
    from app.detect import Detector
    from core.checkpoint import Checkpoint
    from core.estimator import MeshEstimator

K = TypeVar("K")


@dataclass(frozen=True)
class Effort:
    """How much is run. frames: of a clip; repeats: most runs of a thing; rounds: runs of a whole clip; budget_s: of a section's turns."""

    frames: int = 60
    repeats: int = 40
    rounds: int = 3
    budget_s: float = 24.0


THOROUGH, QUICK = Effort(), Effort(frames=36, repeats=12, rounds=2, budget_s=8.0)


@dataclass
class Bench:
    """What the sections share; everything is made when the first of them needs it. folder: for files in passing; `stack` closes all."""

    config: LiveConfig
    report: Report
    folder: Path
    effort: Effort = THOROUGH
    interrupted: bool = False
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def scenery(self) -> Scenery:
        """What clips are cut from."""
        return Scenery.render(self.effort.frames)

    @cached_property
    def checkpoint(self) -> "Checkpoint":
        """The network of --checkpoint, as loaded; not to be changed."""
        from core.checkpoint import load_checkpoint

        return load_checkpoint(self.config.checkpoint, self.config.mesh_dir)

    @cached_property
    def estimator(self) -> "MeshEstimator":
        """As the app loads it."""
        from app.engine import open_estimator

        return open_estimator(self.config)

    @cached_property
    def official(self) -> "MeshEstimator | None":
        """The same with the network in the official layout, run eagerly; None for networks that have no such layout."""
        from app.bench.official import official_estimator

        return official_estimator(self.checkpoint, self.estimator.device)

    def official_of(self, checkpoint: str) -> "MeshEstimator | None":
        """The same for another of the networks in checkpoints/."""
        if checkpoint == self.config.checkpoint:
            return self.official
        from app.bench.official import official_estimator
        from core.checkpoint import load_checkpoint

        return official_estimator(load_checkpoint(checkpoint), self.estimator.device)

    @cached_property
    def detector(self) -> "Detector":
        """As the app loads it."""
        from app.engine import open_detector

        detector = open_detector(self.config)
        self.stack.callback(detector.close)
        return detector

    def turns(
        self, tasks: Mapping[K, Callable[[], object]], repeats: int | None = None, warm_up: int = WARM_UP, budget_s: float | None = None
    ) -> dict[K, list[float]]:
        """core.timing.take_turns; after Ctrl-C what was measured until then, and `interrupted` is set."""
        times_ms: dict[K, list[float]] = {}
        try:
            take_turns(
                tasks, repeats or self.effort.repeats, warm_up, self._wait(), budget_s or self.effort.budget_s, times_ms
            )  # fmt: skip
        except KeyboardInterrupt:
            self.interrupted = True
        return times_ms

    def _wait(self) -> Callable[[], object] | None:
        from core.bench import waiting
        from core.estimator import choose_device

        return waiting(choose_device(self.config.device)[0])


Section = Callable[[Bench], None]
SECTIONS: Registry[Section] = Registry("section of the benchmark")
"""Name -> function that measures."""
ORDER = ("network", "stages", "recorded", "live", "start-up", "smoothing")
"""What is run by default, in this order; others only when they are asked for by name."""


def chosen(names: list[str]) -> Iterator[tuple[str, Section]]:
    """The sections of these names, or of ORDER. Raises InputError for unknown names."""
    wanted = {name: SECTIONS[name] for name in names or ORDER}
    yield from sorted(wanted.items(), key=lambda item: ORDER.index(item[0]) if item[0] in ORDER else len(ORDER))
