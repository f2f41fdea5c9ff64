"""What 3D files show of the rows of a meshes.npz: everybody's time in the picture, and the part of a mesh that is seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.rate import FALLBACK_FPS
from app.visibility import with_smooth_edge

GAP_FRAMES = 3
"""Somebody missing for more frames than this disappears for that time."""


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


def frame_s_of(table: Mapping[str, np.ndarray]) -> float:
    """How long a frame lasts."""
    return 1 / float(table["fps"]) if table["fps"] > 0 else 1 / FALLBACK_FPS


def tracks_of(table: Mapping[str, np.ndarray]) -> list[Track]:
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
