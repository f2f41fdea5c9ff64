"""What the live app can be told. Each default stands here once, its help text and unit beside it; launch.py makes flags from it."""

import re
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

MOTION_FORMATS = ("bvh", "fbx", "vrma")
"""As app.export.motions has them."""
VMC_PORT, MAX_PORT = 39539, 65535
"""Where receivers of the VMC protocol listen, and the last of all ports."""
_VMC_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+)(:(?P<port>\d{1,5}))?")


def setting(default: Any, help_text: str, **flag: Any) -> Any:
    """A dataclass field with its help text; `flag` goes to argparse (choices, type, metavar) and makes it a flag."""
    return field(default=default, metadata={"help": help_text, "flag": flag or None})


def vmc_address(text: str) -> tuple[str, int]:
    """Host and port of --vmc. Raises ArgumentTypeError for what is no address."""
    match = _VMC_ADDRESS.fullmatch(text)
    port = int(match["port"] or VMC_PORT) if match else 0
    if not match or not 1 <= port <= MAX_PORT:
        raise ArgumentTypeError(f"got {text!r}, expected HOST or HOST:PORT, as 127.0.0.1:{VMC_PORT}, with a port up to {MAX_PORT}")
    return match["host"].strip("[]"), port


def motion_formats(text: str) -> tuple[str, ...]:
    """Formats of --motion, each once. Raises ArgumentTypeError for one that there is not."""
    names = set(text.lower().split(","))
    if not names <= set(MOTION_FORMATS):
        raise ArgumentTypeError(f"got {text!r}, expected one or more of {', '.join(MOTION_FORMATS)}, with commas between")
    return tuple(sorted(names))


@dataclass(frozen=True)
class DetectConfig:
    """Looking for people."""

    interval_s: float = setting(0.33, "time between two looks at the whole frame, seconds; boxes in between are interpolated")
    max_interval_frames: int = setting(16, "the same in frames at most, so that memory stays small at high rates")
    search_every: int = setting(3, "every which look also searches for who is small or lies; one that finds fewer than before does too")
    search_at_least_every: int = setting(8, "while searches show nobody beside those known they become rarer, down to one in so many looks")


@dataclass(frozen=True)
class TrackConfig:
    """Keeping apart who is who."""

    confirm_hits: int = setting(2, "times a person must be found before they are shown")
    hold_s: float = setting(0.5, "how long somebody no longer found is followed by their own mesh, seconds")
    forget_s: float = setting(2.0, "how long somebody lost can be recognised by place and size, seconds")
    gate_sides: float = setting(0.5, "distance between expected and found box, in box sides, above which they are not the same person")
    gate_growth_sides_per_s: float = setting(0.7, "how much the gate widens per second since the last sight")


@dataclass(frozen=True)
class SmoothConfig:
    """The 1 Euro filter (Casiez et al. 2012): cutoff = min_cutoff + beta * speed, at 30 frames/s; at other rates see smooth.rate_factor.

    Chosen on real clips, so that a camera's jitter is halved at half a frame of lag: `python -m app.jitter --live CLIP...` shows both.
    both_ways_share: on seven rendered clips of motion capture it takes a quarter off the error of the acceleration and a tenth off that of
    the velocity, and hands and feet keep 0.53 of their true speed; 0.56 with a camera's filter, and 0.61 without any.
    """

    min_cutoff_hz: float = setting(0.3, "body shape at rest, Hz; lower is calmer")
    beta_hz_per_m_s: float = setting(25.0, "body shape in motion, Hz per m/s; higher follows faster")
    root_min_cutoff_hz: float = setting(0.3, "place in the picture at rest, Hz")
    root_beta_hz_per_m_s: float = setting(28.0, "place in the picture in motion, Hz per m/s at the person's distance")
    depth_min_cutoff_hz: float = setting(0.3, "distance at rest, Hz")
    depth_beta_hz_per_m_s: float = setting(60.0, "distance in motion, Hz per m/s")
    depth_line_s: float = setting(0.13, "distance in recordings: on a line through what is this far away, seconds (standard deviation)")
    previous_share: float = setting(0.3, "share of the frame before in what is filtered, 0..0.5; takes away what alternates between frames")
    depth_previous_share: float = setting(0.35, "the same for the distance, which is noisier")
    derivative_cutoff_hz: float = setting(2.5, "speed estimate, Hz; higher notices motion sooner")
    rotation_min_cutoff_hz: float = setting(0.3, "bones' rotations at rest, Hz")
    rotation_beta_hz_per_rad_s: float = setting(7.5, "bones' rotations in motion, Hz per rad/s; a limb of 0.3 m then moves as its vertices")
    shape_cutoff_hz: float = setting(0.2, "shape parameters, Hz; nobody's shape changes")
    both_ways_share: float = setting(0.4, "of the cutoffs in motion, where a recording is filtered forward and back; lower is calmer")
    max_gap_s: float = setting(0.5, "a person unseen for longer starts afresh, seconds")

    def both_ways(self) -> "SmoothConfig":
        """For each of the two passes over a recording: what they make late cancels out, so that they may be calmer."""
        share = self.both_ways_share
        return replace(
            self, beta_hz_per_m_s=share * self.beta_hz_per_m_s, root_beta_hz_per_m_s=share * self.root_beta_hz_per_m_s,
            depth_beta_hz_per_m_s=share * self.depth_beta_hz_per_m_s, rotation_beta_hz_per_rad_s=share * self.rotation_beta_hz_per_rad_s,
        )  # fmt: skip


