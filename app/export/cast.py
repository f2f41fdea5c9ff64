"""Files of one skeleton each, for everybody of a meshes.npz, and the commands that write them.

For results that were made with --parametric or --glb, on Anny. World, floor and origin are those of people.glb, and so is the clock, the
video's: all files of a run begin with it and end where the last person is seen last.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.export.bones import BODY, PARAMETERS, BoneTurns
from app.export.gltf import held
from app.export.motion import skeleton_motion
from app.export.npz import columns_of, map_rows, reading
from app.export.rig import Skin
from app.export.sink import whole
from app.export.tracks import Track, frame_s_of, from_0, people_of, rows_of
from app.export.world import World
from app.files import distinct
from core.errors import InputError, exit_code

if TYPE_CHECKING:
    from core.bodies.anny import AnnyBody

ROWS = ("frame_index", "track_id", "time_s", "joints_m", "translation_m", "joint_visibility", *PARAMETERS)


@dataclass(frozen=True)
class Actor:
    """Somebody, at the T times of their rows.

    tracks: all of theirs, in order; phenotype: (6,) that was found at last; size: factor of all lengths
    rest_rotmats: (104, 3, 3) some pose, for bones that are left out; joint_visibility: (T, 14)
    root_m: (T, 3) of the root's joint in the world; turns: of the bones, as seen from those above, camera axes
    """

    track_id: int
    tracks: Sequence[Track]
    times_s: np.ndarray
    phenotype: np.ndarray
    size: float
    rest_rotmats: np.ndarray
    joint_visibility: np.ndarray
    root_m: np.ndarray
    turns: BoneTurns


@dataclass(frozen=True)
class Cast:
    """Everybody of a meshes.npz. table: columns by name; frame_s: how long a frame lasts."""

    body: "AnnyBody"
    world: World
    table: dict[str, np.ndarray]
    frame_s: float

    @classmethod
    def read(cls, npz_path: Path) -> "Cast":
        """Raises InputError for files that are no meshes.npz, without body parameters, of another body or with nobody in them."""
        from core.bodies import load_body

        table = _read(npz_path)
        with reading(npz_path):
            world = World.of(table, map_rows(npz_path, "vertices_m"))
        return cls(load_body(BODY), world, table, frame_s_of(table))

    @cached_property
    def num_frames(self) -> int:
        """Of a video of even rate, until the last person is seen last."""
        return 1 + round(max(track.times_s[-1] for track in self.world.tracks) / self.frame_s)

    @cached_property
    def skin(self) -> Skin:
        """Everybody's."""
        return Skin(self.body)

    def actors(self) -> Iterator[Actor]:
        """One by one, for their motion is large."""
        table = self.table
        for track_id, own in people_of(self.world.tracks).items():
            rows = rows_of(own)
            phenotype, rotmats = table["phenotype"][rows[-1]], table["bone_rotmats"]
            root_m, turns = skeleton_motion(self.body, self.world, track_id, rotmats, rows, phenotype)
            yield Actor(
                track_id, own, table["time_s"][rows], phenotype, self.world.sizes[track_id], rotmats[rows[-1]].astype(np.float64),
                table["joint_visibility"][rows], self.world.camera.world_m(root_m), turns,
            )  # fmt: skip


def keys_of(scene: Cast, actor: Actor, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When (K,) seconds, increasing, and which of the person's rows (K,): those, held in gaps and until the run ends.

    times_s: (T,) the actor's, in the precision that the format has
    """
    part = np.repeat(np.arange(len(actor.tracks)), [len(track.rows) for track in actor.tracks])
    times_s, keys = held(times_s, part)
    end_s = times_s.dtype.type((scene.num_frames - 1) * scene.frame_s)
    return (np.append(times_s, end_s), np.append(keys, keys[-1])) if end_s > times_s[-1] else (times_s, keys)


ContentOf = Callable[[Cast, Actor], bytes]


def file_name(actor: Actor, suffix: str) -> str:
    """Of the file of one person."""
    return f"person-{actor.track_id}{suffix}"


def write_people(npz_path: Path, folder: Path | None, suffix: str, content_of: ContentOf) -> list[Path]:
    """person-ID and the suffix for everybody in a meshes.npz, beside it or in `folder`; the paths.

    Raises InputError as Cast.read does, OSError for what cannot be written.
    """
    cast = Cast.read(npz_path)
    folder = npz_path.parent if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for actor in cast.actors():
        paths.append(folder / file_name(actor, suffix))
        with whole(paths[-1]) as partial:
            partial.write_bytes(content_of(cast, actor))
    return paths


def run_command(module: str, description: str, suffix: str, content_of: ContentOf, arguments: list[str] | None) -> int:
    """The command `python -m module`, which writes such files; the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description.split("\n", maxsplit=1)[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="MESHES_NPZ", help="meshes.npz of runs with --glb or --parametric")
    parser.add_argument("--out", type=Path, help=f"folder for the {suffix} files (default: beside each meshes.npz)")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _write_all(options.files, options.out, suffix, content_of))


def _write_all(files: list[Path], out: Path | None, suffix: str, content_of: ContentOf) -> None:
    """Every person of every file. Raises InputError and OSError.

    out: folder for the files, and of several meshes.npz for a folder of each, called as that one's own; None: beside each
    """
    folders = [out] * len(files)
    if out is not None and len(files) > 1:
        folders = [out / name for name in distinct(file.resolve().parent.name for file in files)]
    for file, folder in zip(files, folders, strict=True):
        for path in write_people(file, folder, suffix, content_of):
            print(path)


def _read(path: Path) -> dict[str, np.ndarray]:
    with reading(path), np.load(path, allow_pickle=False) as file:
        if str(file["body"]) != BODY:
            raise InputError(f"{path}: got the body {str(file['body'])!r}, expected {BODY!r}; for SMPL use its own tools")
        if "bone_rotmats" not in file:
            raise InputError(
                f"{path}: it holds no bone rotations; make it again with --overwrite --glb and without --mesh free, from the video or, "
                "with --replay, from the recorded session"
            )
        rows = columns_of(file, (*ROWS, "fps"))
    if not len(rows["track_id"]):
        raise InputError(f"{path}: nobody was found, so there is nothing to animate")
    rows["time_s"] = from_0(rows["time_s"])
    return rows
