"""Who can fit a body's parameters to its mesh: FITTERS maps the name of a body to a builder of its fitter."""

from collections.abc import Callable
from functools import cache

from core.bodies import Body
from core.body_fit import BodyFitter
from core.registry import Registry

FITTERS: Registry[Callable[[Body], BodyFitter]] = Registry("body with a fitter")
"""Name of a body -> builder(body). Builders raise InputError when a file that they need is missing or damaged."""
FAITHFUL = ("anny",)
"""Bodies whose fitted meshes were measured to be as accurate as the network's own (checkpoints/README.md); these are shown."""


@FITTERS.register("anny")
def _anny(body: Body) -> BodyFitter:
    from core.bodies.anny_rig import anny_fitter

    return anny_fitter(body)


@cache
def fitter_for(body: Body) -> BodyFitter | None:
    """The body's fitter, made once; None for bodies that have none. Raises InputError when its file is missing or damaged."""
    return FITTERS[body.name](body) if body.name in FITTERS else None
