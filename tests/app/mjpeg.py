"""An HTTP camera on loopback that can stall, die and come back."""

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

PERIOD_S = 0.04


class MjpegCamera:
    """Serves red-left, blue-right pictures as MJPEG. stalled: connections stay open and say nothing."""

    def __init__(self, port: int = 0, size_px: tuple[int, int] = (160, 120)) -> None:
        image = np.zeros((size_px[1], size_px[0], 3), np.uint8)
        image[:, : size_px[0] // 2] = (0, 0, 230)  # BGR
        image[:, size_px[0] // 2 :] = (230, 0, 0)
        self._jpeg = cv2.imencode(".jpg", image)[1].tobytes()
        self.stalled = False
        self._dead = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/live.mjpg"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def __enter__(self) -> "MjpegCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """End all connections and take no new ones."""
        if not self._dead.is_set():
            self._dead.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):
            request.send_response(200)
            request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            request.end_headers()
            part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(self._jpeg)
            while not self._dead.is_set():
                if not self.stalled:
                    request.wfile.write(part + self._jpeg + b"\r\n")
                time.sleep(PERIOD_S)
