"""What 3D files show of the rows of a meshes.npz: everybody's time in the picture, and the part of a mesh that is seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.export.sink import UP_FROM_CAMERA
from app.visibility import HIDDEN_BELOW, SHOWN_ABOVE, with_smooth_edge
from core.joints import JOINT_NAMES

FRAME_S = 1 / 30
"""Of what has no rate, a picture."""
GAP_FRAMES = 3
"""Somebody missing for more frames than this disappears for that time."""
ANKLES = [JOINT_NAMES.index("L_Ankle"), JOINT_NAMES.index("R_Ankle")]
FLOOR_ROWS = 64
"""Rows of each person in which their lowest point is looked for."""
FLOOR_PERCENTILE = 10
"""Of a person's lowest points: low, for people jump; not the lowest of all, for that is noise."""
LONG_ENOUGH = 0.1
"""A person whose feet are seen in fewer rows, as a share of those of whoever's feet are seen longest, is not asked for the floor."""


@dataclass(frozen=True)
class Track:
    """A person without gaps. rows: (T,) of meshes.npz, in order; times_s: (T,); joints_m: (T, 14, 3) before the camera."""

    track_id: int
    rows: np.ndarray
    times_s: np.ndarray
    joints_m: np.ndarray
    hidden_from_s: float


def from_0(times_s: np.ndarray) -> np.ndarray:
    """The times of 3D files, which have none before 0; some videos have."""
    return times_s - min(0.0, float(times_s.min()))


def frame_s_of(table: dict[str, np.ndarray]) -> float:
    """How long a frame lasts."""
    return 1 / float(table["fps"]) if table["fps"] > 0 else FRAME_S


def tracks_of(table: dict[str, np.ndarray]) -> list[Track]:
    """Everybody, cut where somebody is missing for more than GAP_FRAMES."""
    tracks = []
    frame_s = frame_s_of(table)
    for track_id in np.unique(table["track_id"]):
        rows = np.flatnonzero(table["track_id"] == track_id)
        rows = rows[np.argsort(table["time_s"][rows], kind="stable")]
        rows = rows[np.append(True, np.diff(table["time_s"][rows].astype(np.float32)) > 0)]  # as precise as 3D files are
        for part in np.split(rows, np.flatnonzero(np.diff(table["frame_index"][rows]) > GAP_FRAMES) + 1):
            times_s = table["time_s"][part]
            joints_m = table["joints_m"][part] + table["translation_m"][part][:, None]
            tracks.append(Track(int(track_id), part, times_s, joints_m, float(times_s[-1]) + frame_s))
    return tracks


def people_of(tracks: Sequence[Track]) -> dict[int, list[Track]]:
    """Track id -> all tracks of that person, in order."""
    people: dict[int, list[Track]] = {}
    for track in tracks:
        people.setdefault(track.track_id, []).append(track)
    return people


def rows_of(tracks: Sequence[Track]) -> np.ndarray:
    """(T,) of them all, one after the other."""
    return np.concatenate([track.rows for track in tracks])


def place_of_camera_m(tracks: list[Track], table: dict[str, np.ndarray], vertices_m: np.ndarray) -> np.ndarray:
    """(3,) where the camera stands in the world of 3D files: y up, the floor at y = 0, the origin amid the people.

    The floor is that of the person who stands lowest, so that everybody stands on it or above. Only rows that show both feet count, unless
    there are none: then feet are guesses, and so is the floor. vertices_m: (N, V, 3) meshes of all rows
    """
    everybody = [rows_of(own) for own in people_of(tracks).values()]
    visibility, translation_m = table["joint_visibility"], table["translation_m"].astype(np.float64)
    shown = [rows[visibility[rows].max(axis=1) >= HIDDEN_BELOW] for rows in everybody]
    middle_m = np.mean([translation_m[rows].mean(axis=0) for rows in shown if len(rows)] or [translation_m.mean(axis=0)], axis=0)
    standing = [rows[visibility[rows][:, ANKLES].min(axis=1) >= SHOWN_ABOVE] for rows in everybody]
    longest = max(map(len, standing))
    standing = [rows for rows in standing if len(rows) >= max(1, LONG_ENOUGH * longest)] if longest else everybody
    floor_m = min(_floor_m(some_of(rows, FLOOR_ROWS), vertices_m, translation_m) for rows in standing)
    return -np.array([1, 0, 1]) * middle_m * UP_FROM_CAMERA - (0, floor_m, 0)


def _floor_m(rows: np.ndarray, vertices_m: np.ndarray, translation_m: np.ndarray) -> float:
    """Height of what a person stands on, above the camera."""
    lowest_m = [-float(vertices_m[row][:, 1].max()) - translation_m[row, 1] for row in rows]
    return float(np.percentile(lowest_m, FLOOR_PERCENTILE))


def some_of(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, spread evenly."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]


def without_hidden(points_m: np.ndarray, faces: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, V, 3) and the faces between vertices that are seen (V,), ending in a smooth edge."""
    shown = np.ones(len(seen), bool)
    moved = []
    for points in points_m:
        edged, shown = with_smooth_edge(points, faces, seen)
        moved.append(edged)
    return np.stack(moved), faces[shown[faces].all(axis=1)]
