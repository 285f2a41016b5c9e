"""What the page says when candidates are random, and when rows are chosen for diversity."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_folder import Plan, write_run
from ruamel.yaml import YAML
from test_reporting import Page

from igds.reporting.page import write_report


def page_of(folder: Path) -> Page:
    write_report(folder, folder / "report" / "index.html")
    return Page((folder / "report" / "index.html").read_text(encoding="utf-8"))


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A run whose features were drawn, the first two of them active on no prompt."""
    write_run(tmp_path, Plan(recalled=20))
    config = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config.replace("frequent", "random"))
    path = tmp_path / "recall" / "features.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows[3:5]:
        row["frequency"] = 0.0
    pq.write_table(pa.Table.from_pylist(rows), path)
    return tmp_path


def test_random_candidates_are_stamped_and_named(drawn: Path) -> None:
    page = page_of(drawn)
    assert "RANDOM CANDIDATESThe features of this run are not recalled but drawn at random" in (
        page.text
    )
    assert "Features drawn at random20" in page.text
    assert "of each SAE as many as are active on at least 80 % of the task's prompts" in page.text
    assert "2 of them are active on none of these prompts" in page.text
    assert "20 of 170 features were drawn" in page.text
    assert "recalled features" not in page.text and "Features recalled" not in page.text
    assert not page.open


def test_the_card_of_a_random_candidate_says_so(drawn: Path) -> None:
    page_of(drawn)
    cards = drawn / "report" / "cards"
    assert "RANDOM CANDIDATES" in (cards / "L14-11575.html").read_text(encoding="utf-8")
    card = YAML(typ="safe", pure=True).load((cards / "L14-11575.yaml").read_text())
    assert card["candidates"] == "random"


def test_recalled_features_have_no_such_stamp(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(recalled=20))
    text = page_of(tmp_path).text
    assert "Features recalled20" in text and "RANDOM CANDIDATES" not in text
    card = (tmp_path / "report" / "cards" / "L14-11575.html").read_text(encoding="utf-8")
    assert "RANDOM CANDIDATES" not in card


def test_what_each_source_gave_is_counted(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(until="select", recalled=20))
    assert "Of data/pool.jsonl" not in page_of(tmp_path).text, "there is but one"
    config = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(
        config.replace("{path: data/pool.jsonl}", "{path: a<b>.jsonl}, {path: b, split: x}")
    )
    path = tmp_path / "index" / "summary.json"
    summary = json.loads(path.read_text())
    summary["sets"]["pool"]["source_rows"] = [250, 350]
    path.write_text(json.dumps(summary))
    selection = pq.read_table(tmp_path / "select" / "selection.parquet")["selected"].to_pylist()
    first, second = sum(selection[:250]), sum(selection[250:])
    assert first and second
    page = page_of(tmp_path)
    assert f"Of a<b>.jsonl{first} of its 250 rows" in page.text
    assert f"Of b, split x{second} of its 350 rows" in page.text


def diverse_page(folder: Path, column: str) -> Page:
    write_run(folder, Plan(until="select", recalled=20))
    path = folder / "select" / "summary.json"
    summary = json.loads(path.read_text())
    summary["diversity"] = {"column": column, "candidates": "2"}
    summary["reasons"] = {"top": 118, "diversity": 116, "no_vector": 2, "budget": 357}
    summary |= {"tied_at_cut": 0, "tied_at_cut_selected": 0}
    path.write_text(json.dumps(summary))
    return page_of(folder)


def test_a_diverse_choice_is_told_as_one(tmp_path: Path) -> None:
    page = diverse_page(tmp_path, "rds")
    assert "Of the 234 rows with the highest numbers, those were selected that stand for" in (
        page.text
    )
    assert "their vectors of the method rds" in page.text
    assert "Rows to choose among234, 2 times the budget at most" in page.text
    assert "Lowest score selected" in page.text
    assert "Reason no_vector2" in page.text
    for words in ("The rows with the highest numbers were selected", "Score at the cut"):
        assert words not in page.text
    assert "selected from here" not in page.html  # no score cuts off
    assert not page.open


def test_the_column_of_vectors_is_named_and_escaped(tmp_path: Path) -> None:
    page = diverse_page(tmp_path, "<b>vec")
    assert "the vectors in the column <b>vec" in page.text
    assert "<b>vec" not in page.html
