from pathlib import Path

import pytest

from core.errors import InputError
from core.training.gpu.plan import PlanConfig
from core.training.people_config import VALIDATION_SEED, PeopleConfig


@pytest.mark.parametrize("kind", [PeopleConfig, PlanConfig])
def test_what_cannot_be_made_is_refused_whoever_renders_it(kind: type[PeopleConfig], tmp_path: Path) -> None:
    kind(seed=3, backgrounds=(tmp_path,)).check()
    kind(seed=VALIDATION_SEED + 3, held_out=True).check()
    wrong = {
        "got seed 1000000000, expected 0 to": {"seed": VALIDATION_SEED},
        "got seed -1000000000, expected 0 to": {"held_out": True},
        r"\(recorded_share\) of 1.2": {"recorded_share": 1.2},
        r"\(levelled_share\) of -0.1": {"levelled_share": -0.1},
        r"got crops of 0.9 times the box \(crop_scale\)": {"crop_scale": 0.9},
        "nowhere: not found": {"backgrounds": (tmp_path / "nowhere",)},
        "expected 'fitted', or a file": {"poses": ("fitted", "nowhere")},
    }
    for text, settings in wrong.items():
        with pytest.raises(InputError, match=text):
            kind(**settings).check()
