"""The world of 3D files: a level floor at y = 0 on which people stand, y up, the origin amid them; and the camera somewhere in it.

A video that cuts from one view to another has a camera for each. Each finds floor, up and origin by its own people, and then all are put
where these agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.export.floor import one_floor
from app.export.npz import CAMERA_TURNS, VIEW
from app.export.planted import foot_moves_m, planted, way_moves_m
from app.export.sink import UP_FROM_CAMERA
from app.export.tracks import Track, frame_s_of, people_of, rows_of, some_of, tracks_of
from app.export.upright import pitch_roll_deg, up_in_camera
from app.visibility import HIDDEN_BELOW, SHOWN_ABOVE
from core.errors import InputError
from core.joints import ANKLES
from core.rotations import swing, unit

PER_ROW = ("frame_index", "track_id", "time_s", "joints_m", "translation_m", "joint_visibility", CAMERA_TURNS)
"""Columns of meshes.npz that are looked at here."""
RESTS_DEG = 0.15
"""A camera that seems to turn by less rests: that is how much following its picture errs."""
FLOOR_ROWS = 64
"""Rows of each person in which their lowest point is looked for."""
FLOOR_PERCENTILE = 10
"""Of a person's lowest points: low, for people jump; not the lowest of all, for that is noise."""


@dataclass(frozen=True)
class CameraPlace:
    """turn: (3, 3) from the camera's own axes, x right, y up, z towards the viewer, to the world's; place_m: (3,) in the world

    pitch_deg, roll_deg: how far the camera looks down, and how far it is turned clockwise
    """

    turn: np.ndarray
    place_m: np.ndarray
    pitch_deg: float
    roll_deg: float

    def world_m(self, points_m: np.ndarray) -> np.ndarray:
        """(..., 3) points before the camera, x right, y down, z away -> in the world."""
        return points_m * UP_FROM_CAMERA @ self.turn.T + self.place_m

    def seen_by(self, other: "CameraPlace") -> tuple[np.ndarray, np.ndarray]:
        """(3, 3) and (3,): what is before this camera is, turned and moved so, before the other one in the same world."""
        back = other.turn.T
        rotmat = UP_FROM_CAMERA[:, None] * (back @ self.turn) * UP_FROM_CAMERA
        return rotmat, UP_FROM_CAMERA * (back @ (self.place_m - other.place_m))


@dataclass(frozen=True)
class World:
    """Who is where, and how large.

    Everything is before the camera as it stood at the start, x right, y down, z away.
    tracks: everybody with their joints; sizes: track id -> factor of all lengths of meshes.npz
    translation_m: (N, 3) float64 of every row of meshes.npz; ankle_moves_m: (N, 2, 3) what legs have to make up for so that planted feet
    rest, right and left
    start_from_camera: (N, 3, 3) how that row's camera is turned; camera_m: (N, 3) where it is; rests: as at the start, in all rows
    """

    camera: CameraPlace
    tracks: list[Track]
    sizes: Mapping[int, float]
    translation_m: np.ndarray
    ankle_moves_m: np.ndarray
    start_from_camera: np.ndarray
    camera_m: np.ndarray
    rests: bool

    @classmethod
    def of(cls, table: Mapping[str, np.ndarray], vertices_m: np.ndarray) -> "World":
        """table: columns of meshes.npz; vertices_m: (N, V, 3) meshes of all its rows. Raises InputError for what are no places."""
        _check_places(table)
        views = rows_by_time(views_of(table), table["time_s"])
        parts = [(rows, cls._of_view(_part(table, rows), _Rows(vertices_m, rows))) for rows in views]
        _, first = parts[0]
        return first if len(parts) == 1 else _joined(parts, table)

    @classmethod
    def _of_view(cls, table: Mapping[str, np.ndarray], vertices_m: "_Rows") -> "World":
        visibility = table["joint_visibility"]
        start_from_camera, rests = _turns(table)
        joints_m = _turned(start_from_camera, table["joints_m"])
        translation_m = _turned(start_from_camera, table["translation_m"])
        tracks = tracks_of(table)
        people = {track_id: rows_of(own) for track_id, own in people_of(tracks).items()}
        up = up_in_camera([(joints_m[rows] + translation_m[rows, None], visibility[rows]) for rows in people.values()], frame_s_of(table))
        turn = turn_up(up * UP_FROM_CAMERA)
        ups = _turned(start_from_camera.transpose(0, 2, 1), np.broadcast_to(up, translation_m.shape))
        floor_m, sizes = _floor(people, visibility, translation_m @ up, vertices_m, ups)
        for track_id, rows in people.items():
            joints_m[rows] *= sizes[track_id]
            translation_m[rows] *= sizes[track_id]
        ankle_moves_m = np.zeros((len(translation_m), len(ANKLES), 3))
        for track in tracks:
            rows = track.rows
            ankles_m = joints_m[rows][:, ANKLES] + translation_m[rows, None]
            moves_m, ankle_moves_m[rows] = _standing(ankles_m, visibility[rows][:, ANKLES], translation_m[rows], track.times_s, turn)
            translation_m[rows] += moves_m
        joints_m += translation_m[:, None]
        camera = CameraPlace(turn, _place_m(people, visibility, translation_m, turn, floor_m), *pitch_roll_deg(up))
        standing = [replace(track, joints_m=joints_m[track.rows]) for track in tracks]
        return cls(camera, standing, sizes, translation_m, ankle_moves_m, start_from_camera, np.zeros_like(translation_m), rests)


