"""The page's way in: a port, the routes, start and stop.

Gradio draws the page; what needs care is ours: uploads, results and the camera have routes of their own, and the guard stands
around everything.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from app.config import LiveConfig, PageConfig
from app.page.certificate import Certificate, addresses, own_certificate
from app.page.guard import ANY_ADDRESS, AUTHORITY_ROUTE, Guard, is_loopback
from app.page.live import Cameras
from app.page.models import Networks
from app.page.uploads import examine, receive_upload, too_large
from app.page.visitors import Visitor, Visitors, remove_all, why_not_written
from app.page.work import Worker
from core.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

STATIC = Path(__file__).resolve().parent / "static"
QUIET_GRADIO = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
"""Gradio asks the internet for versions and tells it about users unless these are set before it is imported."""
HEAD = """
<style>html { color-scheme: light; } html:has(body.dark) { color-scheme: dark; }</style>
<script src="/page/page.js" defer></script><script src="/page/live.js" defer></script>
"""
SWEEP_EVERY_S = 5.0
SHUTDOWN_S = 1
MAX_MESSAGE_BYTES = 4 << 20
MAX_SHOWN = 4
"""Addresses that are told."""
DOWNLOADS = {
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".npz": "application/octet-stream",
    ".glb": "model/gltf-binary",
    ".json": "application/json",
    ".zip": "application/zip",
}


def run_page(config: LiveConfig, page: PageConfig, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. `say` gets the address. Raises InputError when the port cannot be had."""
    os.environ.update(QUIET_GRADIO)
    listener = listen(page.host, page.port)
    import gradio  # noqa: F401 - a missing one is told before anything is started
    import websockets  # noqa: F401

    with contextlib.closing(listener), Visitors(page) as visitors:
        certificate = own_certificate(page.host) if page.https else None
        os.environ["GRADIO_TEMP_DIR"] = str(visitors.root / "gradio")
        networks = Networks(config)
        with Worker(networks, page) as worker, Cameras(networks, page) as cameras:
            port = listener.getsockname()[1]
            guard = Guard(build_app(visitors, worker, cameras, certificate), visitors, page, port)
            if not is_loopback(page.host) and page.auth is None:
                log.warning("anybody who reaches %s port %d may use this page; --auth USER:PASSWORD asks for a password", page.host, port)
            say(f"FastMETRO Live: {address(page, page.host, port)} (Ctrl-C ends it)")
            if page.host in ANY_ADDRESS:
                say(elsewhere(page, port, certificate))
            serve(guard, listener, certificate)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError in one line."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(
            f"--host {host}: no such address on this machine; 127.0.0.1 is this machine alone, 0.0.0.0 all its networks"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        reasons = {errno.EADDRINUSE: "is in use; choose another with --port, or end the program that has it"}
        reasons |= {
            errno.EADDRNOTAVAIL: "cannot be had: this machine has no such address; see --host",
            errno.EACCES: "is reserved; choose one from 1024 on",
        }
        reason = reasons.get(error.errno or 0, f"cannot be had ({error.strerror})")
        raise InputError(f"port {port} at {host} {reason}") from error
    return listener


def address(page: PageConfig, host: str, port: int) -> str:
    """Where a browser finds the page; at `host`, or on this machine."""
    shown, scheme = "127.0.0.1" if host in ANY_ADDRESS else host, "https" if page.https else "http"
    return f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"


def elsewhere(page: PageConfig, port: int, certificate: Certificate | None = None) -> str:
    """A line on where other machines find it, and what cameras there need."""
    places = [address(page, place, port) for place in addresses(page.host)][:MAX_SHOWN]
    if not places:
        return "this machine is in no network that other machines could reach it by"
    advice = "for their cameras add --https"
    if certificate is not None:
        advice = f"their browsers warn; what vouches for the page has the SHA-256 {certificate.fingerprint}"
    return f"from other machines and phones: {', '.join(places)} ({advice})"


