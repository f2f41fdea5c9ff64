"""Pieces of HTML that change while the page is used: progress, results, numbers, licences. No state, no Gradio."""

import html
from collections.abc import Sequence
from typing import Any

from app.page.models import BODY_LICENCES, Model, none_for
from app.page.uploads import VIDEO, duration_text
from app.page.work import CANCELLED, LOADING, WAITING, Job, Result

HEADER = """
<header class="fm-top">
  <svg class="fm-mark" viewBox="0 0 32 32" aria-hidden="true"><circle cx="16" cy="6.5" r="4"/><path d="M16 11v9M16 13.5 7.5 18M16 13.5l8.5 4.5M16 20l-5.5 9M16 20l5.5 9"/></svg>
  <div><h1>FastMETRO <em>Live</em></h1><p>People in videos and pictures become moving 3D meshes. Nothing goes to the internet.</p></div>
</header>
"""  # noqa: E501

FILE_TEXTS = {
    "overlay.mp4": ("Video", "meshes over the input"),
    "overlay.png": ("Picture", "meshes over the input"),
    "meshes.npz": ("Meshes", "NumPy, one row per person and frame"),
    "motion.zip": ("Motion", "FBX, BVH and VRM animations, a file for each person"),
    "summary.json": ("Summary", "people, times, settings"),
}
"""What a download is, by file name; any other is named by its suffix."""
SUFFIX_TEXTS = {".glb": ("3D animation", "GLB, for Blender and viewers")}


def drop_zone(limits: str, max_bytes: int, max_files: int, accept: str) -> str:
    """Where files are dropped or chosen; page.js does the rest."""
    return f"""
<div class="fm-drop" data-drop data-max-bytes="{max_bytes}" data-max-files="{max_files}">
  <input type="file" id="fm-files" multiple accept="{html.escape(accept)}">
  <label for="fm-files">
    <svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 16V4m0 0L7 9m5-5 5 5M4 16v3a1.5 1.5 0 0 0 1.5 1.5h13A1.5 1.5 0 0 0 20 19v-3"/></svg>
    <strong>Drop a video or pictures here</strong><span>or <u>choose files</u></span>
    <small>{html.escape(limits)}</small>
  </label>
  <ul class="fm-files" aria-live="polite"></ul>
  <p class="fm-problem" role="alert" hidden></p>
</div>"""  # noqa: E501


def badges(model: Model | None, body: str) -> str:
    """What may be done with the network and the body."""
    if model is None:
        return f'<p class="fm-badges">{_badge(sentence(none_for(body)), "no")}</p>'
    allowed = {"yes": ("Commercial use allowed", "yes"), "no": ("Non-commercial use only", "no")}
    text, kind = allowed.get(model.commercial_use, ("Commercial use: see licence", "ask"))
    body_text, body_use = BODY_LICENCES.get(model.body, (f"{model.body} body", "ask"))
    if body_use == "no":
        text, kind = allowed["no"]
    return (
        f'<p class="fm-badges">{_badge(text, kind)}{_badge(body_text)}{_badge(model.variant)}</p>'
        f'<details class="fm-licence"><summary>Licence of the network</summary>{html.escape(model.licence)}</details>'
    )


def _badge(text: str, kind: str = "") -> str:
    return f'<span class="fm-badge {kind}">{html.escape(text)}</span>'


def progress(job: Job, ahead: int) -> str:
    """How far a job is."""
    step = job.step
    if job.state == WAITING:
        return _progress_card("Waiting", f"{ahead} {'job' if ahead == 1 else 'jobs'} before this one", None)
    if job.state == LOADING:
        return _progress_card("Loading the network", "the first time takes a few seconds", None)
    many = f"{step.item + 1} of {step.items}: " if step.items > 1 else ""
    if step.frames == 1:
        return _progress_card(f"{many}{step.name}", f"picture {step.item + 1} of {step.items}", step.item / max(step.items, 1))
    share = step.frame / step.frames if step.frames else None
    detail = f"frame {step.frame} of {step.frames or '?'}"
    if step.per_s:
        detail += f" · {step.per_s:.1f} frames/s"
        if step.frames and step.frames > step.frame:
            detail += f" · {duration_text((step.frames - step.frame) / step.per_s)} left"
    return _progress_card(f"{many}{step.name}", detail, share)


def _progress_card(title: str, detail: str, share: float | None) -> str:
    bar = '<i class="wait"></i>' if share is None else f'<i style="width:{100 * min(share, 1):.1f}%"></i>'
    return (
        f'<div class="fm-progress" role="status"><div><b>{html.escape(title)}</b><span>{html.escape(detail)}</span></div>'
        f'<div class="fm-bar">{bar}</div></div>'
    )


def note(text: str, kind: str = "") -> str:
    """A line of its own: "" neutral, "bad" for what went wrong."""
    return f'<p class="fm-note {kind}" role="{"alert" if kind else "status"}">{html.escape(text)}</p>'


def sentence(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]


