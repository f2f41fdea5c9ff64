"""What is to be done: the same for every worker, wherever it runs."""

import enum
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.config import MODE_FLAGS, LiveConfig
from app.finished import changed_settings, file_version, given_settings
from app.many.videos import Job

if TYPE_CHECKING:
    from app.jobs import Engine

OpenEngine = Callable[[LiveConfig], AbstractContextManager["Engine"]]
FLAGS = tuple(name for name in MODE_FLAGS["video"] if name != "overwrite")
"""Of LiveConfig: those that recorded videos follow. What is done again is said by --redo-changed here."""


class State(enum.Enum):
    """How a video stands. CHANGED: finished, but with other settings or from another version of the file.

    FAILED: tried with these settings and this version of the file; what is finished of others stays.
    """

    LEFT = "left"
    FINISHED = "finished"
    CHANGED = "changed"
    FAILED = "failed"


@dataclass(frozen=True)
class Plan:
    """The videos and how they are done. redo_changed: do again what is CHANGED; open_engine: app.jobs.open_engine unless given."""

    jobs: tuple[Job, ...]
    config: LiveConfig
    redo_changed: bool = False
    open_engine: OpenEngine | None = None

    def state(self, job: Job) -> State:
        """As the files say it now."""
        wanted = self.wanted(job)
        changed = changed_settings(job.folder, wanted)
        if changed == []:
            return State.FINISHED
        if job.has_failed(wanted):
            return State.FAILED
        return State.LEFT if changed is None else State.CHANGED

    def is_open(self, job: Job) -> bool:
        """Whether there is something to do."""
        state = self.state(job)
        return state is State.LEFT or (state is State.CHANGED and self.redo_changed)

    def wanted(self, job: Job) -> dict[str, Any]:
        """The settings that a finished result must have: those given, not those that depend on the worker's machine."""
        given = given_settings(self.config)
        if self.config.precision != "auto":
            given["precision_asked"] = self.config.precision  # a machine without it takes what is nearest
        if self.config.mesh == "free":  # the others depend on the body
            given["mesh"] = "free"
        return given | file_version(job.video)
