"""The Gradio blocks: what is where, and what happens when something is pressed."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.page import cards
from app.page.live_card import live_card
from app.page.models import ANY_BODY, UNSMOOTHED, Model, bodies, known_models, models_for
from app.page.uploads import VIDEO_SUFFIXES, Upload, limits_text
from app.page.visitors import Visitor
from app.page.work import ENDED, Job, Worker
from app.sources import PICTURE_SUFFIXES
from core.errors import InputError

if TYPE_CHECKING:
    from fastapi import Request

TICK_S = 0.25
MOST_PEOPLE = 12
"""Offered at least; more where --max-people says so."""
KEPT_JOBS = 3
"""Results that a visitor may look at again; older ones go when a new job starts."""
FONT = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
MONO = ["ui-monospace", "SF Mono", "Menlo", "DejaVu Sans Mono", "monospace"]
TAKE_UPLOADS = "async (ids, ...rest) => [await window.fastmetro.taken(), ...rest]"


def theme() -> gr.themes.Base:
    """System fonts only, so nothing is fetched; style.css does the rest."""
    return gr.themes.Base(primary_hue="blue", neutral_hue="slate", radius_size="lg", font=FONT, font_mono=MONO).set(
        body_background_fill="#f5f7fa", body_background_fill_dark="#0c1118",
        block_background_fill="#ffffff", block_background_fill_dark="#141b25",
        border_color_primary="#dde3ea", border_color_primary_dark="#243042",
        button_primary_background_fill="#1f6feb", button_primary_background_fill_hover="#1a5fd0",
        button_primary_background_fill_dark="#2f7df6", button_primary_background_fill_hover_dark="#4a8ff8",
        button_primary_text_color="#ffffff",
        body_text_color_subdued="#5b6b7d", body_text_color_subdued_dark="#97a6b8", block_shadow="none", block_border_width="1px",
    )  # fmt: skip


def build_blocks(worker: Worker) -> gr.Blocks:
    """The page."""
    models = known_models(worker.networks.config)
    with gr.Blocks(title="FastMETRO Live", analytics_enabled=False, fill_width=False) as blocks:
        gr.HTML(cards.HEADER, js_on_load=None)
        with gr.Tabs(elem_classes="fm-tabs"):
            with gr.Tab("Videos & pictures", id="files"):
                _files_tab(worker, models)
            with gr.Tab("Live camera", id="live"):
                gr.HTML(live_card(models, worker.networks.config.body), js_on_load=None, elem_id="fm-live")
        gr.HTML(f'<footer class="fm-foot">{_foot(worker)}</footer>', js_on_load=None)
        blocks.unload(lambda: None)  # makes the page hold a request open, by which the guard knows that its visitor is there
    blocks.queue(default_concurrency_limit=None, max_size=64, api_open=False)
    return blocks


def _foot(worker: Worker) -> str:
    kept = round(worker.config.keep_s / 60)
    return f"Uploads and results are yours alone; they are deleted when you close the page, and after {kept} minutes at the latest."


def _files_tab(worker: Worker, models: dict[str, Model]) -> None:
    """Files in, settings, one button, progress, results."""
    config = worker.config
    accept = ",".join(("video/*", "image/*", *VIDEO_SUFFIXES, *PICTURE_SUFFIXES))
    gr.HTML(cards.drop_zone(limits_text(config), config.max_upload_bytes, config.max_files, accept), js_on_load=None)
    settings = _settings(worker, models)
    with gr.Row(elem_classes="fm-actions"):
        start = gr.Button("Make meshes", variant="primary", elem_id="fm-start", size="lg", scale=3)
        cancel = gr.Button("Cancel", variant="secondary", elem_id="fm-cancel", size="lg", visible=False, scale=1)
    status = gr.HTML("", js_on_load=None, elem_id="fm-status")
    with gr.Column(elem_id="fm-result"):  # style.css hides it while it is empty; Gradio loses values of what it hides itself
        choice = gr.Radio([], label="Result", visible=False, elem_id="fm-choice")
        with gr.Row(equal_height=True, elem_classes="fm-views"):
            overlay = gr.HTML("", js_on_load=None, elem_id="fm-overlay", min_width=300)
            model3d = gr.Model3D(label="3D", show_label=False, height=440, min_width=300, elem_id="fm-model", interactive=False)
        facts = gr.HTML("", js_on_load=None, elem_id="fm-numbers")
        files = gr.HTML("", js_on_load=None, elem_id="fm-downloads")
    uploads, current = gr.Textbox(visible=False), gr.State("")
    view = [overlay, facts, files]

    async def run(ids: str, chosen: str | None, body: str, people: int, smooth: bool, request: gr.Request) -> AsyncIterator[dict]:
        visitor = visitor_of(request)
        busy = {start: gr.update(interactive=False), cancel: gr.update(visible=True)}
        try:
            config = worker.networks.config_for(chosen, body, smooth, int(people))
            job = start_job(worker, visitor, ids, config)
        except InputError as error:
            job = running_job(visitor)  # begun before this page was loaded: it can be cancelled here, and what comes of it is shown
            yield {status: cards.note(cards.sentence(str(error)), "bad")} | (busy if job else {})
            if job is None:
                return
            await ended(job)
        else:
            yield busy | {choice: gr.update(visible=False), current: "", **dict.fromkeys(view, "")}
            async for card in progress_cards(worker, job):
                yield {status: card}
        ready = {status: cards.outcome(job), start: gr.update(interactive=True), cancel: gr.update(visible=False)}
        if job.results:
            several = gr.update(choices=cards.titles(job.results), value=0, visible=len(job.results) > 1)
            ready |= {choice: several, current: job.id} | dict(zip(view, show_result(job, 0), strict=True))
        yield ready

    def show(number: int, job_id: str, request: gr.Request) -> list[str]:
        job = visitor_of(request).jobs.get(job_id)
        if job is None or not 0 <= number < len(job.results):
            raise gr.Error("This result is gone; make it again.", print_exception=False)
        return show_result(job, number)

    def animate(number: int | None, job_id: str, request: gr.Request) -> str | None:
        return visitor_of(request).animation(job_id, number or 0)

    async def stop(request: gr.Request) -> None:
        for job in visitor_of(request).jobs.values():
            job.cancel()

    # The 3D view has an event of its own: a generator's last value arrives twice, and Gradio's viewer shows nothing then.
    made = start.click(run, [uploads, *settings], [status, start, cancel, choice, current, *view], js=TAKE_UPLOADS, show_progress="hidden")
    made.then(animate, [choice, current], [model3d], show_progress="hidden")
    cancel.click(stop, None, None, show_progress="hidden")
    choice.input(show, [choice, current], view, show_progress="hidden").then(animate, [choice, current], [model3d], show_progress="hidden")


def _settings(worker: Worker, models: dict[str, Model]) -> list[gr.components.Component]:
    """Network, body, most people, smoothing: the components, in the order in which a job takes them."""
    flags = worker.networks.config
    fitting = models_for(models, flags.body)
    first = next(iter(fitting), None)
    most = range(1, max(MOST_PEOPLE, flags.max_people) + 1)
    with gr.Row(elem_classes="fm-choices"):
        names = [("Any body", ANY_BODY), *((name.capitalize(), name) for name in bodies() if name != ANY_BODY)]
        body = gr.Dropdown(names, value=flags.body, label="Body", filterable=False, min_width=130)
        model = gr.Dropdown(fitting, value=first, label="Network", filterable=False, min_width=130)
        people = gr.Dropdown(list(most), value=flags.max_people, label="Most people", filterable=False, min_width=130)
        smooth = gr.Checkbox(value=flags.smoothing != UNSMOOTHED, label="Smooth", info="over time", min_width=130)
    badge = gr.HTML(cards.badges(models.get(first or ""), flags.body), js_on_load=None)

    def choose(body: str, chosen: str) -> tuple[Any, str]:
        names = models_for(models, body)
        kept = chosen if chosen in names else next(iter(names), None)
        return gr.update(choices=names, value=kept), cards.badges(models.get(kept or ""), body)

    body.input(choose, [body, model], [model, badge], show_progress="hidden")
    model.input(lambda chosen: cards.badges(models.get(chosen), ANY_BODY), [model], [badge], show_progress="hidden")
    return [model, body, people, smooth]


async def progress_cards(worker: Worker, job: Job) -> AsyncIterator[str]:
    """A card each time that something changed, until the job has ended."""
    said = ""
    while job.state not in ENDED:
        card = cards.progress(job, worker.ahead_of(job))
        if card != said:
            said = card
            yield card
        await asyncio.sleep(TICK_S)


async def ended(job: Job) -> None:
    """Wait for its end."""
    while job.state not in ENDED:
        await asyncio.sleep(TICK_S)


def show_result(job: Job, number: int) -> list[str]:
    """Overlay, numbers and downloads."""
    return [cards.picture(job, number), cards.numbers(job.results[number]), cards.downloads(job, number)]


def start_job(worker: Worker, visitor: Visitor, ids: str, config: Any) -> Job:
    """Hand the visitor's uploads to the worker. Raises InputError."""
    if running_job(visitor) is not None:
        raise InputError("Your last job is still running; cancel it or wait for it.")
    uploads = chosen_uploads(visitor, ids)
    for old in list(visitor.jobs)[: -(KEPT_JOBS - 1)]:
        visitor.jobs.pop(old).remove()
    job = Job(uploads, config, visitor.make_folder("jobs"))
    worker.submit(job)
    visitor.jobs[job.id] = job
    return job


def running_job(visitor: Visitor) -> Job | None:
    """The visitor's job that waits or runs."""
    return next((job for job in visitor.jobs.values() if job.state not in ENDED), None)


def chosen_uploads(visitor: Visitor, ids: str) -> tuple[Upload, ...]:
    """The uploads that the page names, as far as they are the visitor's. Raises InputError when there are none."""
    try:
        names = [str(name) for name in json.loads(ids or "[]")]
    except (ValueError, TypeError):
        names = []
    uploads = tuple(visitor.uploads[name] for name in dict.fromkeys(names) if name in visitor.uploads)
    if not uploads:
        raise InputError("Choose a video or pictures first.")
    return uploads


def visitor_of(request: gr.Request) -> Visitor:
    """Whom the guard let through."""
    inner: Request = request.request
    return inner.scope["visitor"]
