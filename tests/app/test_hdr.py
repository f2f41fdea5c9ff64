"""Videos with a high dynamic range, encoded here, as ordinary screens show them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from app.hdr import BT2020_PRIMARIES, HLG, LIGHT, LUMA, PQ, converter_for, screen_colours
from app.sources import VideoSource
from tests.app.media import write_video

PATCHES = np.array([[0.6, 0.54, 0.44], [0.54, 0.2, 0.13], [0.17, 0.12, 0.62], [0.39, 0.39, 0.39], [0.71, 0.71, 0.71], [0.66, 0.64, 0.25]])
"""HLG's signal of skin, red, blue, two greys and yellow: what a camera makes of (200, 160, 130), (200, 30, 30), ... of a screen."""
SIDE_PX = 64


def hdr_clip(path: Path, transfer: str = "arib-std-b67") -> Path:
    """A few frames of PATCHES side by side, in 10 bits and BT.2020."""
    signal = np.repeat(np.tile(PATCHES, (SIDE_PX, 1, 1)), SIDE_PX, 1)
    luma = signal @ LUMA
    blue, red = ((signal[..., channel] - luma) / (2 * (1 - LUMA[channel])) for channel in (2, 0))
    planes = [np.round(64 + 876 * luma), *(np.round(512 + 896 * part)[::2, ::2] for part in (blue, red))]
    with av.open(str(path), "w") as container:
        colours = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:log-level=none"
        stream = container.add_stream("libx265", rate=30, options={"x265-params": colours, "crf": "5"})
        stream.width, stream.height, stream.pix_fmt = signal.shape[1], signal.shape[0], "yuv420p10le"
        for index in range(3):
            frame = av.VideoFrame(signal.shape[1], signal.shape[0], "yuv420p10le")
            for plane, values in zip(frame.planes, planes, strict=True):
                lines = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                lines[:, : values.shape[1]] = values
                plane.update(lines.tobytes())
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("primaries", "transfer"), [(1, 1), (2, 2), (5, 6), (1, 13)])
def test_what_screens_show_anyway_is_left_alone(primaries: int, transfer: int) -> None:
    assert converter_for(primaries, transfer) is None


def test_the_standards_own_numbers() -> None:
    """BT.2408: white paper, 203 nits, is 75 % of HLG and 58 % of PQ; 1000 nits are 75 % of PQ and all of HLG."""
    for transfer, signal, light in ((HLG, 0.75, 1.0), (PQ, 0.58, 1.0), (HLG, 1.0, 1000 / 203), (PQ, 0.75, 983 / 203), (PQ, 1.0, 1e4 / 203)):
        assert LIGHT[transfer](np.full((1, 3), signal)) == pytest.approx(light, rel=0.02)


@pytest.mark.parametrize("transfer", [HLG, PQ, 14])
def test_greys_stay_grey_grow_and_are_exact(transfer: int) -> None:
    greys = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], 3)
    shown = converter_for(BT2020_PRIMARIES, transfer)(greys)[0].astype(int)
    assert (np.ptp(shown, axis=1) <= 1).all()
    assert (np.diff(shown[:, 0]) >= 0).all()
    exact = 255 * screen_colours(greys / 255, transfer, wide=True)[0]
    assert np.abs(shown - exact).max() <= 1.5


@pytest.mark.parametrize(("transfer", "left"), [(HLG, 0.15), (PQ, 0.15), (14, 0.5)])
def test_colours_are_near_the_exact_ones(transfer: int, left: float) -> None:
    chance = np.random.default_rng(0)
    grey = chance.uniform(0.2, 0.7, (1, 4000, 1))
    signal = np.round(255 * np.clip(grey + chance.normal(0, 0.04, (1, 4000, 3)), 0, 1)).astype(np.uint8)
    exact = 255 * screen_colours(signal / 255, transfer, wide=True)
    miss = np.abs(converter_for(BT2020_PRIMARIES, transfer)(signal) - exact).mean()
    assert miss < 5.5
    assert miss < left * np.abs(signal - exact).mean()


@pytest.mark.parametrize(("name", "transfer"), [("arib-std-b67", HLG), ("smpte2084", PQ)])
def test_videos_are_read_so(name: str, transfer: int, tmp_path: Path) -> None:
    frames = list(VideoSource(hdr_clip(tmp_path / "a.mov", name)))
    assert len(frames) == 3
    middles = (np.arange(len(PATCHES)) + 0.5) * SIDE_PX
    found = frames[-1].image[SIDE_PX // 2, middles.astype(int)].astype(float)
    exact = 255 * screen_colours(PATCHES, transfer, wide=True)
    assert np.abs(found - exact).mean() < 8
    assert np.abs(found - exact)[[0, 3, 4]].max() < 8, "skin and greys"
    if transfer == HLG:
        assert np.abs(255 * PATCHES - exact).mean() > 20, "as it comes it is far off"


def test_other_videos_keep_their_numbers(tmp_path: Path) -> None:
    source = VideoSource(write_video(tmp_path / "a.mp4"))
    assert np.abs(next(iter(source)).image[-4, -4].astype(int) - 60).max() <= 3