@dataclass(frozen=True)
class LiveConfig:
    """A run of the app. Fields made with `setting(..., flag options)` are flags of launch.py."""

    checkpoint: str = setting(
        "default", "the trained model: a name in checkpoints/, a .safetensors file, or an official state_dict.bin", metavar="NAME|PATH"
    )
    body: str = setting("auto", "body model the checkpoint must have; auto takes the checkpoint's", choices=("auto", "anny", "smpl"))
    mesh_dir: Path | None = setting(  # noqa: RUF009  as all settings
        None, "folder of the SMPL body's files (default: that of an official .bin, or checkpoints/smpl)", type=Path, metavar="DIR"
    )
    parametric: bool = setting(
        False, "write the body's parameters too: bone rotations, and one shape for each person; see docs/parameters.md",
        action="store_true",
    )  # fmt: skip
    mesh: str = setting(
        "auto", "which mesh is shown and written: the body posed by its own parameters, or the network's vertices as they come; auto takes "
        "the body's where it is as accurate (Anny), but for a camera the quicker vertices", choices=("auto", "parametric", "free"),
    )  # fmt: skip
    device: str = setting("auto", "where the network runs; auto takes a GPU when there is one", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = setting(
        "auto", "numbers of the network; auto takes the quickest the device does well", choices=("auto", "fp32", "bf16", "int8")
    )
    detector: str = setting(
        "nanodet",
        "what finds people: NanoDet and MoveNet MultiPose, MoveNet alone, or mediapipe's pose landmarker",
        choices=("nanodet", "movenet", "mediapipe"),
    )
    max_people: int = setting(6, "most people followed at once", type=int, metavar="N")
    smoothing: str = setting("one-euro", "filter over time", choices=("one-euro", "none"))
    focal_px: float | None = setting(
        None,
        "focal length in pixels, if known; else what the file says (photographs, iPhones), a webcam's 70 degrees, or the diagonal",
        type=float,
        metavar="PX",
    )
    show_hidden: bool = setting(False, "draw body parts that are hidden or out of the picture too; they are guesses", action="store_true")
    overlay: bool = setting(True, "write overlay.mp4; without it a recording takes about a sixth less time", action=BooleanOptionalAction)
    glb: bool = setting(False, "write people.glb as well: skeletons with a skin, for Blender, game engines, browsers", action="store_true")
    motion: tuple[str, ...] = setting(
        (), "write a file of each person's motion as well: fbx for Unity, Unreal, Maya, Blender, bvh for whatever else animates skeletons, "
        "vrma for VRM avatars; several with commas between", type=motion_formats, metavar="FORMAT",
    )  # fmt: skip
    record: Path | None = setting(  # noqa: RUF009  as all settings
        None, "with --webcam: save the session to this new file while it runs; --replay shows it again", type=Path, metavar="FILE.arrows"
    )
    record_pictures: bool = setting(
        False, "with --record: keep the camera's pictures as well (about 2 MB/s at 640x480)", action="store_true"
    )
    vmc: tuple[str, int] | None = setting(
        None, "with --webcam, and --replay without --out: send everybody's motion to a program that animates avatars, by the VMC "
        f"protocol; alone: to port {VMC_PORT} of this machine; the next person goes to the next port; see docs/animation.md",
        nargs="?", const=f"127.0.0.1:{VMC_PORT}", type=vmc_address, metavar="HOST:PORT",
    )  # fmt: skip
    overwrite: bool = setting(False, "redo inputs whose results are complete already", action="store_true")
    headless: bool = setting(False, "with --webcam: no window; status on stderr, useful with --record", action="store_true")
    mirror: bool = setting(False, "with --webcam: show the window mirrored at first", action="store_true")
    loop: bool = setting(
        False, "with --webcam FILE and --replay: play the file again and again instead of ending with it", action="store_true"
    )
    duration_s: float | None = setting(None, "with --webcam: end so many seconds after the network is loaded", type=float, metavar="S")
    target_ms: float = setting(
        33.0, "live: time that a frame may take, milliseconds; the governor holds it by looking, drawing, estimating less often",
        type=float, metavar="MS",
    )  # fmt: skip
    detect: DetectConfig = field(default_factory=DetectConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    smooth: SmoothConfig = field(default_factory=SmoothConfig)

    @property
    def animated(self) -> bool:
        """Whether files are written that need the bones' rotations and how the camera turns."""
        return self.glb or bool(self.motion)

    def for_camera(self) -> "LiveConfig":
        """These settings where every millisecond counts: fitting bodies takes 10 ms a person, a frame in three on two cores. Whoever asks
        for bones gets them.
        """
        parametric = self.parametric or self.vmc is not None
        return replace(self, parametric=parametric, mesh="free" if self.mesh == "auto" and not parametric else self.mesh)

    def __post_init__(self) -> None:
        if self.max_people < 1:
            raise ValueError(f"--max-people: got {self.max_people}, expected 1 or more")
        if self.duration_s is not None and not self.duration_s > 0:
            raise ValueError(f"--duration-s: got {self.duration_s:g}, expected a time in seconds, above 0")
        if not 1 <= self.target_ms <= 10_000:
            raise ValueError(f"--target-ms: got {self.target_ms:g}, expected milliseconds, 1 to 10000 (33 is 30 frames a second)")
        if self.record_pictures and self.record is None:
            raise ValueError("--record-pictures: expected --record FILE beside it, the recording that the pictures go to")
        if self.focal_px is not None and not 1 <= self.focal_px < 1e6:
            raise ValueError(f"--focal-px: got {self.focal_px:g}, expected a focal length in pixels, 1 or more (about the frame's width)")


@dataclass(frozen=True)
class PageConfig:
    """The browser page: where it listens, who may in, how much it takes."""

    host: str = setting("127.0.0.1", "address the page listens at; 0.0.0.0 lets other machines in, then give --auth too", metavar="ADDRESS")
    port: int = setting(7860, "port of the page; 0 takes a free one", type=int, metavar="N")
    https: bool = setting(
        False, "serve the page over https with a certificate of its own, so that phones and other machines may use their cameras; browsers "
        "warn once", action="store_true",
    )  # fmt: skip
    auth: str | None = setting(None, "ask visitors of the page for this name and password", metavar="USER:PASSWORD")
    max_upload_mb: int = setting(512, "largest file that the page takes, megabytes", type=int, metavar="MB")
    max_video_s: int = setting(600, "longest video that the page takes, seconds", type=int, metavar="S")
    max_side_px: int = setting(8192, "widest or tallest video or picture that the page takes, pixels")
    max_files: int = setting(24, "files that one visitor may have waiting for a job")
    max_waiting: int = setting(4, "jobs that may wait for the one that runs")
    max_live: int = setting(2, "live cameras at once")
    max_visitors: int = setting(200, "visitors at once")
    keep_s: float = setting(3600.0, "how long results are kept while their visitor stays, seconds")
    keep_after_leaving_s: float = setting(30.0, "the same after the visitor closed the page, seconds")

    @property
    def max_upload_bytes(self) -> int:
        """Of one file."""
        return self.max_upload_mb * 1_000_000

    def __post_init__(self) -> None:
        if not 0 <= self.port <= MAX_PORT:
            raise ValueError(f"--port: got {self.port}, expected 0 to {MAX_PORT}")
        if self.auth is not None and not all(self.auth.partition(":")):
            raise ValueError("--auth: expected USER:PASSWORD, a name and a password with a colon between, neither of them empty")
        for name in ("max_upload_mb", "max_video_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected 1 or more")


ESTIMATING = (
    "checkpoint", "body", "mesh_dir", "parametric", "mesh", "device", "precision", "detector", "max_people", "smoothing", "focal_px",
    "show_hidden",
)  # fmt: skip
MODE_FLAGS: dict[str, tuple[str, ...]] = {
    "video": (*ESTIMATING, "overlay", "glb", "motion", "overwrite"),
    "images": (*ESTIMATING, "overwrite"),
    "demo": (*ESTIMATING, "overlay", "glb", "motion"),
    "webcam": (*ESTIMATING, "vmc", "record", "record_pictures", "headless", "mirror", "loop", "duration_s", "target_ms"),
    "page": (*ESTIMATING, "overlay", "target_ms"),
    "replay": ("show_hidden", "overlay", "glb", "motion", "overwrite", "loop", "vmc"),
    "bench": (*ESTIMATING, "glb"),
    "check": ("mesh_dir", "device", "precision"),
}
"""Mode of launch.py -> the flags of LiveConfig that have an effect there."""


def idle_flags(mode: str, config: LiveConfig) -> list[str]:
    """Flags that were given, but change nothing in this mode, as they are typed."""
    given = [item for item in flag_fields() if getattr(config, item.name) != default_of(item)]
    return [_typed(item, getattr(config, item.name)) for item in given if item.name not in MODE_FLAGS[mode]]


def _typed(item: Field, value: Any) -> str:
    flag = item.name.replace("_", "-")
    return f"--no-{flag}" if value is False else f"--{flag}"


def flag_fields(config: type = LiveConfig) -> list[Field]:
    """The fields of LiveConfig or PageConfig that are flags."""
    return [item for item in fields(config) if item.metadata.get("flag")]


def add_flags(parser: ArgumentParser, items: Iterable[Field]) -> None:
    """A flag for each of these fields, with the field's default and help text."""
    for item in items:
        options: dict[str, Any] = dict(item.metadata["flag"])
        default = default_of(item)
        shown = "" if default in (None, False, ()) else f" (default: {default})"
        flag = "--" + item.name.replace("_", "-")
        parser.add_argument(flag, dest=item.name, default=default, help=f"{item.metadata['help']}{shown}", **options)


def default_of(item: Field) -> Any:
    """A field's default."""
    return item.default_factory() if item.default is MISSING else item.default
