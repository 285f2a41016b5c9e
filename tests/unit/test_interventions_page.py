"""The results on interventions are what the committed tables give, byte for byte."""

from pathlib import Path

from interventions_page import page

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "interventions"


def test_the_page_is_what_the_kept_tables_give():
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == page(RESULTS)
