"""Who is who: stable ids for the people of a video.

Detections are matched to what is expected from the last ones (place, motion, size) by the Hungarian method. Somebody must be
found `confirm_hits` times, and is shown then, where there is room, until they are lost; somebody lost keeps their id for `forget_s`
and gets it back near the place where they are expected.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from app.boxes import box_iou, center_px, clipped, side_px
from app.config import TrackConfig
from app.types import Frame, Person
from core.lean_imports import functions_later

with functions_later("scipy.sparse.csgraph._laplacian", "laplacian"):  # which brings scipy.linalg, most of what there is to import
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

UNCONFIRMED = -1
TENTATIVE_MISSES = 2
VELOCITY_DAMPING_S = 0.8
VELOCITY_MEMORY_S = 0.6
MAX_SPEED_SIDES_PER_S = 4.0
MAX_LOG_SIZE_RATIO = 0.8
DUPLICATE_IOU = 0.7
NO_MATCH = 1e6


@dataclass(frozen=True)
class Observation:
    """Where somebody was. seen: by the detector; otherwise by following their own mesh."""

    time_s: float
    box_px: np.ndarray
    score: float
    landmark_visibility: np.ndarray | None = None
    seen: bool = True


@dataclass(frozen=True)
class Track:
    """Somebody over time; observations: the last two, the newest at the end. track_id is UNCONFIRMED (-1) at first.

    velocity_px_s: (2,) of the box's centre, averaged over VELOCITY_MEMORY_S, so that one odd box does not turn somebody round.
    """

    key: int
    observations: tuple[Observation, ...]
    track_id: int = UNCONFIRMED
    hits: int = 1
    misses: int = 0
    last_seen_s: float = 0.0
    lost: bool = False
    velocity_px_s: np.ndarray = field(default_factory=lambda: np.zeros(2))

    @property
    def last(self) -> Observation:
        """The newest observation."""
        return self.observations[-1]

    @property
    def confirmed(self) -> bool:
        """Found often enough to have an id."""
        return self.track_id != UNCONFIRMED

    @property
    def shown(self) -> bool:
        """Somebody known who has not been lost."""
        return self.confirmed and not self.lost

    def seen_at(self, time_s: float) -> bool:
        """Whether the detector found them at exactly this time, and nothing is newer."""
        return self.last.seen and self.last.time_s == time_s

    def observed_at(self, time_s: float) -> Observation | None:
        """The observation made at exactly this time."""
        return next((item for item in self.observations if item.time_s == time_s), None)

    def box_at(self, time_s: float) -> np.ndarray:
        """(4,) float32 box: interpolated between the last two observations, extrapolated with a fading velocity after them."""
        last = self.last
        if time_s <= last.time_s and len(self.observations) == 2:
            first = self.observations[0]
            weight = np.clip((time_s - first.time_s) / (last.time_s - first.time_s), 0, 1)
            return ((1 - weight) * first.box_px + weight * last.box_px).astype(np.float32)
        travel_s = VELOCITY_DAMPING_S * (1 - math.exp(-max(time_s - last.time_s, 0.0) / VELOCITY_DAMPING_S))
        return (last.box_px + np.tile(self.velocity_px_s * travel_s, 2)).astype(np.float32)

    def visibility_at(self, time_s: float) -> np.ndarray | None:
        """(14,) detector's visibility, interpolated like the box; the last known one after it; None when it never looked."""
        known = [item for item in self.observations if item.landmark_visibility is not None]
        if len(known) < 2 or time_s >= known[-1].time_s:
            return known[-1].landmark_visibility if known else None
        first, last = known
        weight = np.float32(np.clip((time_s - first.time_s) / (last.time_s - first.time_s), 0, 1))
        return (1 - weight) * first.landmark_visibility + weight * last.landmark_visibility

    def score_at(self, time_s: float) -> float:
        """Detection confidence 0..1, interpolated."""
        times = [item.time_s for item in self.observations]
        return float(np.interp(time_s, times, [item.score for item in self.observations]))

    def with_observation(self, observation: Observation) -> "Track":
        """The track one observation later."""
        kept = [item for item in self.observations if item.time_s < observation.time_s][-1:]
        later = replace(self, observations=(*kept, observation), velocity_px_s=self._velocity_after(observation))
        if not observation.seen:
            return later
        return replace(later, hits=self.hits + 1, misses=0, last_seen_s=observation.time_s, lost=False)

    def _velocity_after(self, observation: Observation) -> np.ndarray:
        step_s = observation.time_s - self.last.time_s
        if step_s <= 0:
            return self.velocity_px_s
        moved = (center_px(observation.box_px) - center_px(self.last.box_px)) / step_s
        moved = moved * min(1.0, MAX_SPEED_SIDES_PER_S * side_px(observation.box_px) / max(float(np.linalg.norm(moved)), 1e-6))
        known = len(self.observations) > 1 or self.hits > 1
        weight = 1 - math.exp(-step_s / VELOCITY_MEMORY_S) if known else 1.0
        return self.velocity_px_s + weight * (moved - self.velocity_px_s)


