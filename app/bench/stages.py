"""Each step of the work by itself: STAGES maps its name to what makes a run of it. A new stage is a function and a row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count, repeat
from pathlib import Path

import numpy as np

from app.bench.clips import FPS, Clip
from app.bench.official import OFFICIAL
from app.bench.report import Row
from app.bench.sections import SECTIONS, Bench
from app.config import LiveConfig
from app.live import LivePipeline
from app.types import Frame, Scene, SmoothedMesh
from core.errors import InputError
from core.registry import Registry
from core.timing import Spread
from core.types import MeshEstimate, PersonCrop

SIZES_PX = ((640, 480), (1280, 720))


@dataclass(frozen=True)
class Work:
    """What the stages work on: a clip with one person. path: its file; frames: its pictures; scene: the last of them with its mesh."""

    bench: Bench
    clip: Clip
    path: Path
    frames: list[Frame]
    scene: Scene

    @classmethod
    def prepare(cls, bench: Bench, clip: Clip) -> "Work":
        """Raises InputError when the person is not found."""
        frames = clip.frames(bench.scenery)
        pipeline = LivePipeline(bench.estimator, bench.detector, bench.config.for_camera())
        scenes = [pipeline.process(frame) for frame in frames[:8]]
        if not scenes[-1].meshes:
            raise InputError("the person in the rendered clip is not found; see --check for what may be missing")
        path = clip.write(bench.scenery, bench.folder / f"stages-{clip.size_px[0]}x{clip.size_px[1]}.mp4")
        return cls(bench, clip, path, frames, scenes[-1])

    @property
    def mesh(self) -> SmoothedMesh:
        """The person."""
        return self.scene.meshes[0]

    @cached_property
    def crop(self) -> PersonCrop:
        """The person's."""
        return self.bench.estimator.crop(self.scene.frame.image, self.mesh.box_px)

    @cached_property
    def estimate(self) -> MeshEstimate:
        """Of the crop."""
        return self.bench.estimator.from_crops([self.crop])[0]

    @property
    def fit_config(self) -> LiveConfig:
        """As for recordings, where bodies are fitted."""
        return self.bench.config


@dataclass(frozen=True)
class Stage:
    """make: work -> a run of the stage, None where this network or body has no such stage

    sized: whether the picture's size matters; per_person: whether it runs once for each of several people, not once a frame
    """

    make: Callable[[Work], Callable[[], object] | None]
    sized: bool = False
    per_person: bool = True


STAGES: Registry[Stage] = Registry("stage")


def stage(name: str, sized: bool = False, per_person: bool = True) -> Callable[[Callable[[Work], Callable[[], object] | None]], object]:
    """Decorator: a row of STAGES."""
    return lambda make: STAGES.register(name)(Stage(make, sized, per_person))


@stage("decode", sized=True, per_person=False)
def _decode(work: Work) -> Callable[[], object]:
    from app.sources import VideoSource

    pictures: Iterator[Frame] = chain.from_iterable(VideoSource(work.path) for _ in repeat(None))
    return lambda: next(pictures)


@stage("detect", sized=True, per_person=False)
def _detect(work: Work) -> Callable[[], object]:
    """A look at the whole frame and at the person known."""
    return lambda: work.bench.detector.detect(work.scene.frame.image, (work.mesh.box_px,))


@stage("crop", sized=True)
def _crop(work: Work) -> Callable[[], object]:
    return lambda: work.bench.estimator.crop(work.scene.frame.image, work.mesh.box_px)


@stage("estimate")
def _estimate(work: Work) -> Callable[[], object]:
    """The network as the app runs it, with everything from the crop to arrays."""
    return lambda: work.bench.estimator.from_crops([work.crop])


@stage("up-sample")
def _upsample(work: Work) -> Callable[[], object]:
    """Coarse to full mesh, a part of the network."""
    import torch

    model = work.bench.checkpoint.model
    coarse = torch.zeros(1, model.num_tokens[-1], 3)

    def run() -> None:
        with torch.inference_mode():
            model.upsample(coarse.to(model.xyz_regressor.weight.device))

    return run


@stage("body fit")
def _body_fit(work: Work) -> Callable[[], object] | None:
    """The body's parameters and the mesh that they pose."""
    from app.parametric import Sighting, chosen_fitter, fitted
    from app.placing import in_frame
    from app.shapes import TrackShapes

    body = work.bench.estimator.body
    if chosen_fitter(body, work.fit_config) is None:
        return None
    posture, joints_m = in_frame(work.estimate, work.scene.intrinsics)
    sighting, shapes = Sighting(1, posture, joints_m.astype(np.float32), 1.0, work.scene.intrinsics), TrackShapes()
    return lambda: fitted([sighting], shapes, body, work.fit_config)


@stage("smooth")
def _smooth(work: Work) -> Callable[[], object]:
    from app.placing import in_frame
    from app.smooth import MeshSmoother
    from app.types import Sample

    smoother, config = MeshSmoother(work.bench.config.smoothing, work.bench.config.smooth), work.bench.config
    posture, joints_m = in_frame(work.estimate, work.scene.intrinsics, config.parametric)
    times_s = (index / FPS for index in count())
    return lambda: smoother(Sample(1, next(times_s), posture, joints_m))


@stage("draw overlay", sized=True)
def _draw(work: Work) -> Callable[[], object] | None:
    from app.render import draw_overlay
    from app.visibility import body_joint_weights

    body = work.bench.estimator.body
    if not len(body.faces):
        return None
    weights = body_joint_weights(body)
    return lambda: draw_overlay(work.scene, body.faces, weights)


@stage("encode", sized=True, per_person=False)
def _encode(work: Work) -> Callable[[], object]:
    from app.export.mp4 import Mp4Writer

    writer = Mp4Writer(work.bench.folder / f"encode-{work.clip.size_px[0]}.mp4", work.clip.size_px, FPS)
    work.bench.stack.callback(writer.close)
    there_and_back = [*work.frames, *work.frames[-2:0:-1]]
    numbers = count()

    def run() -> None:
        number = next(numbers)
        writer.write(there_and_back[number % len(there_and_back)].image, number / FPS)

    return run


@SECTIONS.register("stages")
def measure_stages(bench: Bench) -> None:
    """Of one person; those on which the picture's size has no bearing on the first clip only."""
    tasks: dict[tuple[str, str], Callable[[], object]] = {}
    for size_px in SIZES_PX:
        clip = Clip(size_px, 1, bench.effort.frames)
        work = Work.prepare(bench, clip)
        for name in STAGES:
            run = STAGES[name].make(work) if STAGES[name].sized or size_px == SIZES_PX[0] else None
            if run is not None:
                tasks[name, clip.name if STAGES[name].sized else "1 person"] = run
    if bench.official is not None:
        tasks["estimate", OFFICIAL] = lambda: bench.official.from_crops([work.crop])
    spreads = {key: Spread.of(values) for key, values in bench.turns(tasks).items()}
    official = spreads.get(("estimate", OFFICIAL))
    for (name, setting), spread in sorted(spreads.items(), key=lambda item: list(STAGES).index(item[0][0])):
        ratio = official.median_ms / spread.median_ms if name == "estimate" and official else None
        rate = {"people_per_s" if STAGES[name].per_person else "frames_per_s": 1e3 / spread.median_ms}
        bench.report.rows.append(Row("stages", name, setting, spread, ratio=ratio, **rate))
