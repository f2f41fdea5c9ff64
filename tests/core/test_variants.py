from core.config import VARIANTS
from core.variants import row


def test_a_row_names_the_papers_figure_where_there_is_one() -> None:
    paper = row(VARIANTS["fastmetro-s-blazepose"]).split()
    assert paper[0] == "fastmetro-s-blazepose"
    assert paper[-4:] == ["1.80", "8.33", "10.13", "9.2"]
    assert row(VARIANTS["fastmetro-xs-blazepose"]).endswith("-")
