"""A page that runs, and a Chromium that looks at it; both end with the test."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit

import av
import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
START_S = 60.0
SPY = """
import atexit, os, sys

def spy(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        target = arguments[1] if event != "socket.getaddrinfo" else arguments[0]
        host = target[0] if isinstance(target, tuple) else target
        text = host.decode() if isinstance(host, bytes) else str(host)
        if text not in ("127.0.0.1", "::1", "localhost", "None"):
            with open(os.environ["SPY_FILE"], "a") as file:
                file.write(f"{event} {text}\\n")

sys.addaudithook(spy)
"""
"""Put into every Python process of the page: notes each address outside of this machine that is looked up or connected to."""


@dataclass
class RunningPage:
    """A page in a process of its own. contacts: what it tried to reach outside of this machine."""

    url: str
    process: subprocess.Popen
    spy_file: Path
    lines: list[str] = field(default_factory=list)

    @property
    def contacts(self) -> str:
        return self.spy_file.read_text() if self.spy_file.exists() else ""

    @property
    def log(self) -> str:
        return "".join(self.lines)


@contextlib.contextmanager
def running_page(folder: Path, *flags: str) -> Iterator[RunningPage]:
    """`python launch.py` on a free port, its temporary files in `folder`."""
    (folder / "spy").mkdir(parents=True)
    (folder / "tmp").mkdir()
    (folder / "spy" / "sitecustomize.py").write_text(SPY)
    spy_file = folder / "contacts"
    environment = os.environ | {"PYTHONPATH": str(folder / "spy"), "SPY_FILE": str(spy_file), "TMPDIR": str(folder / "tmp")}
    command = [sys.executable, str(REPOSITORY / "launch.py"), "--port", "0", *flags]
    with subprocess.Popen(command, env=environment, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        page = RunningPage("", process, spy_file)
        reader = threading.Thread(target=lambda: page.lines.extend(process.stdout), daemon=True)
        reader.start()
        try:
            wait_until(lambda: "(Ctrl-C ends it)" in page.log or process.poll() is not None, START_S, "the page to start")
            assert process.poll() is None, page.log
            page.url = next(word for word in page.log.split() if word.startswith(("http://", "https://")))
            yield page
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(20)


@dataclass
class Browser:
    """A Chromium window on a page."""

    driver: "webdriver.Chrome"  # noqa: F821
    host: str

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.wait_for("#fm-start")

    def find(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def js(self, script: str, *values: object) -> object:
        return self.driver.execute_script(script, *values)

    def wait_for(self, selector: str, timeout_s: float = 30.0):
        """The first visible element that fits."""
        wait_until(lambda: any(item.is_displayed() for item in self.all(selector)), timeout_s, f"{selector} to show", self.text)
        return next(item for item in self.all(selector) if item.is_displayed())

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def text(self) -> str:
        return self.find("body").text

    def upload(self, *paths: Path) -> None:
        self.find("#fm-files").send_keys("\n".join(map(str, paths)))

    def console_errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return sent + [event["params"]["url"] for event in events if event["method"] == "Network.webSocketCreated"]

    def outside(self, urls: list[str]) -> list[str]:
        """Those that leave the page's host."""
        return [url for url in urls if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).netloc != self.host]


@contextlib.contextmanager
def browser(
    url: str, folder: Path, camera: Path | None = None, size_px: tuple[int, int] = (1280, 900), webgl: bool = True, trusts: bool = False
) -> Iterator[Browser]:
    """Headless Chromium; camera: an .mjpeg for its fake camera; webgl: in software, costly; trusts: any certificate, as one whose user
    went on after the warning. Other hosts lead nowhere.
    """
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs chromium and chromium-driver, which this machine does not have")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = [
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={size_px[0]},{size_px[1]}",
        f"--user-data-dir={folder}",
        *(("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader") if webgl else ("--disable-gpu",)),
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, "
        f"EXCLUDE {urlsplit(url).hostname}",
        *(["--ignore-certificate-errors"] if trusts else []),
    ]  # fmt: skip
    if camera is not None:
        flags.append(f"--use-file-for-fake-video-capture={camera}")
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield Browser(driver, urlsplit(url).netloc)
    finally:
        driver.quit()


def wait_until(ready: Callable[[], bool], timeout_s: float, what: str, more: Callable[[], str] = str) -> None:
    """Poll; fails the test with `what` and `more()`."""
    end_s = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end_s:
            pytest.fail(f"waited {timeout_s:g} s for {what}; {more()}")
        time.sleep(0.1)


def cut_clip(source: Path, target: Path, num_frames: int, width: int) -> Path:
    """The first frames of a video, made smaller, every other one left out at 60 frames/s."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        video = reader.streams.video[0]
        step = max(1, round(float(video.average_rate) / 30))
        stream = writer.add_stream("libx264", rate=30, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, round(width * video.height / video.width / 2) * 2, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 90_000)
        for index, frame in enumerate(reader.decode(video)):
            if index >= num_frames * step:
                break
            if index % step == 0:
                pixels = frame.to_ndarray(format="rgb24", width=stream.width, height=stream.height)
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                picture.pts, picture.time_base = index // step * 3000, stream.codec_context.time_base
                writer.mux(stream.encode(picture))
        writer.mux(stream.encode(None))
    return target


def camera_file(source: Path, target: Path, size_px: tuple[int, int] = (640, 480), num_frames: int = 60) -> Path:
    """The clip as an MJPEG for Chromium's fake camera, the people large in the middle."""
    width, height = size_px
    with av.open(str(source)) as reader, target.open("wb") as file:
        for index, frame in enumerate(reader.decode(video=0)):
            if index == num_frames:
                break
            image = frame.to_ndarray(format="bgr24")
            scale = min(width / image.shape[1], height / image.shape[0])
            small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            canvas = np.full((height, width, 3), 60, np.uint8)
            y, x = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
            canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
            file.write(cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return target
