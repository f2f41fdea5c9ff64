"""What smoothing does to the joints: jitter before and after, and how late it makes them (app.jitter)."""

from dataclasses import asdict, replace

from app.bench.clips import Clip
from app.bench.sections import SECTIONS, Bench
from app.jitter import measure
from app.live import LivePipeline


@SECTIONS.register("smoothing")
def measure_smoothing(bench: Bench) -> None:
    """On the rendered clip, followed as live sessions do."""
    config = bench.config.for_camera()
    raw = replace(config, smoothing="none")
    if config.smoothing == "none":
        config = replace(config, smoothing="one-euro")
    clip = Clip((640, 480), 1, bench.effort.frames)
    pipeline = LivePipeline(bench.estimator, bench.detector, raw)
    scenes = (pipeline.process(frame) for frame in clip.frames(bench.scenery))
    calm = measure(f"{config.smoothing}, {clip.name}", scenes, bench.estimator.body, config, live=True)
    bench.report.notes.setdefault("smoothing", []).extend(line.strip() for line in str(calm).splitlines())
    bench.report.facts["smoothing"] = {name: asdict(value) | {"left": value.ratio} for name, value in calm.signals.items()}
