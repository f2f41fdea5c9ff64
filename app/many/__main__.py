"""The command line of app.many: flags -> plan -> engine -> table. Several of these may work on one folder at the same time.

Exit codes: 0 fine, 1 a video failed or an expected error (one line), 2 usage.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from app.config import LiveConfig, add_flags, flag_fields
from app.many.engines import ENGINES, Pool
from app.many.plan import FLAGS, Plan
from app.many.report import Watch, num_finished, survey, table
from app.many.videos import find_jobs, shard
from app.native_logs import prepare_native_libraries
from core.errors import InputError
from core.stopping import stop_on_signal

log = logging.getLogger("app.many")


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit code."""
    parser = build_parser()
    flags = parser.parse_args(arguments)
    try:
        config = LiveConfig(**{name: getattr(flags, name) for name in FLAGS})
        part = parse_shard(flags.shard) if flags.shard else (1, 1)
        pool = pool_from(flags)
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    prepare_native_libraries()
    try:
        plan = Plan(shard(find_jobs(flags.sources, flags.out), *part), config, flags.redo_changed)
        return show_status(plan) if flags.status else run(plan, flags.engine, pool, flags.retry_failed)
    except KeyboardInterrupt:
        log.error("app.many: interrupted; the same command goes on")
    except (InputError, OSError) as error:
        log.error("app.many: %s", " ".join(str(error).split()))
    return 1


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m app.many", description="All videos of a folder, each once, by several workers. What is done stays done: "
        "start it again after a stop, or several times at once, also on other machines that see the same folders.",
    )  # fmt: skip
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="FOLDER|LIST.txt|FILE", help="folders are searched, lists have one path a line"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results; the same for all workers")
    parser.add_argument("--engine", default="local", choices=tuple(ENGINES), help="what starts the workers (default: local)")
    parser.add_argument("--workers", type=int, metavar="N", help="videos at once (default: one a GPU; without one, one a processor)")
    parser.add_argument("--threads", type=int, metavar="N", help="processors of a worker (default: shared out evenly)")
    parser.add_argument("--gpus-per-worker", type=float, default=1.0, metavar="G", help="Ray only: 0.5 puts two on each (default: 1)")
    parser.add_argument("--shard", metavar="I/N", help="only part I of N, 1 to N; for workers that do not see each other's results")
    parser.add_argument("--retry-failed", action="store_true", help="forget the failures on record, so that those videos are tried again")
    parser.add_argument("--redo-changed", action="store_true", help="do again what was done with other settings or from another version")
    parser.add_argument("--status", action="store_true", help="only say how far it is")
    add_flags(parser, (item for item in flag_fields() if item.name in FLAGS))
    return parser


def pool_from(flags: argparse.Namespace) -> Pool:
    """Raises ValueError for numbers that make no sense."""
    for name in ("workers", "threads"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise ValueError(f"--{name}: got {getattr(flags, name)}, expected 1 or more")
    if not flags.gpus_per_worker > 0:
        raise ValueError(f"--gpus-per-worker: got {flags.gpus_per_worker:g}, expected more than 0; --device cpu uses no GPU")
    return Pool(flags.workers, flags.threads, flags.gpus_per_worker)


def parse_shard(text: str) -> tuple[int, int]:
    """The text "2/8" -> (2, 8). Raises ValueError for anything else."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"--shard: got {text!r}, expected I/N with I from 1 to N, for example 2/8")
    return int(index), int(count)


def show_status(plan: Plan) -> int:
    """Print the table; failed videos are news here, not an error."""
    states = survey(plan)
    print(table(states, states))
    return 0


def run(plan: Plan, engine: str, pool: Pool, retry_failed: bool = False) -> int:
    """Do what is left; prints the table. Returns the exit code."""
    if retry_failed:
        for job in plan.jobs:
            job.failure.unlink(missing_ok=True)
    before, start_s = survey(plan), time.perf_counter()
    with stop_on_signal() as stop:
        problems: list[str] = []
        if any(map(plan.is_open, plan.jobs)):
            log.info("%d videos, %d of them finished", len(before), num_finished(before))
            with Watch(plan):
                problems = ENGINES[engine](plan, pool, stop)
        stopped = stop.is_set()
    after = survey(plan)
    print(table(before, after, time.perf_counter() - start_s))
    if stopped:
        problems.append("interrupted; the same command goes on")
    for problem in problems:
        log.error("app.many: %s", problem)
    failed = any(state.value == "failed" for state in after.values())
    return 1 if failed or problems else 0


if __name__ == "__main__":
    sys.exit(main())
