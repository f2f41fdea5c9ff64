"""The page's controls: what they start at, what they do, and what is said; with fakes for detector and network."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import app.jobs
from app.config import LiveConfig, PageConfig
from app.jobs import Engine
from app.page import cards
from app.page.guard import Guard
from app.page.live import Cameras
from app.page.live_card import live_card
from app.page.models import Model, Networks
from app.page.server import QUIET_GRADIO, build_app
from app.page.uploads import PICTURE, VIDEO, Upload, examine
from app.page.visitors import Visitors
from app.page.work import CANCELLED, DONE, Job, Result, Worker
from core.errors import InputError
from tests.app.fakes import RectangleDetector, TubeEstimator
from tests.app.media import write_video
from tests.app.page.browser import browser, wait_until

MODELS = {name: Model(name, "toy", body, "none", "yes") for name, body in (("a", "anny"), ("b", "smpl"))}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUIET_GRADIO.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.page.models.known_models", lambda config: MODELS)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Jobs wait in their first frames until it is set."""
    opened = threading.Event()

    class Slow(TubeEstimator):
        def from_crops(self, crops: list) -> list:
            opened.wait(30)
            return super().from_crops(crops)

    @contextmanager
    def open_engine(config: LiveConfig, estimator: object) -> Iterator[Engine]:
        yield Engine(Slow(), RectangleDetector(), config)

    monkeypatch.setattr(app.jobs, "open_engine", open_engine)
    monkeypatch.setattr(Networks, "estimator", lambda networks, config: TubeEstimator())
    yield opened
    opened.set()


@pytest.mark.parametrize(
    ("flag", "smooth", "smoothing"),
    [
        ("one-euro", True, "one-euro"), ("one-euro", False, "none"), ("one-euro", None, "one-euro"),
        ("none", True, "one-euro"), ("none", False, "none"), ("none", None, "none"),
    ],
)  # fmt: skip
def test_the_tick_decides_about_smoothing_and_the_flag_where_there_is_none(
    models: None, flag: str, smooth: bool | None, smoothing: str
) -> None:
    assert Networks(LiveConfig(smoothing=flag)).config_for("a", smooth=smooth).smoothing == smoothing


def test_the_body_of_the_flag_holds_until_another_is_chosen(models: None) -> None:
    networks = Networks(LiveConfig(body="smpl"))
    assert networks.config_for("b").body == "smpl" and networks.config_for("a", "auto").body == "auto"
    with pytest.raises(InputError, match="no network for the body 'smpl' is here"):
        networks.config_for("")


def test_the_live_tab_offers_networks_with_the_flags_body() -> None:
    assert 'value="a"' in live_card(MODELS) and 'value="b"' in live_card(MODELS)
    assert 'value="a"' not in live_card(MODELS, "smpl") and 'value="b"' in live_card(MODELS, "smpl")
    assert "No network for the body" in live_card({"a": MODELS["a"]}, "smpl")


def controls(config: LiveConfig, models: dict[str, Model] = MODELS) -> list:
    import gradio as gr

    from app.page.layout import _settings

    with gr.Blocks(analytics_enabled=False):
        return _settings(SimpleNamespace(networks=SimpleNamespace(config=config)), models)


def test_controls_start_where_the_flags_are() -> None:
    model, body, people, smooth = controls(LiveConfig())
    assert (model.value, body.value, people.value, smooth.value) == ("a", "auto", 6, True)
    assert people.choices[-1][1] == 12
    model, body, people, smooth = controls(LiveConfig(body="smpl", max_people=20, smoothing="none"))
    assert (model.value, body.value, people.value, smooth.value) == ("b", "smpl", 20, False)
    assert [value for _, value in model.choices] == ["b"] and [value for _, value in people.choices] == list(range(1, 21))
    model, *_ = controls(LiveConfig(body="smpl"), {"a": MODELS["a"]})
    assert model.value is None and model.choices == []


def test_a_pictures_animation_shows_what_is_hidden_when_the_flag_says_so(
    tmp_path: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.set()
    told = []
    monkeypatch.setattr("app.export.glb.write_glb", lambda *_, show_hidden=False: told.append(show_hidden))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((24, 32, 3), np.uint8))
    with Worker(Networks(LiveConfig()), PageConfig()) as worker:
        for hidden in (False, True):
            job = Job((examine(tmp_path / "a.png", PageConfig()),), LiveConfig(show_hidden=hidden), tmp_path)
            worker.submit(job)
            wait_until(lambda job=job: job.ended_s is not None, 20, "the job")
            assert job.state == DONE, job.problems
    assert told == [False, True]