class Tracker:
    """Matches detections over time. Call `update` with each look's people, in order of time."""

    def __init__(self, config: TrackConfig, max_people: int) -> None:
        self._config, self._max_people = config, max_people
        self._tracks: tuple[Track, ...] = ()
        self._next_key, self._next_id = 0, 1

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Everybody remembered: shown, on trial and lost."""
        return self._tracks

    @property
    def shown(self) -> tuple[Track, ...]:
        """Who is known and not lost: max_people at most."""
        return tuple(track for track in self._tracks if track.shown)

    @property
    def on_trial(self) -> tuple[Track, ...]:
        """Who was found by the last look and must be found again; not those who only wait for room."""
        needed = self._config.confirm_hits
        return tuple(track for track in self._tracks if not track.confirmed and not track.misses and track.hits < needed)

    def update(self, time_s: float, people: list[Person]) -> None:
        """Match one look's people, start new tracks, drop the dead and the doubled."""
        matches = self._match(time_s, people)
        tracks, returning = [], {track.key for track in self._tracks if track.lost and track.key in matches}
        for track in self._tracks:
            if track.key in matches:
                tracks.append(track.with_observation(_observation(time_s, people[matches[track.key]])))
            elif self._lives(track, time_s):
                tracks.append(replace(track, misses=track.misses + 1))
        taken = set(matches.values())
        for index, person in enumerate(people):
            if index not in taken:
                tracks.append(Track(self._next_key, (_observation(time_s, person),), last_seen_s=time_s))
                self._next_key += 1
        self._tracks = tuple(self._shown(without_duplicates(tracks, time_s), returning, self._config.confirm_hits))

    def follow(self, key: int, time_s: float, box_px: np.ndarray) -> None:
        """Move somebody whom the detector did not look for to where their own mesh is; what it last said of their joints holds."""
        self._tracks = tuple(
            track.with_observation(Observation(time_s, box_px, track.last.score, track.visibility_at(time_s), seen=False))
            if track.key == key
            else track
            for track in self._tracks
        )

    def lose(self, key: int) -> None:
        """Stop following somebody; they may still be recognised later."""
        self._tracks = tuple(replace(track, lost=True) if track.key == key else track for track in self._tracks)

    def confirm_all(self) -> None:
        """Show everybody on trial: for a scene so short that nobody can be found twice."""
        self._tracks = tuple(self._shown(list(self._tracks), set(), 1))

    def reset(self) -> None:
        """A cut: nobody is where they were. Ids are not used again."""
        self._tracks = ()

    def _lives(self, track: Track, time_s: float) -> bool:
        if not track.confirmed:
            return track.misses < TENTATIVE_MISSES
        return time_s - track.last_seen_s <= self._config.forget_s

    def _shown(self, tracks: list[Track], returning: set[int], needed: int) -> list[Track]:
        """Show those who come back and those found often enough, the best scores first, as long as there is room; new ones get their ids.

        returning: keys of those who were lost until this look; without room they stay so
        """
        num_shown = sum(track.shown and track.key not in returning for track in tracks)
        ready = [track for track in tracks if track.key in returning or (not track.confirmed and track.hits >= needed)]
        ready.sort(key=lambda track: (not track.confirmed, -track.last.score))
        admitted = ready[: max(0, self._max_people - num_shown)]
        new = [track.key for track in admitted if not track.confirmed]
        ids = dict(zip(new, range(self._next_id, self._next_id + len(new)), strict=True))
        self._next_id += len(new)
        waiting = returning - {track.key for track in admitted}
        return [replace(track, track_id=ids.get(track.key, track.track_id), lost=track.lost or track.key in waiting) for track in tracks]

    def _match(self, time_s: float, people: list[Person]) -> dict[int, int]:
        """Track key -> index in `people`. The lost choose last."""
        free = list(range(len(people)))
        matches: dict[int, int] = {}
        for group in ([track for track in self._tracks if not track.lost], [track for track in self._tracks if track.lost]):
            cost = np.array([[self._cost(track, people[index], time_s) for index in free] for track in group])
            if not cost.size:
                continue
            pairs = [(row, column) for row, column in zip(*cheapest(cost), strict=True) if cost[row, column] < NO_MATCH]
            matches |= {group[row].key: free[column] for row, column in pairs}
            free = [index for index in free if index not in matches.values()]
        return matches

    def _cost(self, track: Track, person: Person, time_s: float) -> float:
        """Distance in box sides + difference in size + lack of overlap; NO_MATCH outside of the gate."""
        expected_px = track.box_at(time_s)
        side = max(side_px(expected_px), side_px(person.box_px), 1.0)
        distance = float(np.linalg.norm(center_px(expected_px) - center_px(person.box_px))) / side
        size_ratio = abs(math.log(max(side_px(expected_px), 1.0) / max(side_px(person.box_px), 1.0)))
        gate = self._config.gate_sides + self._config.gate_growth_sides_per_s * (time_s - track.last_seen_s)
        if distance > gate or size_ratio > MAX_LOG_SIZE_RATIO:
            return NO_MATCH
        overlap = float(box_iou(expected_px[None], person.box_px[None])[0, 0])
        return distance + 0.5 * size_ratio + 0.5 * (1 - overlap) + (0.0 if track.confirmed else 0.2)


