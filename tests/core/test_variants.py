import pytest

from core.config import RELEASES, VARIANTS, variant
from core.errors import InputError
from core.variants import KNOWN, MILLION, REGRESSOR_PARAMETERS, Figure, count, line, main, regressor_line, rows, sized


@pytest.mark.parametrize(("name", "release"), list(KNOWN))
def test_parameters_are_exactly_the_official_ones(name: str, release: str) -> None:
    known, total = KNOWN[name, release], count(sized(variant(name, "smpl", release)))
    assert total == known.exact
    if known.paper_millions is not None:
        assert total / MILLION == pytest.approx(known.paper_millions, abs=0.1)


def test_every_variant_of_the_paper_is_known() -> None:
    assert {name for name, _ in KNOWN} <= set(VARIANTS)
    assert {name for name in VARIANTS if "/" in name} == {name for name, _ in KNOWN if "/" in name}


def test_the_regressor_adds_the_official_number_to_any() -> None:
    for name in ("fastmetro-s-r50", "fastmetro-l-h64"):
        with_it, without = (count(sized(variant(name, "smpl", "released", parametric))) for parametric in (True, False))
        assert with_it - without == REGRESSOR_PARAMETERS
    assert regressor_line().endswith(" +0")


def test_the_table_shows_every_row_and_every_difference(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["core.variants"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows()) + 2
    assert sum(" +0" in text for text in lines) == len(KNOWN) + 1
    wrong = line(variant("fastmetro-s-r50", "smpl", "paper"), "paper", Figure(32_700_000, 32.7))
    assert " +39,398 " in wrong


def test_ablations_are_the_papers_only() -> None:
    for release in RELEASES:
        assert variant("fastmetro-s-r50", release=release).release == release
    for name in (name for name in VARIANTS if "/" in name):
        assert variant(name, release="paper") == variant(name)
        with pytest.raises(InputError, match="the paper's only"):
            variant(name, release="released")
    with pytest.raises(InputError, match="expected one of paper, released"):
        variant("fastmetro-s-r50", release="nightly")