def _place_m(
    people: Mapping[int, np.ndarray], visibility: np.ndarray, translation_m: np.ndarray, turn: np.ndarray, floor_m: float
) -> np.ndarray:  # fmt: skip
    """(3,) of the camera: above the floor, the people about the origin. people: track id -> rows"""
    shown = [rows[visibility[rows].max(axis=1) >= HIDDEN_BELOW] for rows in people.values()]
    middles_m = [translation_m[rows].mean(axis=0) for rows in shown if len(rows)] or [translation_m.mean(axis=0)]
    across_m, _, along_m = turn @ (np.mean(middles_m, axis=0) * UP_FROM_CAMERA)
    return -np.array([across_m, floor_m, along_m])


def _joined(parts: Sequence[tuple[np.ndarray, World]], table: Mapping[str, np.ndarray]) -> World:
    """One of several views, before the first one's camera. parts: rows of the table, in order of time, and what became of them"""
    first, count = parts[0][1], len(table["track_id"])
    translation_m, camera_m, ankle_moves_m = np.zeros((count, 3)), np.zeros((count, 3)), np.zeros((count, len(ANKLES), 3))
    joints_m, start_from_camera = np.zeros(table["joints_m"].shape), np.zeros((count, 3, 3))
    for rows, world in parts:
        rotmat, move_m = world.camera.seen_by(first.camera)
        translation_m[rows], camera_m[rows] = world.translation_m @ rotmat.T + move_m, move_m
        ankle_moves_m[rows] = world.ankle_moves_m @ rotmat.T
        start_from_camera[rows] = rotmat @ world.start_from_camera
        for track in world.tracks:
            joints_m[rows[track.rows]] = track.joints_m @ rotmat.T + move_m
    sizes = {track_id: size for _, world in parts for track_id, size in world.sizes.items()}
    tracks = [replace(track, joints_m=joints_m[track.rows]) for track in tracks_of(table)]
    return World(first.camera, tracks, sizes, translation_m, ankle_moves_m, start_from_camera, camera_m, rests=False)


def views_of(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N,) the number of the view in which each row is seen; a file that names none has one."""
    return table[VIEW] if VIEW in table else np.zeros(len(table["track_id"]), np.int32)


def rows_by_time(groups: np.ndarray, times_s: np.ndarray) -> list[np.ndarray]:
    """The rows of each group, in order; the group that begins first comes first."""
    found = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    return sorted(found, key=lambda rows: times_s[rows].min())


def _part(table: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows of all columns; the rate stays."""
    return {name: values[rows] if name in PER_ROW else values for name, values in table.items()}


class _Rows:
    """Some rows of what may be a file, read when they are asked for."""

    def __init__(self, values: np.ndarray, rows: np.ndarray) -> None:
        self._values, self._rows = values, rows

    def __getitem__(self, row: int) -> np.ndarray:
        return self._values[self._rows[row]]


