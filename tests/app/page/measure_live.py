"""How quick the live tab is, camera to screen: `python -m tests.app.page.measure_live CLIP...` prints frames a second and latency.

Chromium's fake camera shows the clip at 640x480 and 30 frames/s; the browser, the server and the network share this machine's cores.
Latency runs from the moment the browser took the camera's picture until it has drawn the same picture with meshes on it. The CPU time
per shown frame (server and browser) tells what is possible where other programs kept the cores busy.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.app.page.browser import browser, camera_file, running_page, wait_until

WARM_UP_S = 4.0


def main() -> None:
    """Measure each clip on a page of its own."""
    parser = argparse.ArgumentParser(description="Frames a second and latency of the page's live tab.")
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    flags = parser.parse_args()
    for clip in flags.clips:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{clip.name}: {measure(clip, Path(folder), flags.seconds)}", flush=True)


def measure(clip: Path, folder: Path, seconds: float) -> str:
    """One clip."""
    camera = camera_file(clip, folder / "camera.mjpeg", num_frames=150)
    with running_page(folder / "page") as page, browser(page.url, folder / "profile", camera, webgl=False) as window:
        window.open(page.url)
        next(tab for tab in window.all("button[role=tab]") if "Live" in tab.text).click()
        window.wait_for("#fm-live-start").click()
        wait_until(lambda: window.js("return window.fastmetroLive.stats().frames") > 5, 60, "frames", window.text)
        time.sleep(WARM_UP_S)
        processes = [page.process.pid, *descendants(window.driver.service.process.pid)]
        start_s, shown = cpu_s(processes), window.js("return window.fastmetroLive.stats().total")
        time.sleep(seconds)
        stats = window.js("return window.fastmetroLive.stats(arguments[0])", seconds * 1000)
        cpu_ms = [1e3 * (end - start) / max(stats["total"] - shown, 1) for end, start in zip(cpu_s(processes), start_s, strict=True)]
    stages = "  ".join(f"{name} {value:.0f}" for name, value in stats["hud"]["stages_ms"].items())
    return (
        f"{stats['fps']:.1f} frames/s, latency median {stats['medianMs']:.0f} ms, p90 {stats['p90Ms']:.0f} ms, {stats['people']} people\n"
        f"  stages {stages} ms; {stats['hud']['governor']}\n"
        f"  CPU time per shown frame: server {cpu_ms[0]:.0f} ms, browser {sum(cpu_ms[1:]):.0f} ms"
    )


def descendants(parent: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (text := read(entry / "stat")):
            children.setdefault(int(text.rsplit(")", 1)[1].split()[1]), []).append(int(entry.name))
    found = [parent]
    for process in found:
        found += children.get(process, [])
    return found


def cpu_s(processes: list[int]) -> list[float]:
    """CPU time of each so far, all threads."""
    ticks = os.sysconf("SC_CLK_TCK")
    times = []
    for process in processes:
        text = read(Path(f"/proc/{process}/stat"))
        times.append(sum(map(int, text.rsplit(")", 1)[1].split()[11:13])) / ticks if text else 0.0)
    return times


def read(path: Path) -> str:
    """Empty for a process that has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
