"""`--bench`: the chosen sections one after the other into one report, which is printed and written even when it is cut short."""

import logging
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from app.bench import commands, flows, network, scaling, smoothing, stages  # noqa: F401 - each registers its sections
from app.bench.machine import peak_gpu_memory_mb, peak_memory_mb, this_machine
from app.bench.report import Report
from app.bench.sections import QUICK, THOROUGH, Bench, chosen
from app.config import LiveConfig
from core.stopping import interrupted_politely

log = logging.getLogger(__name__)


def run_bench(names: list[str], folder: Path, config: LiveConfig, quick: bool = False) -> tuple[str, bool]:
    """What to print, and whether all was measured. names: sections; none for all but the optional ones

    Raises InputError for an unknown section or a checkpoint that is missing, OSError when `folder` cannot be written.
    """
    sections = list(chosen(names))
    folder.mkdir(parents=True, exist_ok=True)
    start_s = time.perf_counter()
    settings = {
        "sections": [name for name, _ in sections], "quick": quick, "checkpoint": config.checkpoint, "device": config.device,
        "precision": config.precision,
    }  # fmt: skip
    report = Report(this_machine(), settings)
    if report.machine.warning:
        log.warning("%s", report.machine.warning)
    with (
        interrupted_politely(),  # a polite kill leaves a table as Ctrl-C does
        tempfile.TemporaryDirectory(prefix="fastmetro-bench-") as temporary,
        ExitStack() as stack,
    ):
        bench = Bench(config, report, Path(temporary), QUICK if quick else THOROUGH, stack=stack)
        try:
            for number, (name, section) in enumerate(sections, start=1):
                log.info("bench %d of %d: %s (%.0f s so far)", number, len(sections), name, time.perf_counter() - start_s)
                section(bench)
                if bench.interrupted:
                    break
        except KeyboardInterrupt:
            bench.interrupted = True
    report.settings["network"] = bench.estimator.description if "estimator" in vars(bench) else None
    report.state = "interrupted" if bench.interrupted else "complete"
    report.seconds, report.peak_memory_mb, report.peak_gpu_memory_mb = time.perf_counter() - start_s, peak_memory_mb(), peak_gpu_memory_mb()
    paths = report.write(folder)
    return "\n".join([report.text(), *(f"  {path}" for path in paths)]), not bench.interrupted
