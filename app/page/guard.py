"""Who may ask the page for what. An ASGI layer around everything else, so that no route can be forgotten.

- Host: a name that an attacker's DNS may point at us (rebinding) is refused; addresses and this machine's own names are not.
- Origin and Sec-Fetch-Site: requests that another site makes in the visitor's browser are refused, also for WebSockets.
- Only the routes that our page uses exist; of Gradio's others some read files or fetch addresses that the asker names.
- Files: a visitor reads what their own jobs made, nothing else.
- Events: at most a megabyte, without file objects, and only of the visitor's own Gradio sessions.
"""

import asyncio
import base64
import hmac
import http.cookies
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from app.config import PageConfig
from app.page.visitors import Visitor, Visitors
from core.errors import InputError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

API = "/gradio_api"
FILE_ROUTE = f"{API}/file="
ROUTES = re.compile(
    r"/(|config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|(static|assets|svelte)/.+|page/.+"
    r"|gradio_api/(info|startup-events|queue/join|queue/data|cancel|reset|heartbeat/\w+|app_id|user|theme\.css|file=.+))/?"
)
"""Everything our page asks for."""

EVENT_ROUTES = (f"{API}/queue/join", f"{API}/cancel", f"{API}/reset")
AUTHORITY_ROUTE = "/page/fastmetro-live.crt"
PUBLIC_ROUTES = ("/favicon.ico", "/page/style.css", AUTHORITY_ROUTE)
"""What the login page itself needs, and a device before it trusts this page."""

