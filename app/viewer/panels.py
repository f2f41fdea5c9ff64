"""Text of the window as pictures: a bar above, a bar below, the help. Drawn with OpenCV, RGB, no transparency."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from app.hud import Hud

BAR_PX = 44
PADDING_PX = 18
FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
BACKGROUND, RAISED = (18, 20, 24), (30, 33, 39)
TEXT, MUTED, FAINT = (232, 234, 238), (150, 156, 166), (88, 94, 104)
GOOD, WARN, RECORDING = (120, 204, 146), (240, 184, 92), (238, 92, 92)
LIGHTS = {"open": GOOD, "opening": WARN, "stalled": WARN, "retrying": RECORDING, "ended": MUTED}
"""Colour of the dot before the source, by its state."""


@dataclass(frozen=True)
class Words:
    """A piece of text in one colour; dot: draw a round light before it."""

    text: str
    color: tuple[int, int, int] = TEXT
    dot: tuple[int, int, int] | None = None


def top_bar(width_px: int, hud: Hud, state: str, marks: Sequence[str], hint: str) -> np.ndarray:
    """(BAR_PX, width, 3): the source and its light, recording, what is switched on; the hint and what the governor did on the right."""
    left = [Words(hud.source or "no source", TEXT, LIGHTS.get(state, MUTED))]
    if hud.recording:
        left.append(Words(hud.recording, RECORDING, RECORDING))
    left += [Words(mark, WARN) for mark in marks]
    left += [Words(warning, WARN) for warning in hud.warnings[-1:]]
    return _bar(width_px, left, [Words(hud.governor, MUTED), Words(hint, FAINT)])


def bottom_bar(width_px: int, hud: Hud) -> np.ndarray:
    """(BAR_PX, width, 3): rate, latency, people on the left; milliseconds per stage on the right."""
    people = "nobody in view" if not hud.num_people else f"{hud.num_people} {'person' if hud.num_people == 1 else 'people'}"
    latency = "-" if hud.latency_ms is None else f"{hud.latency_ms:.0f} ms (p90 {hud.latency_p90_ms:.0f})"
    left = [Words(f"{hud.infer_fps:.0f} fps"), Words(f"drawing {hud.draw_fps:.0f} fps"), Words(f"latency {latency}"), Words(people, MUTED)]
    stages = "  ".join(f"{name} {value:.0f}" for name, value in hud.stages_ms.items())
    return _bar(width_px, left, [Words(f"{stages} ms" if stages else "", MUTED)])


def help_panel(keys: Sequence[tuple[str, str]]) -> np.ndarray:
    """(H, W, 3): two columns, the key and what it does."""
    row_px, key_px = 28, 96
    width = key_px + max(_width_px(text) for _, text in keys) + 2 * PADDING_PX
    image = np.full((row_px * len(keys) + 2 * PADDING_PX, width, 3), RAISED, np.uint8)
    for row, (key, text) in enumerate(keys):
        baseline = PADDING_PX + row * row_px + 19
        _write(image, key, (PADDING_PX, baseline), TEXT)
        _write(image, text, (PADDING_PX + key_px, baseline), MUTED)
    return cv2.rectangle(image, (0, 0), (width - 1, len(image) - 1), FAINT, 1)


def _bar(width_px: int, left: Sequence[Words], right: Sequence[Words]) -> np.ndarray:
    """Words from both ends; those on the right that do not fit are left out, the last first."""
    image = np.full((BAR_PX, width_px, 3), BACKGROUND, np.uint8)
    x = PADDING_PX
    for words in left:
        x = _place(image, words, x) + 24
    shown = [words for words in right if words.text]
    while shown and x + sum(_width_px(words.text) + 24 for words in shown) > width_px:
        shown.pop()
    x = width_px - PADDING_PX + 24 - sum(_width_px(words.text) + 24 for words in shown)
    for words in shown:
        x = _place(image, words, x) + 24
    return image


def _place(image: np.ndarray, words: Words, x: int) -> int:
    """Returns where the words end."""
    middle = BAR_PX // 2
    if words.dot is not None:
        cv2.circle(image, (x + 5, middle), 5, words.dot, -1, cv2.LINE_AA)
        x += 18
    _write(image, words.text, (x, middle + 5), words.color)
    return x + _width_px(words.text)


def _write(image: np.ndarray, text: str, where: tuple[int, int], color: tuple[int, int, int]) -> None:
    cv2.putText(image, text, where, FONT, SCALE, color, 1, cv2.LINE_AA)


def _width_px(text: str) -> int:
    return cv2.getTextSize(text, FONT, SCALE, 1)[0][0]
