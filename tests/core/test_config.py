import json

import pytest

from core.config import VARIANTS, ModelConfig, variant
from core.errors import InputError


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_config_survives_json(name: str) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(VARIANTS[name].to_dict()))) == VARIANTS[name]
    assert VARIANTS[name].name == name


def test_the_papers_sizes_keep_the_papers_widths() -> None:
    for name in ("fastmetro-s-blazepose", "fastmetro-m-blazepose-heavy", "fastmetro-l-blazepose"):
        assert VARIANTS[name].widths == (512, 128)
        assert VARIANTS[name].num_heads == 8
    assert [VARIANTS[f"fastmetro-{size}-blazepose"].num_layers for size in "sml"] == [1, 2, 3]


@pytest.mark.parametrize("widths", [(512,), (100, 64), (512, 128, 64)])
def test_widths_that_heads_do_not_divide_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="widths"):
        ModelConfig("odd", "toy", widths=widths)  # type: ignore[arg-type]


GOOD = {"name": "a", "backbone": "b", "widths": [16, 8]}


@pytest.mark.parametrize("values", [
    {}, None, {**GOOD, "colour": 1}, {**GOOD, "widths": 5}, {**GOOD, "num_layers": "x"}, {**GOOD, "crop_scale": None},
])  # fmt: skip
def test_a_damaged_config_is_refused(values: object) -> None:
    with pytest.raises(InputError, match="model config"):
        ModelConfig.from_dict(values)  # type: ignore[arg-type]


def test_variant_on_another_body() -> None:
    assert variant("fastmetro-s-blazepose", body="toy").body == "toy"
    assert variant("fastmetro-s-blazepose").body == "anny"
