"""Everybody's motion, for each person a file of every format that holds one skeleton: beside meshes.npz, or in one .zip."""

from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from zipfile import ZIP_DEFLATED, ZipFile

from app.export.cast import Cast, ContentOf, file_name, write_people
from app.export.sink import SINKS, LateSink, Recording, whole

FORMATS = {"bvh": "app.export.bvh:bvh_of", "fbx": "app.export.fbx:fbx_of", "vrma": "app.export.vrma:vrma_of"}
"""Suffix -> what makes the content of a file; loaded when it is needed, for each of the modules is a program, too."""


def content_of(name: str) -> ContentOf:
    """What makes files of that format."""
    return resolve_name(FORMATS[name])


def write_motion(npz_path: Path, zip_path: Path) -> None:
    """The archive of a meshes.npz. Raises InputError as Cast.read does, OSError for what cannot be written; leaves nothing behind then."""
    cast = Cast.read(npz_path)
    with whole(zip_path) as partial_path, ZipFile(partial_path, "w", ZIP_DEFLATED) as archive:
        for actor in cast.actors():
            for name in FORMATS:
                archive.writestr(file_name(actor, f".{name}"), content_of(name)(cast, actor))


class MotionSink(LateSink):
    """The files of one format."""

    def __init__(self, name: str, recording: Recording) -> None:
        super().__init__(recording, pattern_of(name))
        self._format = name

    def make(self, rows: Path) -> None:
        """Raises InputError where the body has no such bones, or nobody is there."""
        write_people(rows, None, f".{self._format}", content_of(self._format))


def pattern_of(name: str) -> str:
    """What the files of a format are called, by which they are found."""
    return f"person-*.{name}"


for _name in FORMATS:
    SINKS.register(pattern_of(_name))(partial(MotionSink, _name))
