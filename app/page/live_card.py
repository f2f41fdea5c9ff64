"""The live tab's HTML; live.js brings it to life."""

import html
from collections.abc import Mapping

from app.page.cards import badges
from app.page.models import ANY_BODY, Model, models_for


def live_card(models: Mapping[str, Model], body: str = ANY_BODY) -> str:
    """Stage, controls, choices. body: which one the networks to choose from must have."""
    names = models_for(models, body)
    options = "".join(
        f'<option value="{html.escape(name)}" data-badges="{html.escape(badges(models[name], body))}">'
        f"{html.escape(name)} ({models[name].body})</option>"
        for name in names
    )
    first = models[names[0]] if names else None
    return f"""
<section class="fm-live" data-live>
  <div class="fm-stage">
    <canvas width="640" height="480" aria-label="Your camera with meshes"></canvas>
    <div class="fm-hud" hidden></div>
    <div class="fm-idle"><b>See yourself as a mesh</b>
      <span>Pictures go from this browser to the machine that serves this page, and are not stored.</span></div>
    <div class="fm-rec" hidden>REC</div>
  </div>
  <p class="fm-problem" role="alert" hidden></p>
  <div class="fm-controls">
    <button type="button" class="fm-go" id="fm-live-start">Start camera</button>
    <button type="button" class="fm-second" id="fm-live-record" disabled>Record</button>
    <label class="fm-check"><input type="checkbox" data-mirror checked> Mirror</label>
    <label class="fm-check"><input type="checkbox" data-hud checked> Numbers</label>
    <label class="fm-check"><input type="checkbox" data-pictures> Record pictures too</label>
  </div>
  <div class="fm-selects">
    <label>Camera<select data-camera><option value="">default</option></select></label>
    <label>Network<select data-model>{options}</select></label>
  </div>
  <div data-badges>{badges(first, body)}</div>
  <ul class="fm-recordings" aria-live="polite"></ul>
</section>"""
