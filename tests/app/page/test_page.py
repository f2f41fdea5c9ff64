"""The page as a visitor sees it: headless Chromium, the real network, a real clip. In this order, on one page."""

import io
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app.demo import render_walker
from tests.app.page.browser import REPOSITORY, Browser, RunningPage, browser, camera_file, cut_clip, running_page, wait_until

MAX_UPLOAD_MB = 3
CLIP_FRAMES, LONG_FRAMES = 36, 400
JOB_S, LIVE_S = 90.0, 60.0
SMALLEST_MOTION = 100


@dataclass
class Visit:
    """The running page, a browser on it, and a clip."""

    page: RunningPage
    browser: Browser
    folder: Path
    clip: Path


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("page")
    source = REPOSITORY.parent / "shared" / "data" / "clips" / "two_people.mp4"
    if not source.is_file():
        source = folder / "walker.mp4"
        render_walker(source)
    clip = cut_clip(source, folder / "clip.mp4", CLIP_FRAMES, 360)
    camera = camera_file(source, folder / "camera.mjpeg")
    with (
        running_page(folder / "page", "--max-upload-mb", str(MAX_UPLOAD_MB)) as page,
        browser(page.url, folder / "profile", camera) as window,
    ):
        window.open(page.url)
        yield Visit(page, window, folder, clip)


def test_a_file_too_large_is_refused_in_words(visit: Visit) -> None:
    large = visit.folder / "large.mp4"
    with large.open("wb") as file:
        file.truncate((MAX_UPLOAD_MB + 1) * 1_000_000)
    visit.browser.upload(large)
    assert "large.mp4 is 4.0 MB; this page takes up to 3.0 MB" in visit.browser.wait_for(".fm-problem").text
    assert not visit.browser.all(".fm-files li")
    answer = httpx.post(f"{visit.page.url}/page/upload", params={"name": "large.mp4"}, content=large.read_bytes())
    assert answer.status_code == 413 and "takes up to 3 MB" in answer.json()["error"]


def test_no_file_and_no_video_are_told(visit: Visit) -> None:
    visit.browser.find("#fm-start").click()
    assert "Choose a video or pictures first" in visit.browser.wait_for("#fm-status .fm-note").text
    text = visit.folder / "text.mp4"
    text.write_text("#EXTM3U\nfile:///etc/passwd\n")
    visit.browser.upload(text)
    wait_until(lambda: "no video or picture" in visit.browser.find(".fm-problem").text, 10, "the refusal", visit.browser.text)


def test_cancel_ends_the_job_and_frees_the_worker(visit: Visit) -> None:
    long = repeated(visit.clip, visit.folder / "long.mp4", LONG_FRAMES)
    visit.browser.upload(long)
    visit.browser.wait_for(".fm-files .ready")
    visit.browser.find("#fm-start").click()
    wait_until(lambda: re.search(r"frame \d+ of 400", status(visit)), JOB_S, "frame counts", visit.browser.text)
    visit.browser.wait_for("#fm-cancel").click()
    wait_until(lambda: "Cancelled" in status(visit), 20, "the job to end", visit.browser.text)
    wait_until(lambda: not visit.browser.all("#fm-cancel"), 5, "the button to go")
    visit.browser.find(".fm-files button").click()
    wait_until(lambda: not visit.browser.all(".fm-files li"), 5, "the upload to go")


def test_a_clip_becomes_a_playing_overlay_and_numbers(visit: Visit) -> None:
    window = visit.browser
    window.upload(visit.clip)
    assert f"360 \u00d7 636 · {CLIP_FRAMES} frames" in window.wait_for(".fm-files .ready").text.replace("\n", " ")
    window.find("#fm-start").click()
    window.wait_for("#fm-overlay video", JOB_S)
    wait_until(
        lambda: window.js("const v = document.querySelector('#fm-overlay video'); return v.readyState >= 2 && v.currentTime > 0.2"),
        20,
        "the video",
    )
    assert window.js("return document.querySelector('#fm-overlay video').videoWidth") == 360
    tiles = window.find("#fm-numbers").text
    assert re.search(rf"Frames\s+{CLIP_FRAMES}", tiles) and re.search(r"Jitter: \d+% calmer", tiles), tiles
    before, after = (float(re.search(rf"{name} (\d+) m/s", tiles)[1]) for name in ("before", "after"))
    assert before > after > 0


def test_the_3d_view_shows_and_plays_the_people(visit: Visit) -> None:
    window = visit.browser
    canvas = window.wait_for("#fm-model canvas", 30)
    window.js("arguments[0].scrollIntoView({block: 'center'})", canvas)
    wait_until(lambda: colours(canvas.screenshot_as_png) > 50, 40, "people in the 3D view")
    first = pixels(canvas.screenshot_as_png)
    wait_until(lambda: (pixels(canvas.screenshot_as_png) != first).any(-1).sum() > SMALLEST_MOTION, 20, "the people to move")


