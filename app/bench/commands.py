"""The program itself, started as people start it: how long until it answers, until the first mesh, and what memory it takes."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.bench.clips import Clip
from app.bench.report import Row
from app.bench.sections import SECTIONS, Bench
from app.liveloop import FIRST_MESH
from core.timing import Spread

LAUNCH = Path(__file__).resolve().parent.parent.parent / "launch.py"
LIVE_S = 12.0
"""Of a live session, loading included, which takes half of it on slow machines."""
CAMERA_FPS = 60.0
"""Of the file played as a camera, so that it is not what holds the loop up."""
LONGEST_S = 120.0
POLL_S = 0.02


@dataclass
class Started:
    """A finished run. first_mesh_ms: None where there was none; output: of stdout."""

    code: int
    total_ms: float
    first_mesh_ms: float | None
    memory_mb: float
    output: str
    errors: list[str] = field(default_factory=list)


def start(arguments: list[str], longest_s: float = LONGEST_S) -> Started:
    """Run launch.py to its end, watching what it says and how much memory it takes."""
    begin_s = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(LAUNCH), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = Started(-1, 0.0, None, 0.0, "")

    def listen() -> None:
        for line in process.stderr:
            started.errors.append(line.rstrip())
            if started.first_mesh_ms is None and FIRST_MESH in line:
                started.first_mesh_ms = (time.perf_counter() - begin_s) * 1e3

    listeners = [threading.Thread(target=listen, daemon=True), threading.Thread(target=_keep_output, args=(process, started), daemon=True)]
    try:
        for listener in listeners:
            listener.start()
        watched = psutil.Process(process.pid)
        while process.poll() is None and time.perf_counter() - begin_s < longest_s:
            started.memory_mb = max(started.memory_mb, _memory_mb(watched))
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            process.kill()
        started.code, started.total_ms = process.wait(), (time.perf_counter() - begin_s) * 1e3
    for listener in listeners:
        listener.join(1.0)
    return started


def _keep_output(process: subprocess.Popen, started: Started) -> None:
    started.output = process.stdout.read()


def _memory_mb(process: psutil.Process) -> float:
    try:
        return process.memory_info().rss / 1e6
    except psutil.Error:
        return 0.0


def network_flags(bench: Bench) -> list[str]:
    """What this benchmark was told about the network, for the programs that it starts."""
    config = bench.config
    flags = ["--checkpoint", config.checkpoint, "--device", config.device, "--precision", config.precision]
    return flags + (["--mesh-dir", str(config.mesh_dir)] if config.mesh_dir else [])


@SECTIONS.register("start-up")
def measure_commands(bench: Bench) -> None:
    """With files in memory and the network converted, as from the second start on."""
    clip = Clip((640, 480), 1, bench.effort.frames)
    path = clip.write(bench.scenery, bench.folder / "camera.mp4", CAMERA_FPS)
    live = ["--webcam", str(path), "--loop", "--duration-s", f"{LIVE_S:g}", *network_flags(bench)]
    commands: dict[str, list[str]] = {"--help": ["--help"], "--webcam --headless, first mesh": [*live, "--headless"]}
    if has_display():
        commands["--webcam in a window, first mesh"] = live
    else:
        bench.report.skipped["start-up, the window"] = "there is no display here"
    target = str(bench.folder / "command")
    commands[f"--video, {bench.effort.frames} frames with overlay"] = [
        "--video",
        str(path),
        "--out",
        target,
        "--overwrite",
        *network_flags(bench),
    ]
    runs: dict[str, list[Started]] = {name: [] for name in commands}
    tasks = {name: _kept(runs[name], arguments) for name, arguments in commands.items()}
    bench.turns(tasks, bench.effort.rounds - 1, 0, 1.5 * bench.effort.budget_s)
    for name, started in runs.items():
        add_row(bench, name, started)


def _kept(runs: list[Started], arguments: list[str]) -> Callable[[], object]:
    return lambda: runs.append(start(arguments))


def add_row(bench: Bench, name: str, runs: list[Started]) -> None:
    """A row of the runs that went well; one that did not is said."""
    live = "mesh" in name
    good = [run for run in runs if run.code == 0 and (not live or run.first_mesh_ms is not None)]
    if len(good) < len(runs):
        bad = next(run for run in runs if run not in good)
        failed = bad.code != 0 and bad.errors
        bench.report.skipped[f"start-up, {name}"] = bad.errors[-1] if failed else f"exit code {bad.code}, no mesh within {LIVE_S:g} s"
    if not good:
        return
    spread = Spread.of([run.first_mesh_ms if live else run.total_ms for run in good])
    on_clip = "640x480, 1 person" if name != "--help" else ""
    rates = [float(found[1]) for run in good if (found := re.search(r"([\d.]+) frames/s", run.output))]
    memory_mb = max(run.memory_mb for run in good)
    row = Row("start-up", name, on_clip, spread, frames_per_s=max(rates, default=None) if live else None, memory_mb=memory_mb)
    bench.report.rows.append(row)
    latency = re.search(r"glass to mesh .*", good[-1].output)
    if latency:
        bench.report.note("start-up", f"{name}: {latency[0]}")


def has_display() -> bool:
    """Whether a window can be opened."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