def serve(app: Any, listener: socket.socket, certificate: Certificate | None = None) -> None:
    """Run until Ctrl-C or SIGTERM, which both end quietly here. certificate: over https, with this one"""
    import uvicorn

    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_S, ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False, ws_max_queue=4, server_header=False, lifespan="on",
        ssl_certfile=None if certificate is None else certificate.path,
    )  # fmt: skip

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    class QuietServer(uvicorn.Server):
        """Open pages hold requests open; that these are cut off when the program ends is no news."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            super().handle_exit(sig, frame)

    before = signal.signal(signal.SIGTERM, end)
    try:
        QuietServer(settings).run(sockets=[listener])
    except KeyboardInterrupt:
        log.info("ended")
    finally:
        signal.signal(signal.SIGTERM, before)


def build_app(visitors: Visitors, worker: Worker, cameras: Cameras, certificate: Certificate | None = None) -> "FastAPI":
    """The application inside the guard: our routes, and Gradio's page for all else."""
    import gradio as gr
    from fastapi import FastAPI

    from app.page.layout import build_blocks, theme

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweep(visitors))
        yield
        task.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    add_routes(app, worker.config, cameras, certificate)
    gr.set_static_paths([visitors.root])  # Gradio then serves results where they are; the guard says whose they are
    blocks = build_blocks(worker)
    return gr.mount_gradio_app(
        app, blocks, path="/", theme=theme(), css_paths=[STATIC / "style.css"], footer_links=[], run_history=False, ssr_mode=False,
        enable_monitoring=False, pwa=False, show_error=True, mcp_server=False, max_file_size=1,
        head=HEAD,
    )  # fmt: skip


async def _sweep(visitors: Visitors) -> None:
    """Now and then; who is there is decided in the event loop, files are deleted beside it."""
    while True:
        await asyncio.sleep(SWEEP_EVERY_S)
        try:
            await asyncio.to_thread(remove_all, visitors.sweep())
        except Exception:
            log.exception("clearing up after the page's visitors failed; it is tried again")


def add_routes(app: "FastAPI", config: PageConfig, cameras: Cameras, certificate: Certificate | None = None) -> None:
    """Uploads, results, the camera, what vouches for the certificate, and the page's own scripts."""
    from fastapi import Request, WebSocket
    from fastapi.responses import FileResponse, JSONResponse, Response
    from starlette.requests import ClientDisconnect

    @app.post("/page/upload")
    async def upload(request: Request, name: str) -> Response:
        visitor: Visitor = request.scope["visitor"]
        num_bytes = int(request.headers.get("content-length", config.max_upload_bytes))  # who does not say may send the most
        if num_bytes > config.max_upload_bytes:
            return JSONResponse({"error": too_large(name, num_bytes, config)}, 413)
        if problem := visitor.no_room_for(num_bytes, config):
            return JSONResponse({"error": problem}, 429)
        try:
            with visitor.receiving(num_bytes):
                path = await receive_upload(name, request.stream(), visitor.make_folder("uploads"), config)
                taken = await asyncio.to_thread(examine, path, config)
                visitor.uploads[taken.id] = taken
        except InputError as error:
            return JSONResponse({"error": str(error)}, 422)
        except ClientDisconnect:  # removed on the page while it was under way
            return Response(status_code=400)
        except OSError as error:
            log.warning("an upload could not be written: %s", error)
            problem = f"the machine that serves this page could not keep {name} ({why_not_written(error)}); make room there"
            return JSONResponse({"error": problem}, 507)
        return JSONResponse({"id": taken.id} | taken.as_json())

    @app.delete("/page/upload/{upload_id}")
    async def remove(request: Request, upload_id: str) -> Response:
        request.scope["visitor"].remove_upload(upload_id)
        return Response(status_code=204)

    @app.get("/page/result/{job_id}/{number}/{name}")
    async def result(request: Request, job_id: str, number: int, name: str) -> Response:
        path = request.scope["visitor"].result_file(job_id, number, name)
        if path is None:
            return JSONResponse({"error": "no such file; results are kept while their page is open"}, 404)
        as_download = path.name if "download" in request.query_params else None
        return FileResponse(path, media_type=DOWNLOADS.get(path.suffix), filename=as_download, headers={"cache-control": "no-store"})

    @app.get("/page/recording/{name}")
    async def recording(request: Request, name: str) -> Response:
        recorded = request.scope["visitor"].recordings.get(name)
        if recorded is None:
            return JSONResponse({"error": "no such recording; they are kept while their page is open"}, 404)
        return FileResponse(recorded.path, media_type="application/octet-stream", filename=name, headers={"cache-control": "no-store"})

    @app.websocket("/page/live")
    async def live(websocket: WebSocket) -> None:
        await cameras.connect(websocket)

    @app.get(AUTHORITY_ROUTE)
    async def authority() -> Response:
        if certificate is None:
            return Response(status_code=404)
        return Response(certificate.authority, media_type="application/x-x509-ca-cert")

    @app.get("/page/{name}")
    async def asset(name: str) -> Response:
        known = {path.name: path for path in STATIC.iterdir() if path.suffix in (".js", ".css")}
        return FileResponse(known[name], headers={"cache-control": "no-cache"}) if name in known else Response(status_code=404)
