"""Results on disk: one file per format, all found in SINKS."""

from app.export import glb, motions, npz, overlay, pictures, summary  # noqa: F401 - each registers its sink
from app.export.sink import (
    GLB_SINK,
    OVERLAY_SINK,
    PICTURE_SINKS,
    SINKS,
    VIDEO_SINKS,
    Parameters,
    Recording,
    Sink,
    SinkGroup,
    remove_results,
)

__all__ = [
    "GLB_SINK", "OVERLAY_SINK", "PICTURE_SINKS", "SINKS", "VIDEO_SINKS", "Parameters", "Recording", "Sink", "SinkGroup", "remove_results",
]  # fmt: skip
