"""The door of FastMETRO Live: flags -> config -> app. Results go to stdout, everything else to stderr.

Exit codes: 0 fine, 1 an expected error (one line on stderr), 2 usage. A bug keeps its traceback.
"""

import argparse
import importlib.util
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

if sys.version_info < (3, 10):  # noqa: UP036  before anything that an older Python cannot even read
    sys.exit(f"launch.py: this is Python {sys.version.split()[0]}; 3.10 or newer is needed, and tested are those that README names")

from app.config import LiveConfig, PageConfig, add_flags, default_of, flag_fields, idle_flags
from app.files import folder_problem, named_path
from app.native_logs import prepare_native_libraries
from core.errors import InputError, nobody_reads
from core.stopping import interrupted_politely

USAGE_ERROR, EXPECTED_ERROR = 2, 1
BENCH_SECTIONS = ("network", "stages", "recorded", "live", "start-up", "smoothing", "scaling")
SYSTEM_LIBRARIES = "libgl1 libegl1 libgles2 libx11-6 libidn2-0 libusb-1.0-0 libglib2.0-0"
MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+?\.so[\w.]*): cannot open shared object file")


class Asked(NamedTuple):
    """What the command line asks for."""

    flags: argparse.Namespace
    config: LiveConfig
    page: PageConfig


def main(arguments: list[str] | None = None) -> int:
    """Run the app; returns the exit code."""
    parser = build_parser()
    flags = parser.parse_args(arguments)
    config, page = config_from(flags, parser), page_from(flags, parser)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its fonts, once, whoever imports it
    prepare_native_libraries()
    mode = mode_of(flags)
    idle = idle_flags(mode, config)
    if idle:
        where = "on the page, which is shown without a mode" if mode == "page" else f"with --{mode}"
        print(f"launch.py: {', '.join(idle)}: without effect {where}", file=sys.stderr)
    try:
        with interrupted_politely():
            code = run(Asked(flags, config, page))
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        return fail("interrupted; what was done until then is kept")
    except BrokenPipeError:
        return nobody_reads()
    except (ImportError, OSError, ValueError) as error:
        message = explain(error)
        if message is None:
            raise
        return fail(message)


def build_parser() -> argparse.ArgumentParser:
    """The command line: modes by hand, all other flags from LiveConfig's fields."""
    description = "FastMETRO Live: people in videos, pictures and before the camera -> 3D meshes. Without a mode: the browser page."
    usage = "launch.py [MODE] [FLAGS]   (--help lists them)"
    parser = argparse.ArgumentParser(prog="launch.py", usage=usage, description=description)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--webcam", nargs="?", const="0", metavar="INDEX|URL", help="a live window: a camera's number, an rtsp or http URL, or a video file"
    )
    modes.add_argument("--video", nargs="+", type=named_path, metavar="FILE", help="recorded videos -> mesh sequences; needs --out")
    modes.add_argument("--images", nargs="+", type=named_path, metavar="FILE|DIR", help="pictures -> meshes; needs --out")
    modes.add_argument(
        "--replay", type=named_path, metavar="FILE", help="a session of --record again in the window; with --out: the same files as --video"
    )
    modes.add_argument("--demo", action="store_true", help="a synthetic person whose truth is known; prints the error in mm")
    modes.add_argument("--check", action="store_true", help="what is installed and present, licences, what is missing")
    modes.add_argument(
        "--bench", nargs="*", metavar="SECTION", help="speed table of this machine, three to five minutes; or only: "
        f"{' '.join(BENCH_SECTIONS[:-1])}; {BENCH_SECTIONS[-1]} is run when it is named",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="with --bench: fewer runs of everything, less exact")
    parser.add_argument("--page", action="store_true", help="with --webcam: start the browser page where there is no display")
    parser.add_argument("--out", type=named_path, metavar="DIR", help="folder for the results (--demo, --bench: out)")
    add_flags(parser, (*flag_fields(), *flag_fields(PageConfig)))
    return parser


def config_from(flags: argparse.Namespace, parser: argparse.ArgumentParser) -> LiveConfig:
    """The config; ends the program with a usage error (2) when flags do not fit."""
    if (flags.video or flags.images) and flags.out is None:
        parser.error("--video and --images need --out DIR, the folder for the results")
    if flags.check and flags.out is not None:
        parser.error("--check writes nothing; --out has no effect there")
    unknown = [name for name in flags.bench or () if name not in BENCH_SECTIONS]
    if unknown:
        parser.error(f"--bench: no section {unknown[0]!r}; there are {', '.join(BENCH_SECTIONS)}")
    if flags.quick and flags.bench is None:
        parser.error("--quick makes --bench shorter; it has no effect elsewhere")
    if flags.record is not None and flags.webcam is None:
        parser.error("--record saves live sessions; it needs --webcam")
    if flags.page and mode_of(flags) not in ("page", "webcam"):
        parser.error(f"--page: got it with --{mode_of(flags)}; give it alone, or with --webcam for where there is no display")
    try:
        return LiveConfig(**{item.name: getattr(flags, item.name) for item in flag_fields()})
    except ValueError as error:
        parser.error(str(error))


def mode_of(flags: argparse.Namespace) -> str:
    """Which of RUNNERS is asked for: the one whose flag is given, else the page."""
    return next((mode for mode in RUNNERS if mode != "page" and getattr(flags, mode) not in (None, False)), "page")