def outcome(job: Job) -> str:
    """How a job ended, where that needs saying."""
    lines = [note(problem, "bad") for problem in job.problems]
    if job.state == CANCELLED:
        done = len(job.results)
        kept = f"What was done is below: {done} of {len(job.uploads)}" if done else "Nothing was kept"
        lines.append(note(f"Cancelled. {kept}; choose again or start once more."))
    return "".join(lines)


OVERLAYS = {
    "overlay.mp4": '<video class="fm-overlay" src="{address}" controls autoplay muted loop playsinline></video>',
    "overlay.png": '<img class="fm-overlay" src="{address}" alt="{name} with meshes">',
}
NO_OVERLAY = "There is no overlay of this one; the 3D view and the files hold the people."
FLAG_NO_OVERLAY = f"This page was started with --no-overlay. {NO_OVERLAY}"


def picture(job: Job, number: int) -> str:
    """The overlay, playing or still; where there is none, why."""
    result = job.results[number]
    name = next((name for name in OVERLAYS if name in result.files), None)
    if name is None:
        return note(NO_OVERLAY if job.config.overlay else FLAG_NO_OVERLAY)
    return OVERLAYS[name].format(address=_address(job, number, name), name=html.escape(result.name))


def _address(job: Job, number: int, name: str) -> str:
    return f"/page/result/{job.id}/{number}/{name}"


def numbers(result: Result) -> str:
    """People, frames, speed at a glance, and what the run had to say."""
    summary = result.summary
    people = len(summary["people"])
    width, height = summary["image_size_px"]
    tiles = [("People", str(people), f"at most {summary['max_people_at_once']} at once" if people > 1 else "&nbsp;")]
    if result.kind == VIDEO:
        tiles += [
            ("Frames", str(summary["frames"]), f"{summary['frames_with_people']} with people"),
            ("Speed", f"{summary['frames_per_s']:.1f} fps", f"done in {duration_text(max(1, summary['seconds']))}"),
            ("Input", f"{width} &times; {height}", f"{summary['fps']:.4g} fps"),
        ]
    else:
        tiles += [("Picture", f"{width} &times; {height}", "pixels"), ("Time", f"{summary['seconds']:.1f} s", "&nbsp;")]
    jitter = summary.get("jitter_m_s3")
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{detail}</small></dd></div>" for name, value, detail in tiles)
    warnings = "".join(note(sentence(text)) for text in summary["warnings"])
    return f'<dl class="fm-tiles">{cells}</dl>{jitter_plot(jitter) if jitter else ""}{warnings}'


PLOT_PX = 640, 120
"""Width and height of a plot's own coordinates."""


def jitter_plot(jitter: dict[str, Any]) -> str:
    """Shaking of the joints over the video, before and after smoothing, as two lines."""
    curve = jitter["curve"]
    width, height = PLOT_PX
    start_s, end_s = curve["time_s"][0], curve["time_s"][-1]
    ranked = sorted(curve["before"] + curve["after"])
    top = max(ranked[int(0.98 * (len(ranked) - 1))], 1e-6) * 1.1  # a single jump must not flatten the rest
    lines = []
    for name in ("before", "after"):
        points = [
            f"{width * (time_s - start_s) / max(end_s - start_s, 1e-6):.1f},{height * (1 - min(value / top, 1)):.1f}"
            for time_s, value in zip(curve["time_s"], curve[name], strict=True)
        ]
        lines.append(f'<polyline class="{name}" points="{" ".join(points)}"/>')
    told = "".join(f'<span class="{name}">{name} {jitter[name]:.0f} m/s&sup3;</span>' for name in ("before", "after"))
    change = 1 - jitter["after"] / jitter["before"] if jitter["before"] else 0
    title = f"{change:.0%} calmer" if change > 0 else "not smoothed"
    label = "Jitter before and after smoothing"
    return (
        f'<figure class="fm-plot"><figcaption><b>Jitter: {title}</b>{told}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{label}">{"".join(lines)}</svg>'
        f"<footer><span>{start_s:.1f} s</span><span>{end_s:.1f} s</span></footer></figure>"
    )


def downloads(job: Job, number: int) -> str:
    """Links to the files."""
    links = []
    for name, path in job.results[number].files.items():
        title, detail = FILE_TEXTS.get(name) or SUFFIX_TEXTS.get(path.suffix) or (name, path.suffix.lstrip(".").upper())
        size = size_text(path.stat().st_size)
        links.append(
            f'<a class="fm-file" href="{_address(job, number, name)}?download" download="{html.escape(name)}">'
            f"<b>{html.escape(title)}</b><span>{html.escape(name)} · {size}</span><small>{html.escape(detail)}</small></a>"
        )
    return f'<nav class="fm-downloads" aria-label="Downloads">{"".join(links)}</nav>'


def size_text(num_bytes: float) -> str:
    """812 B, 12.3 kB, 4.5 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def titles(results: Sequence[Result]) -> list[tuple[str, int]]:
    """What a result is called in the choice between several."""
    names = [result.name for result in results]
    return [(name if names.count(name) == 1 else f"{name} ({index + 1})", index) for index, name in enumerate(names)]
