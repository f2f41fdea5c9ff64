"""What starts the workers, restarts those that die, and gives each its GPU: processes of this machine, or Ray."""

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Lock
from pathlib import Path

from app.many.plan import Plan
from app.native_logs import prepare_native_libraries
from app.threads import usable_cores
from core.errors import InputError
from core.registry import Registry

log = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.5
MAX_RESTARTS = 5
"""Of one worker."""
EXPECTED_ERROR = 1
GRACE_S = 30.0
"""For a worker of Ray to put its video away when the run is stopped."""


@dataclass(frozen=True)
class Pool:
    """How many workers, and what each gets. workers: None takes one a GPU, or what the processors allow.

    threads: processors of a worker, None shares them out    gpus_per_worker: Ray only, may be a fraction
    """

    workers: int | None = None
    threads: int | None = None
    gpus_per_worker: float = 1.0


Engine = Callable[[Plan, Pool, threading.Event], list[str]]
"""(plan, pool, stop) -> what went wrong with the workers themselves, one line each. Returns when all workers have ended."""

ENGINES: Registry[Engine] = Registry("engine")


def thread_environment(threads: int) -> dict[str, str]:
    """Variables by which libraries that are loaded later keep to so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))


def run_worker(
    plan: Plan, name: str = "", alone: bool = False, folder: str | None = None, is_first: Callable[[], bool] = lambda: True
) -> None:
    """One worker in this process, until nothing is left to take or a signal stops it.

    alone: show each video's progress; folder: where relative paths in the plan begin, unless here; is_first: whether no other worker of
    this machine has warned of how slowly the network runs here, which is so for all of them
    """
    os.chdir(folder or ".")
    logging.basicConfig(level=logging.INFO, format=f"{name}%(message)s", stream=sys.stderr)
    logging.getLogger("core.runtimes").addFilter(lambda record: record.levelno < logging.WARNING or is_first())
    prepare_native_libraries()
    from app.many.worker import Worker
    from app.progress import ProgressBar
    from core.stopping import stop_on_signal

    with stop_on_signal() as stop:
        Worker(plan, stop, ProgressBar if alone else None).run()


@ENGINES.register("local")
def run_local(plan: Plan, pool: Pool, stop: threading.Event) -> list[str]:
    """Processes of this machine; worker k sees GPU k."""
    gpus = visible_gpus() if plan.config.device in ("auto", "cuda") else []
    workers = min(pool.workers or len(gpus) or usable_cores(), len(plan.jobs))
    threads = pool.threads or max(1, usable_cores() // workers)
    log.info("%d worker(s), %d thread(s) each%s", workers, threads, f", GPUs {', '.join(gpus)}" if gpus else "")
    environments = [
        thread_environment(threads) | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}) for number in range(workers)
    ]
    return _Processes(plan, environments, stop).run()


class _Processes:
    """The workers of `run_local`, one for each environment."""

    def __init__(self, plan: Plan, environments: list[dict[str, str]], stop: threading.Event) -> None:
        self._plan, self._environments, self._stop = plan, environments, stop
        self._processes = multiprocessing.get_context("spawn")
        self._first = self._processes.Lock()
        self._deaths: Counter[int] = Counter()
        self._problems: list[str] = []

    def run(self) -> list[str]:
        """Until all have ended. Raises InputError when not all can be started; none is left then."""
        running: dict[int, BaseProcess] = {}
        try:
            for number in range(len(self._environments)):
                running[number] = self._start(number)
            while running:
                wait([process.sentinel for process in running.values()], timeout=POLL_S)
                if self._stop.is_set() and sys.platform != "win32":  # there it would kill them; Ctrl-C has reached them already
                    for process in running.values():
                        process.terminate()
                for number, process in list(running.items()):
                    if process.exitcode is not None:
                        del running[number]
                        if self._restarts(number, process.exitcode):
                            running |= self._started_again(number)
        finally:
            for process in running.values():  # a second Ctrl-C, or one that could not be started
                process.kill()
                process.join()
        return self._problems

    def _start(self, number: int) -> BaseProcess:
        name = f"worker {number + 1}: " if len(self._environments) > 1 else ""
        process = self._processes.Process(target=_worker_process, args=(self._plan, name, self._first), name=name)
        try:
            with environment(self._environments[number]):
                process.start()
        except OSError as error:
            raise InputError(
                f"worker {number + 1} of {len(self._environments)} cannot be started ({error.strerror or error}); take fewer "
                "with --workers, the same command goes on"
            ) from error
        return process

    def _started_again(self, number: int) -> dict[int, BaseProcess]:
        """Empty where that does not go; the others work on."""
        try:
            return {number: self._start(number)}
        except InputError as error:
            self._problems.append(str(error))
            return {}

    def _restarts(self, number: int, exit_code: int) -> bool:
        """Whether a worker that ended is needed again; one that said what is wrong is not."""
        if exit_code == 0 or self._stop.is_set():
            return False
        if exit_code == EXPECTED_ERROR:
            self._problems.append(f"worker {number + 1} ended with an error")
            return False
        self._deaths[number] += 1
        log.warning("worker %d died (exit code %d)", number + 1, exit_code)
        if self._deaths[number] > MAX_RESTARTS:
            self._problems.append(f"worker {number + 1} died {self._deaths[number]} times")
            return False
        return True


def _worker_process(plan: Plan, name: str, first: Lock) -> None:
    """first: taken by the first worker that has to warn, and kept."""
    try:
        run_worker(plan, name, alone=not name, is_first=lambda: first.acquire(block=False))
    except (InputError, OSError) as error:  # also --out that cannot be written, a disk that went away
        log.error("%s", " ".join(str(error).split()))
        sys.exit(EXPECTED_ERROR)


@ENGINES.register("ray")
def run_on_ray(plan: Plan, pool: Pool, stop: threading.Event) -> list[str]:
    """Tasks of Ray: on the cluster that RAY_ADDRESS names or that runs here, else on this machine. Ray starts dead workers again."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("--engine ray: the Python package 'ray' is missing; install it: python -m pip install -r requirements-ray.txt")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tell nobody
    import ray
    from ray.exceptions import RayError, RayTaskError

    ask_to_stop = signal.getsignal(signal.SIGTERM)
    ray.init(runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))}})
    signal.signal(signal.SIGTERM, ask_to_stop)  # Ray puts its own in place
    try:
        resources = ray.cluster_resources()
        gpus = pool.gpus_per_worker if resources.get("GPU", 0) and plan.config.device in ("auto", "cuda") else 0
        fitting = int(resources["GPU"] // gpus) if gpus else int(resources["CPU"] // (pool.threads or 1))
        workers = min(pool.workers or max(fitting, 1), len(plan.jobs))
        threads = pool.threads or max(1, int(resources["CPU"] // workers))
        log.info("%d worker(s) on %d machine(s), %d thread(s) and %g GPU each", workers, len(ray.nodes()), threads, gpus)
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=MAX_RESTARTS)(run_worker)
        left, problems = [task.remote(plan, folder=os.getcwd()) for _ in range(workers)], []
        while left and not stop.is_set():
            ended, left = ray.wait(left, timeout=POLL_S)
            for reference in ended:
                try:
                    ray.get(reference)
                except RayTaskError as error:
                    problems.append(f"a worker ended with an error: {error.cause or error}")
                except RayError as error:
                    problems.append(f"a worker died {MAX_RESTARTS + 1} times: {' '.join(str(error).split())[:200]}")
        for reference in left:
            ray.cancel(reference)
        if left:
            ray.wait(left, num_returns=len(left), timeout=GRACE_S)
        return problems
    finally:
        ray.shutdown()


@contextlib.contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    """These variables for what is started meanwhile."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may say for each GPU that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
