"""The guard around a small application that answers what it was asked, without Gradio or a browser."""

import asyncio
import base64
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.config import PageConfig
from app.page import guard as guard_module
from app.page.guard import Guard, Refusal, allowed_hosts, check_host, names_a_file
from app.page.visitors import MAX_SESSIONS, Recorded, Visitor, Visitors, remove_all

PORT = 7860


async def echo(scope: dict, receive: object, send: object) -> None:
    """200 and the body that came in."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOWALL")]})
    await send({"type": "http.response.body", "body": body})


class Door:
    """Asks a guard."""

    def __init__(self, config: PageConfig, visitors: Visitors) -> None:
        self.visitors, self.guard = visitors, Guard(echo, visitors, config, PORT)

    def ask(self, method: str, path: str, headers: dict | None = None, cookies: dict | None = None, **options: object) -> httpx.Response:
        async def asking() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.guard)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}", cookies=cookies) as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(asking())


@pytest.fixture
def visitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitors]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Visitors(PageConfig(max_visitors=5)) as visitors:
        yield visitors


@pytest.fixture
def door(visitors: Visitors) -> Door:
    return Door(PageConfig(), visitors)


@pytest.fixture
def locked(visitors: Visitors, monkeypatch: pytest.MonkeyPatch) -> Door:
    monkeypatch.setattr(guard_module, "WRONG_PASSWORD_PAUSE_S", 0.01)
    return Door(PageConfig(auth="anna:secret:word"), visitors)


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860", "127.1.2.3"])
def test_own_names_are_answered(host: str) -> None:
    assert check_host(host, allowed_hosts("127.0.0.1")) == host


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5", "", "a b", "localhost@evil.example", "2130706433", "::1"]
)
def test_foreign_names_are_refused(host: str) -> None:
    with pytest.raises(Refusal):
        check_host(host, allowed_hosts("127.0.0.1"))


def test_a_page_for_other_machines_takes_addresses_but_no_foreign_names() -> None:
    names = allowed_hosts("0.0.0.0")  # noqa: S104
    assert check_host("192.168.1.5:7860", names)
    with pytest.raises(Refusal):
        check_host("evil.example", names)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": f"http://localhost:{PORT}"}, {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    ],
)  # fmt: skip
def test_other_sites_are_refused(door: Door, headers: dict) -> None:
    assert door.ask("POST", "/page/upload", headers).status_code == 403
    assert door.ask("GET", "/config", headers).status_code == 403


def test_own_requests_and_links_pass(door: Door) -> None:
    assert door.ask("POST", "/page/upload", {"origin": f"http://127.0.0.1:{PORT}", "sec-fetch-site": "same-origin"}).status_code == 200
    assert door.ask("GET", "/", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=http://127.0.0.1/", "/gradio_api/proxy=http://a", "/gradio_api/upload", "/docs",
        "/gradio_api/run/predict", "/gradio_api/component_server", "/monitoring", "/static/../../launch.py", "/gradio_api/vibe-edit",
        "/login", "/gradio_api/file/etc/passwd",
    ],
)  # fmt: skip
def test_other_routes_do_not_exist(door: Door, path: str) -> None:
    assert door.ask("GET", path).status_code == 404
    assert door.ask("POST", path).status_code == 404


def test_headers_of_every_answer(door: Door) -> None:
    answer = door.ask("GET", "/")
    assert answer.headers["x-frame-options"] == "DENY"
    assert "default-src 'self'" in answer.headers["content-security-policy"] and "http:" not in answer.headers["content-security-policy"]
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie


def test_events_hold_no_files_and_belong_to_their_session(door: Door) -> None:
    mine = cookie_of(door.ask("GET", "/"))
    fine = {"data": ["x", 3], "session_hash": "abcdef12345"}
    assert door.ask("POST", "/gradio_api/queue/join", cookies=mine, json=fine).json() == fine
    assert door.ask("GET", "/gradio_api/queue/data?session_hash=abcdef12345", cookies=mine).status_code == 200
    other = cookie_of(door.ask("GET", "/"))
    assert door.ask("POST", "/gradio_api/queue/join", cookies=other, json=fine).status_code == 403
    assert door.ask("GET", "/gradio_api/queue/data?session_hash=abcdef12345", cookies=other).status_code == 403
    assert door.ask("GET", "/gradio_api/heartbeat/abcdef12345", cookies=other).status_code == 403
    file = fine | {"data": [{"path": "http://192.0.2.1/x", "meta": {"_type": "gradio.FileData"}}]}
    assert door.ask("POST", "/gradio_api/queue/join", cookies=mine, json=file).status_code == 400
    assert door.ask("POST", "/gradio_api/queue/join", cookies=mine, content=b"[1]").status_code == 400
    assert door.ask("POST", "/gradio_api/queue/join", cookies=mine, content=b" " * (1 << 20) + b"{}").status_code == 413


def test_files_are_found_however_deep() -> None:
    assert names_a_file({"a": [[{"url": "x"}]]})
    assert not names_a_file(["path", {"value": "url"}, None])


def test_login_by_form(locked: Door) -> None:
    page = locked.ask("GET", "/", {"accept": "text/html"})
    assert page.status_code == 401 and "<form" in page.text
    planted = {f"fastmetro-live-{PORT}": "planted"}
    wrong = locked.ask("POST", "/login", cookies=planted, data={"username": "anna", "password": "secret"})
    assert wrong.status_code == 401 and "do not fit" in wrong.text
    right = locked.ask("POST", "/login", cookies=planted, data={"username": "anna", "password": "secret:word"})
    assert right.status_code == 303 and right.headers["location"] == "/"
    fresh = cookie_of(right)
    assert fresh != planted, "the cookie from before the login must not be the one that is logged in"
    assert locked.ask("GET", "/config", cookies=fresh).status_code == 200
    assert locked.ask("GET", "/config", cookies=planted).status_code == 401


def test_login_by_header(locked: Door) -> None:
    for words, status in (("anna:secret:word", 200), ("anna:other", 401), ("", 401)):
        header = {"authorization": "Basic " + base64.b64encode(words.encode()).decode()}
        assert locked.ask("GET", "/config", header).status_code == status


def test_the_socket_needs_the_login_too(locked: Door) -> None:
    sent = []

    async def send(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/page/live", "headers": [(b"host", b"127.0.0.1:7860")], "query_string": b""}
    asyncio.run(locked.guard(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_visitors_are_bounded(door: Door) -> None:
    statuses = []
    for number in range(7):
        answer = door.ask("GET", "/")
        statuses.append(answer.status_code)
        if number < 5:
            visitor_of(door, answer).recordings["a"] = Recorded(Path("a"))
    assert statuses == [200] * 5 + [503] * 2
    assert "set-cookie" not in answer.headers


def test_who_has_nothing_makes_room_for_others(door: Door) -> None:
    first, second = (visitor_of(door, door.ask("GET", "/")) for _ in range(2))
    first.recordings["a"] = Recorded(Path("a"))
    with second.present():
        assert [door.ask("GET", "/").status_code for _ in range(20)] == [200] * 20
        assert door.visitors.find(first.token) is first and door.visitors.find(second.token) is second


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {"accept": "text/html"}), ("GET", "/config", {}), ("GET", "/page/style.css", {}), ("POST", "/login", {}),
        ("GET", "/config", {"authorization": "Basic " + base64.b64encode(b"anna:wrong").decode()}),
        ("GET", "/docs", {"authorization": "Basic " + base64.b64encode(b"anna:secret:word").decode()}),
    ],
)  # fmt: skip
def test_requests_that_are_refused_make_no_visitors(locked: Door, method: str, path: str, headers: dict) -> None:
    assert "set-cookie" not in locked.ask(method, path, headers).headers
    assert not locked.visitors._visitors


def test_a_tab_may_be_loaded_again_and_again(door: Door) -> None:
    mine = cookie_of(door.ask("GET", "/"))
    join = "/gradio_api/queue/data?session_hash="
    for number in range(MAX_SESSIONS):
        assert door.ask("GET", f"{join}tab{number}", cookies=mine).status_code == 200
    assert set(door.visitors._session_owners) == {f"tab{number}" for number in range(MAX_SESSIONS)}
    assert door.ask("GET", f"{join}tab0", cookies=mine).status_code == 200
    assert door.ask("GET", f"{join}one-more", cookies=mine).status_code == 200
    other = cookie_of(door.ask("GET", "/"))
    statuses = [door.ask("GET", f"{join}{tab}", cookies=other).status_code for tab in ("tab0", "tab2", "tab1")]
    assert statuses == [403, 403, 200], "only the one that nobody asked for lately is free"


def test_who_leaves_takes_everything_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Visitors(PageConfig(keep_after_leaving_s=0.05)) as visitors:
        visitor = visitors.new()
        (visitor.make_folder("uploads") / "x.mp4").write_bytes(b"x")
        assert visitor.folder.stat().st_mode & 0o077 == 0
        with visitor.present():
            time.sleep(0.1)
            remove_all(visitors.sweep())
            assert visitors.find(visitor.token) is visitor
        time.sleep(0.1)
        remove_all(visitors.sweep())
        assert visitors.find(visitor.token) is None and not visitor.folder.exists()
        root = visitors.root
    assert not root.exists()


def test_what_a_killed_page_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, alive = tmp_path / "fastmetro-live-page-4194399-abc", tmp_path / "fastmetro-live-page-1-abc"
    dead.mkdir(), alive.mkdir()
    with Visitors(PageConfig()):
        assert not dead.exists() and alive.exists()


def visitor_of(door: Door, answer: httpx.Response) -> Visitor:
    return door.visitors.find(next(iter(cookie_of(answer).values())))


def cookie_of(answer: httpx.Response) -> dict[str, str]:
    name, _, rest = answer.headers["set-cookie"].partition("=")
    return {name: rest.split(";")[0]}
