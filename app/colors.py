"""The colour of each person, the same in pictures, in the window and in 3D files. Imports nothing heavy: the window starts with it."""

import colorsys

_FIRST_COLORS = (
    (116, 166, 226), (240, 152, 98), (122, 196, 124), (222, 122, 168), (232, 204, 94), (150, 130, 220), (96, 200, 200), (204, 110, 96),
)  # fmt: skip
_GOLDEN_RATIO = 0.618034


def track_color(track_id: int) -> tuple[int, int, int]:
    """RGB of a person; the same id always has the same colour, the first eight are told apart easily."""
    if 0 <= track_id < len(_FIRST_COLORS):
        return _FIRST_COLORS[track_id]
    red, green, blue = colorsys.hsv_to_rgb((track_id * _GOLDEN_RATIO) % 1.0, 0.5, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