def without_duplicates(tracks: list[Track], time_s: float) -> list[Track]:
    """Where two tracks cover each other, only one is shown: the seen before the followed, the confirmed before the new, the older first.

    The other one counts as lost - it may be hidden behind the first and come back - or is dropped when it was never confirmed.
    Two that this very look found apart are two people.
    """
    shown: list[Track] = []
    kept: list[Track] = []
    for track in sorted(tracks, key=lambda track: (-track.last_seen_s, not track.confirmed, track.key)):
        found_now = track.last_seen_s == time_s
        rivals = [other for other in shown if not (found_now and other.last_seen_s == time_s)]
        box = track.box_at(time_s)[None]
        covered = any(float(box_iou(box, other.box_at(time_s)[None])[0, 0]) > DUPLICATE_IOU for other in rivals)
        if not covered:
            shown.append(track)
        if not covered or track.confirmed:
            kept.append(replace(track, lost=track.lost or covered))
    return sorted(kept, key=lambda track: track.key)


def known_boxes(tracker: Tracker, frame: Frame) -> tuple[np.ndarray, ...]:
    """Where everybody known is expected, within the frame; the detector zooms in there."""
    boxes = (clipped(track.box_at(frame.time_s), frame.size_px) for track in tracker.tracks if track.confirmed)
    return tuple(box for box in boxes if min(box[2:] - box[:2]) > 1)


def _observation(time_s: float, person: Person) -> Observation:
    return Observation(time_s, person.box_px, person.score, person.landmark_visibility)


def cheapest(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs that cost least together. cost: (N, M), 0 or more.

    As scipy.optimize.linear_sum_assignment, which takes three times as long to import, and somebody waits for a camera to start.
    """
    return min_weight_full_bipartite_matching(csr_array(cost + 1))  # a 0 would be no pair at all
