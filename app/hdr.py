"""Videos with a high dynamic range as ordinary screens show them: HLG, in which iPhones record, and PQ, with BT.2020's colours.

Taken as they come, their numbers show people pale and dark. Each channel goes through a table, all three through a matrix: a fit to what
the standards want, in a few milliseconds for 1920x1080, where FFmpeg's exact way takes ten times as long. Greys are exact, mild colours off
by 1 (HLG) or 5 (PQ) of 255 in the mean, skin by 1 or 3; strong ones by more: a red shirt is 27 or 43 too red. Highlights above white
are squeezed into what is left.
"""

import functools
from collections.abc import Callable

import cv2
import numpy as np

BT2020_PRIMARIES = 9
PQ, HLG = 16, 18
"""H.273's numbers, which FFmpeg uses."""
PEAK_NITS, WHITE_NITS = 1000.0, 203.0
"""Of HLG's display, and of white paper. Source: ITU-R BT.2408."""
KNEE = 0.7
"""Of white: what is darker keeps its light."""
LUMA = np.array([0.2627, 0.6780, 0.0593])
BT709_FROM_BT2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
"""Of light. Source: ITU-R BT.2087."""
GREYS, COLOURFULNESS = 12, (-0.3, -0.15, 0.0, 0.15, 0.3)
"""Colours that the matrix is fitted on: so many greys, and what lies so far from them in each channel, as numbers of a screen 0..1."""

Converter = Callable[[np.ndarray], np.ndarray]


def converter_for(primaries: int, transfer: int) -> Converter | None:
    """What turns pictures (H, W, 3) uint8 RGB of a video with these numbers of H.273 into a screen's (sRGB); None where they are."""
    wide = primaries == BT2020_PRIMARIES
    if transfer not in LIGHT and not wide:
        return None
    table, matrix = _fit(transfer, wide)

    def convert(image: np.ndarray) -> np.ndarray:
        return cv2.transform(cv2.LUT(image, table), matrix)

    return convert


def screen_colours(signal: np.ndarray, transfer: int, wide: bool) -> np.ndarray:
    """(..., 3) signal 0..1 -> (..., 3) sRGB 0..1, exactly. wide: of BT.2020's primaries."""
    light = LIGHT.get(transfer, _screen_light)(signal)
    light = light @ BT709_FROM_BT2020.T if wide else light
    return _screen_signal(_squeezed(np.maximum(light, 0)) if transfer in LIGHT else light)


@functools.cache
def _fit(transfer: int, wide: bool) -> tuple[np.ndarray, np.ndarray]:
    """(256,) uint8 table and (3, 3) matrix; greys are exact."""
    greys = np.tile(np.arange(256)[:, None] / 255, 3)
    table = np.round(255 * screen_colours(greys, transfer, wide=False)[:, 0]).astype(np.uint8)
    if not wide:
        return table, np.eye(3)
    around = np.stack(np.meshgrid(*[COLOURFULNESS] * 3), -1).reshape(-1, 3)
    wanted = (np.linspace(0.05, 1, GREYS)[:, None, None] + around).reshape(-1, 3)
    wanted = wanted[((wanted >= 0) & (wanted <= 1)).all(1)]
    signal = _signal_for(wanted, transfer)
    found = np.interp(signal, np.arange(256) / 255, table / 255)
    matrix = np.linalg.lstsq(found, screen_colours(signal, transfer, wide), rcond=None)[0].T
    return table, matrix / matrix.sum(1, keepdims=True)


def _signal_for(colours: np.ndarray, transfer: int) -> np.ndarray:
    """(N, 3) sRGB -> (N, 3) signal in BT.2020's primaries that has about these colours: a grey's table turned round."""
    light = np.maximum(_screen_light(colours) @ np.linalg.inv(BT709_FROM_BT2020).T, 0)
    steps = np.linspace(0, 1, 1024)
    greys = LIGHT.get(transfer, _screen_light)(np.tile(steps[:, None], 3))[:, 0]
    return np.interp(light, greys, steps)


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """Light of HLG's display, 1 = white. Source: ITU-R BT.2100, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return PEAK_NITS / WHITE_NITS * (scene @ LUMA)[..., None] ** 0.2 * scene


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """Light that PQ stands for, 1 = white. Source: ITU-R BT.2100, table 4."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = signal ** (1 / m2)
    return 10_000 / WHITE_NITS * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


LIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {HLG: _hlg_light, PQ: _pq_light}


def _squeezed(light: np.ndarray) -> np.ndarray:
    """Light 0..1 for a screen: unchanged below KNEE, from there on ever flatter up to what HLG's display can show."""
    range_in, range_out = PEAK_NITS / WHITE_NITS - KNEE, 1 - KNEE
    above, steep = np.clip((light - KNEE) / range_in, 0, 1), range_in / range_out
    return np.minimum(light, KNEE + range_out * steep * above / (1 + (steep - 1) * above))


def _screen_signal(light: np.ndarray) -> np.ndarray:
    """Light 0..1 -> sRGB. Source: IEC 61966-2-1."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _screen_light(signal: np.ndarray) -> np.ndarray:
    """Numbers of sRGB -> light 0..1."""
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