def _check_places(table: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for a row of meshes.npz that is nowhere."""
    numbers = [table[name].reshape(len(table["track_id"]), -1) for name in ("joints_m", "translation_m", CAMERA_TURNS) if name in table]
    broken = ~np.isfinite(np.concatenate(numbers, axis=1)).all(axis=1)
    if broken.any():
        row = int(broken.argmax())
        raise InputError(f"row {row} (frame {table['frame_index'][row]}, track_id {table['track_id'][row]}) has places that are no numbers")


def _turns(table: Mapping[str, np.ndarray]) -> tuple[np.ndarray, bool]:
    """(N, 3, 3) float64 turns of the camera, and whether it rests: then they are those of a camera that does."""
    count = len(table["track_id"])
    at_rest = np.broadcast_to(np.eye(3), (count, 3, 3))
    if CAMERA_TURNS not in table:
        return at_rest, True
    found = table[CAMERA_TURNS].astype(np.float64)
    cosines = (np.trace(found.transpose(0, 2, 1) @ found[0], axis1=1, axis2=2) - 1) / 2
    return (at_rest, True) if cosines.min() > np.cos(np.radians(RESTS_DEG)) else (found, False)


def _turned(rotmats: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(N, 3, 3) and (N, ..., 3) -> (N, ..., 3) float64."""
    return np.einsum("nij,n...j->n...i", rotmats, vectors)


def turn_up(up: np.ndarray) -> np.ndarray:
    """(3, 3) the smallest rotation that turns a unit vector (3,) to y."""
    if up[1] < -1 + 1e-9:  # upside down: any half turn
        return np.diag([-1.0, -1.0, 1.0])
    return swing(up, np.array([[0.0, 1.0, 0.0]]))[0]


def _standing(
    ankles_m: np.ndarray, visibility: np.ndarray, places_m: np.ndarray, times_s: np.ndarray, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """What to add to somebody's places (T, 3) and, after that, to their ankles (T, 2, 3), axes as those of ankles_m. visibility: (T, 2)"""
    if len(times_s) < 3:
        return np.zeros_like(places_m), np.zeros_like(ankles_m)
    to_world = turn * UP_FROM_CAMERA
    ankles_m, places_m = ankles_m @ to_world.T, places_m @ to_world.T
    weights = planted(ankles_m, visibility >= SHOWN_ABOVE, unit(places_m), times_s)
    moves_m = way_moves_m(ankles_m, weights, places_m, times_s)
    moved_m = ankles_m + moves_m[:, None]
    feet_m = np.stack([foot_moves_m(moved_m[:, foot], weights[:, foot], times_s) for foot in range(len(ANKLES))], 1)
    return moves_m @ to_world, feet_m @ to_world


def _floor(
    people: Mapping[int, np.ndarray], visibility: np.ndarray, heights_m: np.ndarray, vertices_m: np.ndarray, ups: np.ndarray
) -> tuple[float, dict[int, float]]:  # fmt: skip
    """Its height above the camera, and everybody's size.

    people: track id -> rows; heights_m: (N,) of everybody's place above the camera; ups: (N, 3) in the axes of that row's camera
    Only rows that show both feet count, unless there are none: then feet are guesses, and so is the floor, that of whoever stands lowest.
    """
    standing = {track_id: rows[visibility[rows][:, ANKLES].min(axis=1) >= SHOWN_ABOVE] for track_id, rows in people.items()}
    standing = {track_id: rows for track_id, rows in standing.items() if len(rows)}
    levels_m = []
    for rows in (standing or people).values():
        lowest_m = [float((vertices_m[row] @ ups[row]).min() + heights_m[row]) for row in some_of(rows, FLOOR_ROWS)]
        levels_m.append(float(np.percentile(lowest_m, FLOOR_PERCENTILE)))
    sizes = dict.fromkeys(people, 1.0)
    if not standing:
        return min(levels_m), sizes
    floor_m, factors = one_floor(np.array(levels_m), np.array([len(rows) for rows in standing.values()]))
    return floor_m, sizes | dict(zip(standing, factors.tolist(), strict=True))
