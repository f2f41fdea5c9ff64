"""Which results are there already, and what they were made of. Light, so that thousands can be looked through without the network."""

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from app.config import LiveConfig

log = logging.getLogger(__name__)


def given_settings(config: LiveConfig) -> dict[str, Any]:
    """What decides about the result of a video or picture as it was given, whatever the machine and the network's body."""
    names = ("checkpoint", "detector", "max_people", "smoothing", "focal_px", "parametric")
    return {name: getattr(config, name) for name in names} | drawing_settings(config)


def drawing_settings(config: LiveConfig) -> dict[str, Any]:
    """What decides about the files beside meshes.npz."""
    return {"show_hidden": config.show_hidden, "overlay": config.overlay, "glb": config.glb, "motion": list(config.motion)}


def file_version(path: Path) -> dict[str, str]:
    """The setting that tells one version of an input from another, by size and time as rsync does; nothing for a file that is not there."""
    try:
        status = path.stat()
    except OSError:
        return {}
    return {"file": f"{status.st_size} bytes, modified {datetime.fromtimestamp(int(status.st_mtime), timezone.utc):%Y-%m-%dT%H:%M:%SZ}"}


def already_done(folder: Path, wanted: Mapping[str, Any], overwrite: bool) -> str | None:
    """What to say when `folder` holds a complete result, None when there is something to do. wanted: the settings of this run."""
    changed = None if overwrite else changed_settings(folder, wanted)
    if changed is None:
        return None
    other = f", but with another {', '.join(changed)}" if changed else ""
    return f"already done in {folder}{other}; use --overwrite to do it again"


def changed_settings(folder: Path, wanted: Mapping[str, Any]) -> list[str] | None:
    """The settings in which the complete result in `folder` differs from `wanted`; None when there is no complete result."""
    try:
        settings = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["settings"]
        state = settings.pop("state")
        before_choices = {
            "detector": "mediapipe", "parametric": False, "mesh": "free", "show_hidden": False, "overlay": True, "glb": False,
            "motion": [],
        }  # fmt: skip
        settings = before_choices | settings
        settings = {"file": wanted.get("file")} | settings  # from before the file was noted
        if settings.get("precision") == wanted.get("precision_asked"):  # it runs in that, whatever was asked for
            settings["precision_asked"] = settings.get("precision")
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None  # nothing there, not a summary of ours, or half of one: do it again
    if state != "complete":
        log.info("%s: the last run ended early (%s); doing it again", folder, state)
        return None
    return sorted(name for name, value in wanted.items() if settings.get(name) != value)