MAX_EVENT_BYTES = 1 << 20
MAX_LOGIN_BYTES = 4096
WRONG_PASSWORD_PAUSE_S = 1.0
LOGIN_PAGE = Path(__file__).resolve().parent / "static" / "login.html"
LOOPBACK_NAMES = ("localhost",)
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound to

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # without one, browsers call the origin of the login form null
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data: ws://{host} wss://{host}; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""Gradio's page evaluates its templates, hence 'unsafe-eval'; nothing is ever loaded from anywhere else."""


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """Why a request is not answered. status: HTTP."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """Wraps the page's application. `scope["visitor"]` is what it learned."""

    def __init__(self, app: App, visitors: Visitors, config: PageConfig, port: int) -> None:
        self._app, self._visitors, self._config = app, visitors, config
        prefix = "__Host-" if config.https else ""  # browsers keep cookies of https from http: of one name, the other would never be set
        self._cookie = f"{prefix}fastmetro-live-{port}"  # cookies do not know ports: two pages on one machine must not share one
        self._hosts = allowed_hosts(config.host)
        self._login_lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            host = check_host(headers.get("host", ""), self._hosts)
            check_origin(headers, host, scope)
            known = self._visitors.find(cookies(headers).get(self._cookie))
            visitor = known or self._visitors.stranger()
            with visitor.present():
                send = self._with_headers(send, host, None if known else visitor)
                if not await self._may_pass(scope, headers, receive, send, visitor):
                    return
                receive = await check_request(scope, receive, visitor)
                if self._config.auth is None or visitor.logged_in:
                    self._admit(visitor)
                scope["visitor"] = visitor
                await self._app(scope, receive, send)
        except Refusal as refusal:
            await refuse(scope, receive, send, refusal)

    def _admit(self, visitor: Visitor) -> None:
        """Only now, so that requests that are refused take nobody's place. Raises Refusal when there are too many."""
        try:
            self._visitors.admit(visitor)
        except InputError as error:
            raise Refusal(503, str(error)) from error

    def _with_headers(self, send: Send, host: str, stranger: Visitor | None) -> Send:
        """`send` that adds what every response of ours says; the browser of a stranger who was admitted gets its cookie."""

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                added = HEADERS | {"content-security-policy": POLICY.format(host=host)}
                if stranger is not None and self._visitors.find(stranger.token) is stranger:
                    added["set-cookie"] = self._cookie_of(stranger)
                kept = [item for item in message.get("headers", []) if item[0].decode("latin-1").lower() not in HEADERS]
                message = {**message, "headers": [*kept, *((name.encode(), value.encode("latin-1")) for name, value in added.items())]}
            await send(message)

        return sending

    def _cookie_of(self, visitor: Visitor) -> str:
        return f"{self._cookie}={visitor.token}; HttpOnly; SameSite=Strict; Path=/" + "; Secure" * self._config.https

    async def _may_pass(self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send, visitor: Visitor) -> bool:
        """True when the visitor is logged in or need not be; otherwise the request has been answered."""
        if self._config.auth is None or visitor.logged_in:
            return True
        if scope["type"] == "http" and scope["path"] in PUBLIC_ROUTES:
            return True
        basic = headers.get("authorization", "")
        if basic.lower().startswith("basic "):
            visitor.logged_in = await self._is_right(base64_text(basic[6:]))
            if visitor.logged_in:
                return True
        if scope["type"] == "http" and scope["path"].rstrip("/") == "/login" and scope["method"] == "POST":
            await self._log_in(receive, send)
            return False
        if scope["type"] == "http" and scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            await respond(send, 401, LOGIN_PAGE.read_text(encoding="utf-8").replace("{{message}}", ""), "text/html; charset=utf-8")
            return False
        raise Refusal(401, "log in first: open the page, or send the name and password that --auth asks for")

    async def _log_in(self, receive: Receive, send: Send) -> None:
        """A filled-in form: a fresh cookie and back to the page, or the form again."""
        form = parse_qs((await read_body(receive, MAX_LOGIN_BYTES)).decode("utf-8", "replace"), keep_blank_values=True)
        given = f"{form.get('username', [''])[0]}:{form.get('password', [''])[0]}"
        if not await self._is_right(given):
            page = LOGIN_PAGE.read_text(encoding="utf-8").replace("{{message}}", "That name and password do not fit.")
            await respond(send, 401, page, "text/html; charset=utf-8")
            return
        fresh = self._visitors.stranger()
        fresh.logged_in = True
        self._admit(fresh)
        await respond(send, 303, "", "text/plain", {"location": "/", "set-cookie": self._cookie_of(fresh)})

    async def _is_right(self, given: str) -> bool:
        """Compared in constant time; wrong ones wait for each other, so that guessing is slow."""
        if hmac.compare_digest(given.encode(), (self._config.auth or "").encode()):
            return True
        async with self._login_lock:
            await asyncio.sleep(WRONG_PASSWORD_PAUSE_S)
        return False


def allowed_hosts(listening_at: str) -> frozenset[str] | None:
    """Names a Host header may have beside addresses. Listening at loopback only, no other address may be named either."""
    names = {*LOOPBACK_NAMES, listening_at.strip("[]").lower()}
    if not is_loopback(listening_at):
        own = socket.gethostname().lower()
        names |= {own, own.partition(".")[0], f"{own.partition('.')[0]}.local"}
    return frozenset(names)


def is_loopback(host: str) -> bool:
    """True for localhost, 127.0.0.0/8 and ::1."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in LOOPBACK_NAMES


def check_host(given: str, names: frozenset[str]) -> str:
    """The Host header as it may be used further. Raises Refusal.

    An address can be no attacker's name; it is taken where the page listens to other machines, else only loopback's.
    """
    name = urlsplit(f"//{given}").hostname if re.fullmatch(r"[\w.\-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?", given) else None
    if name is None:
        raise Refusal(400, "the Host header is missing or no host name")
    only_loopback = all(is_loopback(item) for item in names)
    try:
        address = ipaddress.ip_address(name)
        fits = address.is_loopback or not only_loopback
    except ValueError:
        fits = name.lower() in names
    if not fits:
        raise Refusal(403, f"this page does not answer to the name {name!r}; open it by the address that launch.py printed")
    return given


def check_origin(headers: dict[str, str], host: str, scope: Scope) -> None:
    """Raise Refusal for what another site's page made the browser send. Programs send neither header."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise Refusal(403, "requests from other sites are refused (the Origin header is not this page's)")
    site = headers.get("sec-fetch-site", "none")
    is_link = scope["type"] == "http" and scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
    if site not in ("none", "same-origin") and not is_link:
        raise Refusal(403, "requests from other sites are refused")