def page_from(flags: argparse.Namespace, parser: argparse.ArgumentParser) -> PageConfig:
    """The page's config; ends the program with a usage error (2) for bad values, and for flags of the page without the page."""
    given = {item.name: getattr(flags, item.name) for item in flag_fields(PageConfig)}
    has_page = mode_of(flags) == "page" or (mode_of(flags) == "webcam" and flags.page)
    if has_page and flags.webcam is None and flags.out is not None:
        parser.error("--out: the page writes no folder, it offers its results as downloads; give it with --video, --images or --demo")
    changed = [f"--{item.name.replace('_', '-')}" for item in flag_fields(PageConfig) if given[item.name] != default_of(item)]
    if changed and not has_page:
        parser.error(f"{', '.join(changed)}: only for the page, which is what launch.py shows without a mode")
    try:
        return PageConfig(**given)
    except ValueError as error:
        parser.error(str(error))


def run(asked: Asked) -> int:
    """Do it; returns the exit code."""
    folder = asked.flags.out
    problem = folder_problem(folder) if folder is not None else None
    if problem:
        return fail(f"--out {problem}")
    return RUNNERS[mode_of(asked.flags)](asked)


def run_videos(asked: Asked) -> int:
    """Recorded videos -> files."""
    from app import jobs

    return EXPECTED_ERROR if jobs.run_videos(asked.flags.video, asked.flags.out, asked.config, say).failed else 0


def run_pictures(asked: Asked) -> int:
    """Pictures -> files."""
    from app import jobs

    return EXPECTED_ERROR if jobs.run_pictures(asked.flags.images, asked.flags.out, asked.config, say).failed else 0


def run_replay(asked: Asked) -> int:
    """A recorded session in the window, or as files."""
    from app.replay import replay_in_window, replay_to_files

    session, folder = asked.flags.replay, asked.flags.out
    if folder and asked.config.vmc:
        raise InputError("--vmc: with --replay it is sent while the window shows the session; leave --out away")
    print(replay_to_files(session, folder, asked.config) if folder else replay_in_window(session, asked.config))
    return 0


def run_demo(asked: Asked) -> int:
    """The person whose truth is known."""
    from app import demo

    print(demo.run_demo(asked.flags.out or Path("out"), asked.config))
    return 0


def run_check(asked: Asked) -> int:
    """What is there and what is missing."""
    from app.check import check

    report, usable = check(asked.config)
    print(report)
    return 0 if usable else EXPECTED_ERROR


def run_benchmark(asked: Asked) -> int:
    """The speed table; one that was cut short is printed as well."""
    from app.bench.run import run_bench

    text, complete = run_bench(asked.flags.bench, asked.flags.out or Path("out"), asked.config, asked.flags.quick)
    print(text)
    return 0 if complete else fail("interrupted; what was done until then is kept")


def run_live(asked: Asked) -> int:
    """The window, or what stands in for it where there is no display."""
    from app.webcam import NoDisplayError, run_webcam

    if asked.config.record is not None:
        from app.session import refuse_existing

        refuse_existing(asked.config.record)
    try:
        text, complete = run_webcam(asked.flags.webcam, asked.config, asked.flags.out or Path())
        print(text)
    except NoDisplayError:
        if not asked.flags.page:
            raise
        print("launch.py: there is no display for a window here; the page starts instead", file=sys.stderr)
        return run_page(asked)
    return 0 if complete else EXPECTED_ERROR


def run_page(asked: Asked) -> int:
    """The browser page, until somebody ends it."""
    from app.page import server

    server.run_page(asked.config, asked.page, say)
    return 0


RUNNERS: dict[str, Callable[[Asked], int]] = {
    "webcam": run_live, "video": run_videos, "images": run_pictures, "replay": run_replay, "demo": run_demo, "check": run_check,
    "bench": run_benchmark, "page": run_page,
}  # fmt: skip
"""Mode -> what does it. All but the page are flags of that name; app.config.MODE_FLAGS says which others have an effect there."""


def explain(error: Exception) -> str | None:
    """One line for an expected error; None for a bug."""
    text = " ".join(str(error).split())
    library = MISSING_LIBRARY.search(text)
    if library:
        return f"the system library {library[1]} is missing; on Debian or Ubuntu: apt-get install -y {SYSTEM_LIBRARIES}"
    if isinstance(error, ModuleNotFoundError) and error.name and is_foreign(error.name):
        package = error.name.split(".")[0]
        return f"the Python package {package!r} is missing; install what the app needs: {sys.executable} -m pip install -r requirements.txt"
    if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno is not None):
        return text
    return None


def is_foreign(module: str) -> bool:
    """True when a missing module's package is none of ours and not installed (a missing part of an installed one is a bug)."""
    package = module.split(".", maxsplit=1)[0]
    return package not in ("app", "core") and importlib.util.find_spec(package) is None


def say(line: str) -> None:
    """Print a result at once, also into a pipe."""
    print(line, flush=True)


def fail(message: str) -> int:
    """Say it on stderr."""
    print(f"launch.py: {message}", file=sys.stderr)
    return EXPECTED_ERROR


def leave(code: int) -> None:
    """End the program, at once when threads are left: one may be inside a native library, which the interpreter's end would abort."""
    if threading.active_count() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