def test_downloads_are_there_for_this_visitor_alone(visit: Visit) -> None:
    links = visit.browser.js("return [...document.querySelectorAll('a.fm-file')].map((link) => link.href)")
    names = {link.rsplit("/", 1)[1].split("?")[0] for link in links}
    assert names == {"overlay.mp4", "meshes.npz", "people.glb", "motion.zip", "summary.json"}
    animation = visit.browser.js("return document.querySelector('[data-testid=model3d-download-link]').href")
    with own_client(visit) as own, httpx.Client() as stranger:
        stranger.get(visit.page.url)
        for link in (*links, animation):
            assert own.get(link).status_code == 200
            assert stranger.get(link).status_code == 404
            assert httpx.get(link).status_code == 404
        rows = np.load(io.BytesIO(own.get(next(link for link in links if "meshes.npz" in link)).content))
        assert set(rows["frame_index"]) <= set(range(CLIP_FRAMES)) and len(set(rows["track_id"])) >= 1
        with ZipFile(io.BytesIO(own.get(next(link for link in links if "motion.zip" in link)).content)) as motion:
            assert {Path(name).suffix for name in motion.namelist()} == {".bvh", ".fbx", ".vrma"}
        summary = own.get(next(link for link in links if "summary.json" in link)).text
        assert json.loads(summary)["input"] == "clip.mp4" and str(visit.folder) not in summary
        outside = (animation.replace("people.glb", "../../../uploads"), f"{visit.page.url}/gradio_api/file=/etc/passwd")
        for address in (
            *outside,
            f"{visit.page.url}/gradio_api/file={REPOSITORY}/launch.py",
            f"{visit.page.url}/page/..%2f..%2f..%2flaunch.py",
        ):
            assert own.get(address).status_code == 404, address


def test_live_camera_gives_meshes(visit: Visit) -> None:
    window = visit.browser
    next(tab for tab in window.all("button[role=tab]") if "Live" in tab.text).click()
    window.wait_for("#fm-live-start").click()
    wait_until(
        lambda: window.js("const s = window.fastmetroLive.stats(); return s.frames > 20 && s.people > 0 && s.hud"),
        LIVE_S,
        "meshes",
        window.text,
    )
    shown = window.find(".fm-stage canvas").screenshot_as_png
    assert coloured(pixels(shown)), "the mesh's orange or green is nowhere in the picture"
    assert re.search(r"\d+ fps · \d+ ms \(p90 \d+\) · \d pe", window.find(".fm-hud").text)
    assert "target 33 ms" in window.find(".fm-hud").text
    window.find("#fm-live-record").click()
    time.sleep(1.0)
    window.find("#fm-live-record").click()
    recording = window.wait_for(".fm-recordings a").get_attribute("href")
    with own_client(visit) as own:
        (visit.folder / "session.arrows").write_bytes(own.get(recording).content)
        assert httpx.get(recording).status_code == 404
    window.find("#fm-live-start").click()
    wait_until(lambda: window.find("#fm-live-start").text == "Start camera", 5, "the camera to stop")
    from app.session import SessionReader

    assert sum(len(scene.meshes) for scene in SessionReader(visit.folder / "session.arrows")) > 0


def test_foreign_hosts_and_origins_are_refused(visit: Visit) -> None:
    port = visit.page.url.rsplit(":", 1)[1]
    for headers in (
        {"host": "attacker.example"},
        {"origin": "http://attacker.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ):
        assert httpx.get(f"{visit.page.url}/config", headers=headers).status_code == 403
        assert httpx.post(f"{visit.page.url}/page/upload?name=a.mp4", headers=headers, content=b"x").status_code == 403
    for origin, host in (("http://attacker.example", "127.0.0.1"), (None, "attacker.example")):
        with pytest.raises(InvalidStatus) as refused, socket.create_connection(("127.0.0.1", int(port))) as wire:
            connect(f"ws://{host}:{port}/page/live", sock=wire, origin=origin).close()
        assert refused.value.response.status_code == 403
    assert httpx.get(f"http://localhost:{port}/").status_code == 200


def test_nothing_went_out_and_nothing_complained(visit: Visit) -> None:
    requests = visit.browser.requests()
    assert any("/page/live" in url for url in requests) and any("people.glb" in url for url in requests)
    assert visit.browser.outside(requests) == []
    assert visit.page.contacts == ""
    expected = ("413", "422")  # the refused uploads
    assert [line for line in visit.browser.console_errors() if not any(f"status of {code}" in line for code in expected)] == []
    assert "Traceback" not in visit.page.log, visit.page.log


def test_ctrl_c_ends_it_soon_and_leaves_nothing(visit: Visit) -> None:
    before = visit.page.log
    start_s = time.monotonic()
    visit.page.process.send_signal(signal.SIGINT)
    assert visit.page.process.wait(15) == 0, visit.page.log
    assert time.monotonic() - start_s < 8  # a second or two on a quiet machine
    assert visit.page.log.removeprefix(before) == "ended\n"
    assert list((visit.folder / "page" / "tmp").glob("fastmetro*")) == []


def status(visit: Visit) -> str:
    return visit.browser.js("return document.querySelector('#fm-status').innerText")


def own_client(visit: Visit) -> httpx.Client:
    """Asks as the browser would."""
    return httpx.Client(cookies={item["name"]: item["value"] for item in visit.browser.driver.get_cookies()})


def pixels(png: bytes) -> np.ndarray:
    import cv2

    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def colours(png: bytes) -> int:
    return len(np.unique(pixels(png).reshape(-1, 3) // 8, axis=0))


def coloured(image: np.ndarray) -> bool:
    """Some of the first people's colours: orange, blue, green."""
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    orange = (red > blue + 60) & (red > green + 30) & (green > blue)
    leaf = (green > red + 25) & (green > blue + 25)
    return int((orange | leaf).sum()) > 2000


def repeated(clip: Path, target: Path, num_frames: int) -> Path:
    """The clip over and over."""
    import av

    with av.open(str(clip)) as reader:
        images = [frame.to_ndarray(format="rgb24") for frame in reader.decode(video=0)]
    from app.export.mp4 import Mp4Writer

    writer = Mp4Writer(target, (images[0].shape[1], images[0].shape[0]), 30.0)
    for index in range(num_frames):
        writer.write(images[index % len(images)], index / 30)
    writer.close()
    return target
