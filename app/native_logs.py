"""Settings of native libraries that they read from the environment, and their start-up chatter, which is kept off the terminal."""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

CHATTER = re.compile(
    rb"^(INFO: Created TensorFlow Lite|WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d\d:\d\d:\d\d"
    rb"|error: XDG_RUNTIME_DIR is invalid)"
)
"""INFO and WARNING lines of TensorFlow Lite and absl; errors begin with E or F and pass. The last one is Wayland's, asked before X."""

QUIET_ENVIRONMENT = {
    "GLOG_minloglevel": "2", "TF_CPP_MIN_LOG_LEVEL": "2", "OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8",
}  # fmt: skip
CAMERA_ENVIRONMENT = {"OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS": "0"}
"""On Windows many cameras take ten seconds to minutes to open with it: https://github.com/opencv/opencv/issues/17687."""


def prepare_native_libraries() -> None:
    """Set these, which the libraries read when they are loaded, except where the user has set them."""
    for name, value in (QUIET_ENVIRONMENT | CAMERA_ENVIRONMENT).items():
        os.environ.setdefault(name, value)


class _Filter:
    """The one redirection of file descriptor 2, for all threads at once: the first to need it begins it, the last ends it."""

    def __init__(self) -> None:
        self._lock, self._num_users = threading.Lock(), 0
        self._redirection = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._num_users:
                self._redirection.enter_context(_redirected())
            self._num_users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_users -= 1
            if not self._num_users:
                self._redirection.close()


_FILTER = _Filter()


def native_noise_filtered() -> contextlib.AbstractContextManager[None]:
    """Whatever is written to file descriptor 2 meanwhile appears afterwards, without the chatter; once nobody wants it any more."""
    return _FILTER


@contextlib.contextmanager
def _redirected() -> Iterator[None]:
    sys.stderr.flush()
    try:
        terminal = os.dup(2)
    except OSError:  # no stderr at all (a service): nothing to keep clean
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            kept = b"".join(line for line in held if not CHATTER.match(line))
            if kept:
                os.write(2, kept)
