"""The live tab's connection: its server end alone, and both ends in Chromium, with fakes for detector and network."""

import asyncio
import errno
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from app.config import LiveConfig, PageConfig
from app.page import live as live_module
from app.page.certificate import Certificate, addresses, own_certificate
from app.page.guard import ANY_ADDRESS
from app.page.live import Cameras, encoded
from app.page.live_card import live_card
from app.page.models import Model, SharedEstimator
from app.page.visitors import Visitor
from app.session import SessionReader
from core.errors import InputError
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.page.browser import Browser, browser, wait_until

LOADED = threading.Event()
LOADED.set()


class Networks:
    """Gives the fake, once `loaded` is set."""

    def __init__(self, loaded: threading.Event = LOADED) -> None:
        self.config, self._loaded = LiveConfig(), loaded

    def config_for(self, model: str) -> LiveConfig:
        return self.config

    def for_camera(self, config: LiveConfig) -> tuple[LiveConfig, SharedEstimator]:
        assert self._loaded.wait(20)
        return config, SharedEstimator(TubeEstimator())


class Wire:
    """A browser's end of a WebSocket, without a browser. sent: what the page said, in order, JSON decoded."""

    def __init__(self, visitor: Visitor) -> None:
        self._scope = {"type": "websocket", "path": "/page/live", "headers": [], "query_string": b"", "visitor": visitor}
        self._said: asyncio.Queue[dict] = asyncio.Queue()
        self._said.put_nowait({"type": "websocket.connect"})
        self.sent: list = []
        self.is_gone = False

    async def run(self, cameras: Cameras) -> None:
        from starlette.websockets import WebSocket

        await cameras.connect(WebSocket(self._scope, self._said.get, self._send))

    def say(self, message: bytes | str) -> None:
        self._said.put_nowait({"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message})

    def go(self) -> None:
        self.is_gone = True
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def wait_for(self, word: str) -> dict:
        """The first message with this word in it."""
        for _ in range(2000):
            found = next((item for item in self.sent if word in item), None)
            if found is not None:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(f"no {word} came; {self.sent}")

    async def _send(self, message: dict) -> None:
        if self.is_gone:
            raise OSError("gone")
        if message.get("text") is not None:
            self.sent.append(json.loads(message["text"]))
        elif message.get("bytes") is not None:
            self.sent.append({"picture": len(message["bytes"])})
        else:
            self.sent.append({message["type"]: message})


@pytest.fixture
def visitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Visitor:
    monkeypatch.setattr(live_module, "open_detector", lambda config: RectangleDetector())
    return Visitor("token", tmp_path / "visitor")


def frame(number: int) -> bytes:
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:90, 60:80] = 255
    return struct.pack("<Id", number, 40.0 * number) + encoded(image)


def talk(visitor: Visitor, conversation: Callable, networks: Networks | None = None) -> tuple[Wire, Cameras]:
    """Runs `conversation(wire)` beside a connection, until both have ended; no task and no thread is left."""
    cameras = Cameras(networks or Networks(), PageConfig())
    wires = []

    async def both() -> None:
        wires.append(Wire(visitor))
        connection = asyncio.create_task(wires[0].run(cameras))
        await conversation(wires[0])
        await asyncio.wait_for(connection, 20)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left"

    asyncio.run(both())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("camera-")]
    return wires[0], cameras


async def record_some(wire: Wire) -> None:
    await wire.wait_for("ready")
    wire.say('{"record": true}')
    wire.say(frame(1))
    await wire.wait_for("picture")


def test_the_link_of_a_recording_comes_before_the_page_closes(visitor: Visitor) -> None:
    async def conversation(wire: Wire) -> None:
        await record_some(wire)
        wire.say("nonsense")

    wire, _ = talk(visitor, conversation)
    words = [next(iter(item)) for item in wire.sent]
    assert words[-3:] == ["recorded", "error", "websocket.close"]
    name = wire.sent[-3]["recorded"]["name"]
    assert len(list(SessionReader(visitor.recordings[name].path))) == wire.sent[-3]["recorded"]["frames"] == 1