def made(tmp_path: Path, files: tuple[str, ...], kind: str = VIDEO, state: str = DONE, num_uploads: int = 1, **flags: bool) -> Job:
    """A job with one result that has these files."""
    uploads = tuple(Upload(f"{number}.mp4", tmp_path / f"{number}.mp4", kind, (1, 1)) for number in range(num_uploads))
    job = Job(uploads, LiveConfig(**flags), tmp_path)
    if files:
        job.results.append(Result("0 & 1", kind, {name: tmp_path / name for name in files}, {}))
    job.end(state)
    return job


def test_a_result_without_overlay_says_why(tmp_path: Path) -> None:
    assert "<video" in cards.picture(made(tmp_path, ("overlay.mp4",)), 0)
    still = cards.picture(made(tmp_path, ("overlay.png",), PICTURE, overlay=False), 0)
    assert "<img" in still and "0 &amp; 1 with meshes" in still
    for overlay, reason in ((False, True), (True, False)):
        card = cards.picture(made(tmp_path, ("meshes.npz",), overlay=overlay), 0)
        assert "src=" not in card and "There is no overlay" in card
        assert ("--no-overlay" in card) == reason


def test_what_a_cancelled_job_kept_is_told(tmp_path: Path) -> None:
    assert "Nothing was kept" in cards.outcome(made(tmp_path, (), state=CANCELLED))
    some = cards.outcome(made(tmp_path, ("overlay.mp4",), state=CANCELLED, num_uploads=3))
    assert "Nothing was kept" not in some and "1 of 3" in some


@contextmanager
def page_of(folder: Path, monkeypatch: pytest.MonkeyPatch, config: LiveConfig) -> Iterator[tuple[str, Visitors]]:
    """The whole page in this process, on a port: its address, its visitors."""
    import uvicorn

    monkeypatch.setattr("tempfile.tempdir", str(folder))
    page, networks = PageConfig(), Networks(config)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Visitors(page) as visitors,
        Worker(networks, page) as worker,
        Cameras(networks, page) as cameras,
    ):
        monkeypatch.setitem(os.environ, "GRADIO_TEMP_DIR", str(visitors.root / "gradio"))
        port = listener.getsockname()[1]
        guard = Guard(build_app(visitors, worker, cameras), visitors, page, port)
        server = uvicorn.Server(uvicorn.Config(guard, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{port}", visitors
        server.should_exit = True
        thread.join(20)


def only_job(visitors: Visitors) -> Job:
    (job,) = (job for visitor in visitors._visitors.values() for job in visitor.jobs.values())
    return job


def test_after_a_reload_the_job_can_be_cancelled_and_without_overlays_results_are_shown(
    tmp_path: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_video(tmp_path / "clip.mp4", (96, 64), [index / 30 for index in range(20)])
    with (
        page_of(tmp_path, monkeypatch, LiveConfig(overlay=False)) as (url, visitors),
        browser(url, tmp_path / "profile", webgl=False) as window,
    ):
        window.open(url)
        window.upload(clip)
        window.wait_for(".fm-files .ready")
        window.find("#fm-start").click()
        window.wait_for("#fm-status .fm-progress")
        job = only_job(visitors)
        window.open(url)
        window.find("#fm-start").click()
        assert "still running; cancel it or wait" in window.wait_for("#fm-status .fm-note").text
        window.wait_for("#fm-cancel").click()
        wait_until(lambda: job.is_cancelled, 20, "the job to be cancelled")
        gate.set()
        wait_until(lambda: "Cancelled. Nothing was kept" in window.find("#fm-status").text, 20, "the end", window.text)
        wait_until(lambda: not window.all("#fm-cancel"), 10, "the button to go")
        window.upload(clip)
        window.wait_for(".fm-files .ready")
        wait_until(lambda: window.find("#fm-start").is_enabled(), 10, "the other button")
        window.find("#fm-start").click()
        assert "--no-overlay" in window.wait_for("#fm-overlay .fm-note", 60).text
        assert "meshes.npz" in window.wait_for("#fm-downloads").text
        assert not window.all("#fm-overlay img")
