"""Small videos and bodies for the tests of reading, drawing and writing."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from app.export import Recording
from app.types import Frame, Intrinsics, Scene, SmoothedMesh

FOCAL_PX = 200.0


def write_video(
    path: Path,
    size_px: tuple[int, int] = (64, 48),
    times_s: list[float] | None = None,
    rotation_degrees: int = 0,
    audio: str | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    **stream_options: object,
) -> Path:
    """A clip whose top left quarter is red and whose brightness grows frame by frame; `audio` is a codec for a 440 Hz tone."""
    times_s = [i / 30 for i in range(10)] if times_s is None else times_s
    width, height = size_px
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = stream.time_base = Fraction(1, 30) if codec == "mpeg4" else Fraction(1, 90000)
        for name, value in stream_options.items():
            setattr(stream, name, value)
        if rotation_degrees:
            stream.set_display_rotation(rotation_degrees)
        sound = container.add_stream(audio, rate=44100, layout="mono") if audio else None
        for index, time_s in enumerate(times_s):
            picture = av.VideoFrame.from_ndarray(quarter_picture(width, height, index), format="rgb24")
            picture.pts = round(time_s / stream.codec_context.time_base)
            picture.time_base = stream.codec_context.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if sound is not None:
            write_tone(container, sound, times_s[-1] + 1 / 30)
    return path


def write_tone(container: av.container.OutputContainer, stream: av.AudioStream, duration_s: float) -> None:
    """Encode a 440 Hz tone into an audio stream of 44100 Hz, mono."""
    samples = (np.sin(np.arange(int(duration_s * 44100)) * 2 * np.pi * 440 / 44100) * 8000).astype(np.int16)
    fifo = av.AudioFifo()
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = 44100, 0
    fifo.write(av.AudioResampler(format=stream.codec_context.format or "s16", layout="mono", rate=44100).resample(frame)[0])
    while (piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
        container.mux(stream.encode(piece))
    container.mux(stream.encode(None))


def quarter_picture(width: int, height: int, index: int = 0) -> np.ndarray:
    """(H, W, 3) grey, top left quarter red."""
    image = np.full((height, width, 3), 60 + 4 * min(index, 30), np.uint8)
    image[: (height + 1) // 2, : (width + 1) // 2] = (220, 20, 20)
    return image


def sphere(radius_m: float = 0.3, num_rings: int = 16, num_columns: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """vertices_m (V, 3) float32 around 0, faces (F, 3) int32."""
    polar, around = np.meshgrid(np.linspace(0.05, np.pi - 0.05, num_rings), np.arange(num_columns) * 2 * np.pi / num_columns, indexing="ij")
    points = np.stack([np.sin(polar) * np.cos(around), -np.cos(polar), np.sin(polar) * np.sin(around)], axis=-1)
    row, column = np.meshgrid(np.arange(num_rings - 1), np.arange(num_columns), indexing="ij")
    a, b = row * num_columns + column, row * num_columns + (column + 1) % num_columns
    faces = np.concatenate(
        [np.stack([a, b, b + num_columns], -1).reshape(-1, 3), np.stack([a, b + num_columns, a + num_columns], -1).reshape(-1, 3)]
    )
    return (points.reshape(-1, 3) * radius_m).astype(np.float32), faces.astype(np.int32)


SPHERE_VERTICES_M, SPHERE_FACES = sphere()
SPHERE_JOINTS_M = np.stack([np.zeros(14), np.linspace(0.29, -0.29, 14), np.zeros(14)], axis=1).astype(np.float32)
"""Joints from the sphere's bottom (ankle) to its top (head)."""


def mesh(
    track_id: int = 0, translation_m: tuple[float, float, float] = (0.0, 0.0, 2.0), visibility: np.ndarray | float = 1.0,
    center_px: tuple[float, float] = (32.0, 24.0), **changes: object,
) -> SmoothedMesh:  # fmt: skip
    """A sphere as a person."""
    translation = np.array(translation_m, np.float32)
    joints = SPHERE_JOINTS_M + translation
    fields = {
        "track_id": track_id, "score": 0.9, "box_px": np.array([1, 2, 30, 40], np.float32), "vertices_m": SPHERE_VERTICES_M,
        "joints_m": SPHERE_JOINTS_M, "joints_px": (joints[:, :2] / joints[:, 2:] * FOCAL_PX + center_px).astype(np.float32),
        "joint_visibility": np.full(14, visibility, np.float32) if np.isscalar(visibility) else np.asarray(visibility, np.float32),
        "camera": np.array([1, 0.1, -0.1], np.float32), "translation_m": translation,
    }  # fmt: skip
    return SmoothedMesh(**(fields | changes))


def scene(
    *meshes: SmoothedMesh, image: np.ndarray | None = None, index: int = 0, time_s: float | None = None, focal_px: float = FOCAL_PX
) -> Scene:
    """A scene on a grey picture, camera in its middle."""
    image = np.full((48, 64, 3), 100, np.uint8) if image is None else image
    height, width = image.shape[:2]
    frame = Frame(image, index / 30 if time_s is None else time_s, index)
    return Scene(frame, Intrinsics(focal_px, (width / 2, height / 2)), tuple(meshes), {"detect": 1.0 + index, "estimate": 5.0})


def recording(folder: Path, **changes: object) -> Recording:
    """For spheres in 64x48 at 30 frames/s."""
    weights = np.full((len(SPHERE_VERTICES_M), 14), 1 / 14, np.float32)
    fields = {"folder": folder, "faces": SPHERE_FACES, "vertex_joint_weights": weights, "body": "anny", "size_px": (64, 48), "fps": 30.0}
    return Recording(**(fields | changes))


def frame_of(clip: Path, index: int) -> np.ndarray:
    """(H, W, 3) one picture of a video."""
    from app.sources import VideoSource

    return next(frame.image for frame in VideoSource(clip) if frame.index == index)