def test_who_leaves_while_the_network_loads_leaves_quietly(visitor: Visitor) -> None:
    loaded = threading.Event()

    async def conversation(wire: Wire) -> None:
        await wire.wait_for("websocket.accept")
        wire.go()
        loaded.set()

    wire, cameras = talk(visitor, conversation, Networks(loaded))
    assert [next(iter(item)) for item in wire.sent] == ["websocket.accept"]
    assert not cameras._open


def test_a_long_reason_ends_the_connection_in_words_too(visitor: Visitor) -> None:
    class Refusing(Networks):
        def config_for(self, model: str) -> LiveConfig:
            raise InputError("\u00f6" * 200)

    async def conversation(wire: Wire) -> None:
        await wire.wait_for("websocket.close")

    wire, _ = talk(visitor, conversation, Refusing())
    assert wire.sent[-2] == {"error": "\u00f6" * 200}
    assert 100 < len(wire.sent[-1]["websocket.close"]["reason"].encode()) <= 123


def test_a_full_disk_is_told_and_the_camera_goes_on(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, f"Cannot write {path}")

    monkeypatch.setattr(live_module, "SessionRecorder", full)

    async def conversation(wire: Wire) -> None:
        await record_some(wire)
        wire.go()

    wire, _ = talk(visitor, conversation)
    said = next(item["not_recorded"] for item in wire.sent if "not_recorded" in item)
    assert "No space left on device" in said and "press Record again" in said and str(visitor.folder) not in said