async def check_request(scope: Scope, receive: Receive, visitor: Visitor) -> Receive:
    """Raise Refusal for routes that are not ours and for what belongs to another visitor; returns the body to be read on."""
    path = scope["path"]
    if scope["type"] == "websocket":
        if path != "/page/live":
            raise Refusal(404, "no such place")
        return receive
    if not ROUTES.fullmatch(path) or ".." in path.split("/"):
        raise Refusal(404, "no such place")
    if path.startswith(FILE_ROUTE) and not visitor.may_read(path.removeprefix(FILE_ROUTE)):
        raise Refusal(404, "no such file")
    if path.rstrip("/") in EVENT_ROUTES:
        body = await read_body(receive, MAX_EVENT_BYTES)
        check_event(body, visitor)
        return replay(body, receive)
    if path.startswith(f"{API}/queue/data"):
        check_session(parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0], visitor)
    elif path.startswith(f"{API}/heartbeat/"):
        check_session(path.rstrip("/").rsplit("/", 1)[1], visitor)
    return receive


def check_session(session: object, visitor: Visitor) -> None:
    """Raise Refusal for a tab, as Gradio names them, that is another visitor's."""
    if not visitor.owns_session(str(session)):
        raise Refusal(403, "this session belongs to another visitor, or there are too many")


def check_event(body: bytes, visitor: Visitor) -> None:
    """Raise Refusal for an event of another visitor's session, and for file objects: Gradio would fetch what they name."""
    try:
        event = json.loads(body)
    except ValueError as error:
        raise Refusal(400, "an event must be JSON") from error
    if not isinstance(event, dict):
        raise Refusal(400, "an event must be a JSON object")
    if names_a_file(event.get("data")) or names_a_file(event.get("event_data")):
        raise Refusal(400, "events of this page hold no files; use the upload")
    if event.get("session_hash") is not None:
        check_session(event["session_hash"], visitor)


def names_a_file(value: object) -> bool:
    """True when a file object of Gradio's is somewhere in there."""
    if isinstance(value, dict):
        return "path" in value or "url" in value or any(names_a_file(item) for item in value.values())
    return isinstance(value, list) and any(names_a_file(item) for item in value)


async def read_body(receive: Receive, limit: int) -> bytes:
    """A request's whole body. Raises Refusal when it is longer than `limit`."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the connection ended early")
        body += message.get("body", b"")
        if len(body) > limit:
            raise Refusal(413, f"too long: at most {limit} bytes here")
        if not message.get("more_body"):
            return body


def replay(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives a body again that was read already."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return receiving


def cookies(headers: dict[str, str]) -> dict[str, str]:
    """Name -> value."""
    jar = http.cookies.SimpleCookie()
    try:
        jar.load(headers.get("cookie", ""))
    except http.cookies.CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def base64_text(text: str) -> str:
    """Decoded; empty when it is none."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:
        return ""


async def refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answer with a status and one line of JSON; a WebSocket is not accepted."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.reason[:120]})
        return
    await respond(send, refusal.status, json.dumps({"error": refusal.reason}), "application/json")


async def respond(send: Send, status: int, text: str, kind: str, headers: dict[str, str] | None = None) -> None:
    """A whole response."""
    body = text.encode()
    given = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store"} | HEADERS | (headers or {})
    await send(
        {"type": "http.response.start", "status": status, "headers": [(name.encode(), value.encode()) for name, value in given.items()]}
    )
    await send({"type": "http.response.body", "body": body})
