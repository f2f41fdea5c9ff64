"""Results on disk: one file per format, all found in SINKS."""

from app.export import glb, npz, overlay, pictures, summary  # noqa: F401 - each registers its sink
from app.export.sink import OVERLAY_SINK, PICTURE_SINKS, PREVIEW_SINK, SINKS, VIDEO_SINKS, Parameters, Recording, Sink, SinkGroup

__all__ = ["OVERLAY_SINK", "PICTURE_SINKS", "PREVIEW_SINK", "SINKS", "VIDEO_SINKS", "Parameters", "Recording", "Sink", "SinkGroup"]