def test_files_are_opened_and_closed_beside_the_loop_that_serves_all_visitors(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    class Recorder(live_module.SessionRecorder):
        def __init__(self, *values: object) -> None:
            threads.append(threading.current_thread())
            super().__init__(*values)

        def close(self) -> None:
            threads.append(threading.current_thread())
            super().close()

    monkeypatch.setattr(live_module, "SessionRecorder", Recorder)

    async def conversation(wire: Wire) -> None:
        await record_some(wire)
        wire.say('{"record": false}')
        await wire.wait_for("recorded")
        wire.go()

    talk(visitor, conversation)
    assert len(threads) == 2 and threading.main_thread() not in threads


@contextmanager
def served(visitor: Visitor, host: str = "127.0.0.1", certificate: Certificate | None = None) -> Iterator[str]:
    """The live tab alone, on a port; its address."""
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse

    from app.page.server import add_routes

    models = {name: Model(name, "toy", "anny", "none", "yes") for name in ("one", "two")}
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(f'<!doctype html><body>{live_card(models)}<script src="/page/live.js"></script></body>')

    async def with_visitor(scope: dict, receive: object, send: object) -> None:
        scope["visitor"] = visitor
        await app(scope, receive, send)

    with socket.create_server((host, 0)) as listener, Cameras(Networks(), PageConfig()) as cameras:
        add_routes(app, PageConfig(), cameras, certificate)
        path = None if certificate is None else certificate.path
        server = uvicorn.Server(uvicorn.Config(with_visitor, log_level="warning", timeout_graceful_shutdown=1, ssl_certfile=path))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http{'s' * (certificate is not None)}://{host}:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Visitor]]:
    """Chromium on the live tab."""
    folder = tmp_path_factory.mktemp("tab")
    visitor = Visitor("token", folder / "visitor")
    with (
        pytest.MonkeyPatch.context() as patch,
        served(visitor) as url,
        browser(url, folder / "profile", webgl=False) as window,
    ):
        patch.setattr(live_module, "open_detector", lambda config: RectangleDetector())
        window.driver.get(url)
        yield window, visitor


def record_in(window: Browser) -> int:
    """Start the camera and a recording; how many links were there before."""
    if window.find("#fm-live-start").text == "Start camera":
        window.find("#fm-live-start").click()
    wait_until(lambda: window.js("return window.fastmetroLive.stats().frames > 0"), 30, "the first picture", window.text)
    links = len(window.all(".fm-recordings a"))
    window.find("#fm-live-record").click()
    before = window.js("return window.fastmetroLive.number")
    wait_until(lambda: window.js("return window.fastmetroLive.number") > before + 3, 30, "a few frames more", window.text)
    return links


def recordings_grow(window: Browser, visitor: Visitor, links: int) -> None:
    """One more link, and a recording behind it."""
    wait_until(lambda: len(window.all(".fm-recordings a")) == links + 1, 20, "the link", window.text)
    name = window.all(".fm-recordings a")[-1].text
    assert len(SessionReader(visitor.recordings[name].path)) > 0
    assert window.find(".fm-problem").text == ""


def test_stopping_the_camera_keeps_its_recording(tab: tuple[Browser, Visitor]) -> None:
    window, visitor = tab
    links = record_in(window)
    window.find("#fm-live-start").click()
    assert window.find("#fm-live-start").text == "Start camera"
    recordings_grow(window, visitor, links)
    assert window.find("#fm-live-record").text == "Record"


def test_a_recording_that_was_just_ended_is_waited_for_as_well(tab: tuple[Browser, Visitor]) -> None:
    window, visitor = tab
    links = record_in(window)
    window.js("document.querySelector('#fm-live-record').click(); document.querySelector('#fm-live-start').click()")
    recordings_grow(window, visitor, links)


def test_another_network_keeps_the_recording_and_goes_on(tab: tuple[Browser, Visitor]) -> None:
    window, visitor = tab
    links = record_in(window)
    window.js("const s = document.querySelector('[data-model]'); s.value = 'two'; s.dispatchEvent(new Event('change'))")
    recordings_grow(window, visitor, links)
    wait_until(lambda: window.js("return window.fastmetroLive.stats().frames > 0"), 30, "pictures again", window.text)
    window.find("#fm-live-start").click()


def test_after_the_program_ended_a_recording_the_button_starts_one(tab: tuple[Browser, Visitor]) -> None:
    window, visitor = tab
    links = record_in(window)
    window.js("window.fastmetroLive.socket.send('nonsense')")
    wait_until(lambda: "no command" in window.find(".fm-problem").text, 20, "the reason", window.text)
    assert len(window.all(".fm-recordings a")) == links + 1
    record_in(window)
    assert window.js("return window.fastmetroLive.recording")
    window.find("#fm-live-start").click()
    recordings_grow(window, visitor, links + 1)


@pytest.mark.parametrize("https", [False, True])
def test_another_machines_camera_needs_https(https: bool, visitor: Visitor, tmp_path: Path) -> None:
    places = [place for place in addresses(ANY_ADDRESS[0]) if ":" not in place]
    if not places:
        pytest.skip("needs a network address beside loopback's, which this machine does not have")
    certificate = own_certificate(places[0], tmp_path / "data") if https else None
    with (
        served(visitor, places[0], certificate) as url,
        browser(url, tmp_path / "profile", webgl=False, trusts=True, size_px=(400, 800)) as window,
    ):
        window.driver.get(url)
        assert window.js("return window.isSecureContext") is https
        window.find("#fm-live-start").click()
        if https:
            wait_until(lambda: window.js("return window.fastmetroLive.stats().frames > 3"), 30, "pictures", window.text)
        else:
            wait_until(lambda: "--https" in window.find(".fm-problem").text, 10, "the advice", window.text)


def test_a_browser_that_does_not_trust_the_connection_is_told_what_to_do(visitor: Visitor, tmp_path: Path) -> None:
    with (
        served(visitor, certificate=own_certificate("127.0.0.1", tmp_path / "data")) as url,
        browser(url, tmp_path / "profile", webgl=False, trusts=True) as window,
    ):
        window.driver.get(url)
        window.js("window.WebSocket = class { constructor() { setTimeout(() => this.onclose(), 50); } close() {} }")
        window.find("#fm-live-start").click()
        wait_until(lambda: f"{url}page/fastmetro-live.crt" in window.find(".fm-problem").text, 10, "the advice", window.text)


def test_a_back_camera_is_not_mirrored(tab: tuple[Browser, Visitor]) -> None:
    window, _ = tab
    if window.find("#fm-live-start").text == "Stop camera":
        window.find("#fm-live-start").click()
    assert window.find("[data-mirror]").is_selected()
    window.js(
        "const known = MediaStreamTrack.prototype.getSettings;"
        "MediaStreamTrack.prototype.getSettings = function () { return { ...known.call(this), facingMode: 'environment' }; };"
    )
    window.find("#fm-live-start").click()
    wait_until(lambda: not window.find("[data-mirror]").is_selected(), 20, "the mirror to go", window.text)
    assert not window.all(".fm-live.mirrored")
    window.find("[data-mirror]").click()
    assert window.all(".fm-live.mirrored")
