"""Holds the time a live frame may take: first the detector looks less often, then less is drawn, then fewer frames are estimated.

Pure logic on measured times: no clock, no threads. Give `note` what a frame took, do as `plan` says, show `text`.
"""

from dataclasses import dataclass, replace

DETECT_STRIDES = (8, 16, 32)
DRAW_FPS = (30.0, 25.0, 20.0, 15.0, 10.0)
INFER_STRETCHES = (1.2, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Time between two inferences on the last rungs, in targets."""

TOO_SLOW, QUICK_ENOUGH, FAR_TOO_SLOW = 1.1, 0.8, 1.7
"""Share of the allowed time that is used: above the first a rung is climbed, above the last two; below the second one is given back."""
WINDOW_S, MIN_FRAMES = 0.6, 4
PATIENCE_S, MAX_PATIENCE_S = 2.0, 60.0
RELAPSE_S = 4.0
"""A rung taken back within this after it was given up was given up too early: the next try waits twice as long."""


@dataclass(frozen=True)
class Plan:
    """What the live loop may do.

    detect_stride: frames from one look of the detector to the next   draw_fps: most drawings a second
    infer_interval_ms: least time from one inference to the next; 0 takes every frame of the camera
    """

    detect_stride: int = DETECT_STRIDES[0]
    draw_fps: float = DRAW_FPS[0]
    infer_interval_ms: float = 0.0


def ladder(target_ms: float, lowest_fps: float = 0.0, draws: bool = True) -> tuple[Plan, ...]:
    """All plans, from the fullest to the leanest; each changes one thing.

    lowest_fps: nothing is made rarer than this; draws: whether there is any drawing to make rarer, and to leave time for: where nobody
    draws a network that rests helps nobody
    """
    plans = [Plan()]
    plans += [replace(plans[-1], detect_stride=stride) for stride in DETECT_STRIDES[1:]]
    plans += [replace(plans[-1], draw_fps=fps) for fps in DRAW_FPS[1:] if draws and fps >= lowest_fps]
    intervals_ms = [stretch * target_ms for stretch in INFER_STRETCHES]
    plans += [
        replace(plans[-1], infer_interval_ms=interval_ms) for interval_ms in intervals_ms if draws and interval_ms * lowest_fps <= 1000
    ]
    return tuple(plans)


class Governor:
    """Chooses the plan under which a frame takes at most `target_ms` on average."""

    def __init__(self, target_ms: float = 33.0, lowest_fps: float = 0.0, draws: bool = True) -> None:
        """lowest_fps: for views that would rather be slow than jerky; draws: whether somebody draws; see `ladder`."""
        self.target_ms = target_ms
        self._ladder = ladder(target_ms, lowest_fps, draws)
        self._rung = 0
        self._spent: list[tuple[float, float]] = []
        self._window_start_s: float | None = None
        self._changed_s = self._given_back_s = -1e9
        self._patience_s = PATIENCE_S
        self._frame_ms = 0.0

    @property
    def plan(self) -> Plan:
        """What to do now."""
        return self._ladder[self._rung]

    @property
    def rung(self) -> int:
        """0: nothing is held back."""
        return self._rung

    @property
    def text(self) -> str:
        """What was done, for the HUD."""
        plan = self.plan
        held = [f"detector every {plan.detect_stride} frames"] if self._rung else []
        if plan.draw_fps < DRAW_FPS[0]:
            held.append(f"drawing {plan.draw_fps:g} fps")
        if plan.infer_interval_ms:
            held.append(f"inference {1000 / plan.infer_interval_ms:.0f} fps")
        goal = f"target {self.target_ms:g} ms"
        if self._rung == len(self._ladder) - 1 and self._frame_ms > TOO_SLOW * self._allowed_ms(self._rung):
            goal += f" is out of reach ({self._frame_ms:.0f} ms)"
        return f"{goal}: {', '.join(held)}" if held else f"{goal}: all as planned"

    def note(self, now_s: float, infer_ms: float, detect_ms: float = 0.0) -> None:
        """A frame went through the pipeline. infer_ms: all that it waited for; detect_ms: of a look that ended meanwhile, else 0."""
        if self._window_start_s is None:
            self._window_start_s = now_s
        self._spent.append((infer_ms, detect_ms))
        if now_s - self._window_start_s < WINDOW_S or len(self._spent) < MIN_FRAMES:
            return
        self._frame_ms = sum(infer for infer, _ in self._spent) / len(self._spent)
        detect_share_ms = sum(detect for _, detect in self._spent) / len(self._spent)
        self._spent, self._window_start_s = [], now_s
        self._decide(now_s, detect_share_ms)

    def _decide(self, now_s: float, detect_share_ms: float) -> None:
        load = self._frame_ms / self._allowed_ms(self._rung)
        if load > TOO_SLOW and self._rung < len(self._ladder) - 1:
            if now_s - self._given_back_s < RELAPSE_S:
                self._patience_s = min(2 * self._patience_s, MAX_PATIENCE_S)
            self._move(self._rung + (2 if load > FAR_TOO_SLOW else 1), now_s)
        elif load > QUICK_ENOUGH:
            self._changed_s = max(self._changed_s, now_s - self._patience_s / 2)  # not calm: half the wait starts again
        elif self._rung and now_s - self._changed_s >= self._patience_s and self._would_fit(detect_share_ms):
            self._given_back_s = now_s
            self._move(self._rung - 1, now_s)
        if not self._rung and now_s - self._changed_s > MAX_PATIENCE_S:
            self._patience_s = PATIENCE_S

    def _would_fit(self, detect_share_ms: float) -> bool:
        """Whether the rung below would hold as well, by what is known of it."""
        below, now = self._ladder[self._rung - 1], self.plan
        expected_ms = self._frame_ms + detect_share_ms * (now.detect_stride / below.detect_stride - 1)
        return expected_ms < self._allowed_ms(self._rung - 1)

    def _allowed_ms(self, rung: int) -> float:
        return max(self.target_ms, self._ladder[rung].infer_interval_ms)

    def _move(self, rung: int, now_s: float) -> None:
        self._rung = min(max(rung, 0), len(self._ladder) - 1)
        self._changed_s = now_s
