"""`--replay`: a recorded session becomes the same files as a video."""

import logging
import time
from pathlib import Path

from app.config import LiveConfig
from app.export import Recording, SinkGroup
from app.jobs import NO_FACES, already_done, drawing_settings, people_phrase, result_folders, video_sinks, write_scenes
from app.progress import MakeProgress, ProgressBar
from app.session import SessionReader

log = logging.getLogger(__name__)


def replay_to_files(path: Path, folder: Path, config: LiveConfig, make_progress: MakeProgress = ProgressBar) -> str:
    """The session's files into a folder of its own within `folder`; returns the line to print. The meshes are as they were recorded.

    Raises InputError when `path` is no session, OSError when the folder cannot be written.
    """
    reader = SessionReader(path)
    target = result_folders([path], folder)[0]
    settings = dict(reader.info.settings) | drawing_settings(config)
    finished = already_done(target, settings, config.overwrite)
    if finished:
        return f"{path}: {finished}"
    settings["state"] = "failed"
    info = reader.info
    recording = Recording(
        target, info.faces, info.vertex_joint_weights, info.body, reader.size_px, reader.fps, expected_frames=reader.num_frames,
        settings=settings, parameters=info.parameters, show_hidden=config.show_hidden,
    )  # fmt: skip
    start_s = time.perf_counter()
    with SinkGroup(recording, video_sinks(config)) as sinks:
        if not len(info.faces):
            sinks.warn(NO_FACES)
        progress = make_progress(path.name, reader.num_frames)
        num_frames, people = write_scenes(reader, sinks, settings, progress, reader.size_px, reader.num_frames)
        for warning in (reader.warning, None if people else "nobody was found"):
            if warning:
                sinks.warn(warning)
                log.warning("%s: %s", path, warning)
    rate = num_frames / max(time.perf_counter() - start_s, 1e-6)
    files = ", ".join(item.name for item in sinks.paths)
    return f"{path}: {num_frames} frames, {people_phrase(len(people))}, {rate:.1f} frames/s -> {target}: {files}"
