"""A display without a screen (Xvfb): what is on it, keys and a close button for the programs that draw there."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import ImageGrab
from Xlib import XK, X
from Xlib.display import Display
from Xlib.ext import xtest
from Xlib.protocol.event import ClientMessage

SIZE_PX = (1280, 900)


class Screen:
    """environment: for programs that are to draw there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.environment = {key: value for key, value in os.environ.items() if key != "WAYLAND_DISPLAY"} | {"DISPLAY": name}

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB of all that is shown."""
        return np.asarray(ImageGrab.grab(xdisplay=self.name).convert("RGB"))

    def press(self, *keys: str) -> None:
        """Keys, by their X names (w, Escape, space), to the window in the middle."""
        with contextlib.closing(Display(self.name)) as display:
            xtest.fake_input(display, X.MotionNotify, x=SIZE_PX[0] // 2, y=SIZE_PX[1] // 2)
            for key in keys:
                code = display.keysym_to_keycode(XK.string_to_keysym(key))
                for event in (X.KeyPress, X.KeyRelease):
                    xtest.fake_input(display, event, code)
                    display.sync()
                    time.sleep(0.05)

    def click_close(self, title: str) -> None:
        """What a window manager sends when the close button is clicked."""
        with contextlib.closing(Display(self.name)) as display:
            windows = [window for window in display.screen().root.query_tree().children if window.get_wm_name() == title]
            protocols, delete = display.intern_atom("WM_PROTOCOLS"), display.intern_atom("WM_DELETE_WINDOW")
            for window in windows:
                window.send_event(ClientMessage(window=window, client_type=protocols, data=(32, [delete, X.CurrentTime, 0, 0, 0])))
            display.sync()
            assert windows, f"no window {title!r}"

    def until(self, reached: Callable[[np.ndarray], bool], limit_s: float = 180.0) -> np.ndarray:
        """Look until something is on the screen; that picture."""
        end_s = time.perf_counter() + limit_s
        while not reached(image := self.picture()):
            assert time.perf_counter() < end_s, "it never appeared on the screen"
            time.sleep(0.1)
        return image


@contextlib.contextmanager
def open_screen() -> Iterator[Screen]:
    """Start Xvfb on a free display; skips the test where it is missing."""
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb, which this machine does not have (Debian: apt-get install xvfb)")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{SIZE_PX[0]}x{SIZE_PX[1]}x24", "-nolisten", "tcp", "-noreset"]
    server = subprocess.Popen(command, pass_fds=(write,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            number = pipe.readline().strip()
        assert number, "Xvfb did not start"
        yield Screen(f":{number}")
    finally:
        server.terminate()
        server.wait(10)
