"""`--demo`: a synthetic person whose truth is known goes through the whole pipeline as a video file; prints the error in mm."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app.config import LiveConfig
from app.export.mp4 import Mp4Writer
from app.jobs import open_engine, process_video
from app.walker import FPS, SIZE_PX, Walker
from core.bodies import load_body
from core.errors import InputError
from core.training.metrics import mpjpe_mm, mpvpe_mm, pa_mpjpe_mm

log = logging.getLogger(__name__)

BODY = "anny"
MM_PER_M = 1000.0


@dataclass(frozen=True)
class Truth:
    """Of every frame: vertices_m (T, V, 3), joints_m (T, 14, 3), pelvis at 0; translation_m (T, 3)."""

    vertices_m: np.ndarray
    joints_m: np.ndarray
    translation_m: np.ndarray


@dataclass(frozen=True)
class DemoScores:
    """Means over the frames in which the walker was found, in mm. distance_error_mm: of the pelvis from the camera, median."""

    num_frames: int
    num_found: int
    mpjpe_mm: float
    pa_mpjpe_mm: float
    mpvpe_mm: float
    distance_error_mm: float

    def __str__(self) -> str:
        return (
            f"MPJPE {self.mpjpe_mm:.1f} mm   PA-MPJPE {self.pa_mpjpe_mm:.1f} mm   MPVPE {self.mpvpe_mm:.1f} mm   "
            f"(walker found in {self.num_found} of {self.num_frames} frames)"
        )


def run_demo(folder: Path, config: LiveConfig) -> str:
    """Render, run, compare; returns what to print. Raises InputError when the walker is not found at all."""
    config = replace(config, overwrite=True)  # the video is rendered anew each time
    video = folder / "demo.mp4"
    with open_engine(config) as engine:
        if engine.estimator.body.name != BODY:
            raise InputError(
                f"--demo: its person has an {BODY} body, the checkpoint {config.checkpoint!r} is for {engine.estimator.body.name}"
            )
        log.info("rendering the walker to %s", video)
        truth = render_walker(video)
        process_video(video, folder / "demo", engine)
    scores = compare(folder / "demo" / "meshes.npz", truth)
    (folder / "demo" / "scores.json").write_text(json.dumps(scores.__dict__, indent=2) + "\n", encoding="utf-8")
    files = "\n".join(f"  {path}" for path in (video, *sorted((folder / "demo").iterdir())))
    return f"{scores}\n{files}"


def render_walker(path: Path) -> Truth:
    """Write the walker's video; returns the truth about it."""
    walker = Walker(load_body(BODY))
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = Mp4Writer(path, SIZE_PX, FPS)
    frames = []
    try:
        for frame in walker.frames():
            writer.write(frame.image, frame.time_s)
            frames.append((frame.vertices_m, frame.joints_m, frame.translation_m))
    finally:
        writer.close()
    return Truth(*(np.stack(column) for column in zip(*frames, strict=True)))


def compare(meshes: Path, truth: Truth) -> DemoScores:
    """Errors of a meshes.npz against the truth; where several people were found, the nearest to the walker's place counts."""
    with np.load(meshes) as rows:
        index, joints_m, vertices_m = rows["frame_index"], rows["joints_m"], rows["vertices_m"]
        translation_m = rows["translation_m"]
    if not len(index):
        raise InputError("--demo: the walker was not found in any frame; see --check for what may be missing")
    away_m = np.linalg.norm(translation_m - truth.translation_m[index], axis=1)
    order = np.lexsort((away_m, index))
    best = order[np.unique(index[order], return_index=True)[1]]
    frame = index[best]
    return DemoScores(
        num_frames=len(truth.joints_m),
        num_found=len(best),
        mpjpe_mm=float(mpjpe_mm(joints_m[best], truth.joints_m[frame]).mean()),
        pa_mpjpe_mm=float(pa_mpjpe_mm(joints_m[best], truth.joints_m[frame]).mean()),
        mpvpe_mm=float(mpvpe_mm(vertices_m[best], truth.vertices_m[frame]).mean()),
        distance_error_mm=float(np.median(np.abs(translation_m[best, 2] - truth.translation_m[frame, 2])) * MM_PER_M),
    )
