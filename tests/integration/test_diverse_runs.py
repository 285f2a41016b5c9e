"""`select.diversity` in whole runs: vectors of a column and of RDS+, the page, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.tiny_project import run, write_rows

from igds.cli.explain import row_of_rank
from igds.data.index import load_index
from igds.errors import RequestError
from igds.exports.run import export_run
from igds.selection.diversity import facility_location
from igds.selection.strata import tenths

METHODS = ("--score.methods", "[igds, length, rds]")
RDS = (*METHODS, "--select.diversity.column", "rds")
ROWS = 15
"""A quarter of the pool."""


@pytest.fixture(scope="module")
def scored(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the finished project with a selection by length, and RDS+ scored."""
    folder = tmp_path_factory.mktemp("scored") / "project"
    shutil.copytree(finished, folder)
    run(folder, *METHODS, "--select.method", "length", until="select")
    return folder


@pytest.fixture
def copy(scored: Path, tmp_path: Path) -> Path:
    shutil.copytree(scored, tmp_path / "project")
    return tmp_path / "project"


def vectors(project: Path) -> np.ndarray:
    files = sorted((project / "runs/tiny/score/rds/embeddings").glob("shard-*.parquet"))
    return np.array([v for file in files for v in pq.read_table(file)["embedding"].to_pylist()])


def test_the_best_rows_are_thinned_by_the_vectors_of_rds(copy: Path) -> None:
    plain = run(copy, *METHODS, "--select.method", "length", until="select").selection
    found = run(copy, *RDS, "--select.method", "length")
    candidates = np.argsort(plain["rank"].to_numpy())[: 2 * ROWS]
    order = list(facility_location(vectors(copy)[candidates].astype(np.float32)))
    wanted = candidates[order[:ROWS]]
    table = found.selection
    assert table["selected"].to_numpy().nonzero()[0].tolist() == sorted(wanted)
    assert np.argsort(table["rank"].to_numpy())[:ROWS].tolist() == wanted.tolist()
    assert set(wanted) != set(candidates[:ROWS])  # it changes something
    reasons = table["reason"].to_pylist()
    assert (reasons.count("top"), reasons.count("diversity")) == (ROWS, ROWS)
    assert table["pool_score"].equals(plain["pool_score"])
    page = found.report.read_text()
    assert "Of the 30 rows with the highest numbers" in page
    assert "their vectors of the method rds" in page


def test_what_follows_takes_the_order_of_the_choice(copy: Path, tmp_path: Path) -> None:
    found = run(copy, *RDS, "--select.method", "length", until="select")
    table = found.selection
    first = table["row_id"].to_pylist()[int(np.argmin(table["rank"].to_numpy()))]
    assert row_of_rank(found.folder.path, 1) == first
    export_run(found.folder, tmp_path / "best.jsonl", "jsonl", "rank")
    ranks = pq.read_table(tmp_path / "best.scores.parquet")["rank"].to_pylist()
    assert ranks == list(range(1, ROWS + 1))


def test_another_rds_is_another_selection(copy: Path) -> None:
    run(copy, *RDS, until="select")
    inputs = copy / "runs/tiny/select/stage.json"
    assert "score/rds" in json.loads(inputs.read_text())["identity"]["inputs"]
    run(copy, *METHODS, until="select")
    assert "score/rds" not in json.loads(inputs.read_text())["identity"]["inputs"]


def test_random_rows_resemble_the_diverse_selection(copy: Path) -> None:
    found = run(copy, *RDS, "--select.method", "random-matched")
    drawn = found.selection["selected"].to_numpy()
    assert "diversity" not in found.selection["reason"].to_pylist()
    assert "those were selected that stand for the others" not in found.report.read_text()
    own = (
        run(copy, *RDS, "--select.method", "igds", until="select").selection["selected"].to_numpy()
    )
    assert drawn.sum() == own.sum() == ROWS and (drawn != own).any()
    lengths = load_index(found.folder.path / "index", ["n_prompt_tokens", "n_response_tokens"])
    usable = np.ones(len(own), dtype=bool)
    prompt, response = (tenths(column.to_numpy(), usable) for column in lengths.columns)
    cell = 10 * prompt + response
    assert sorted(cell[drawn]) == sorted(cell[own])


def planted(project: Path, values: list) -> None:
    """Write the pool anew with a column of vectors, and settings that find no features."""
    rows = [json.loads(line) for line in (project / "pool.jsonl").read_text().splitlines()]
    write_rows(
        project / "pool.jsonl",
        [{**row, "vector": value} for row, value in zip(rows, values, strict=True)],
    )
    text = (project / "igds.yaml").read_text()
    sections = text[text.index("recall:") : text.index("score:")]
    (project / "igds.yaml").write_text(text.replace(sections, ""))


LENGTH = ("--score.methods", "[length]", "--select.method", "length")
COLUMN = (*LENGTH, "--select.diversity.column", "vector")


def test_of_planted_groups_one_row_each_is_kept(project: Path) -> None:
    group = np.random.default_rng(0).integers(0, 6, 60)
    draw = np.random.default_rng(1)
    points = 3 * np.eye(6)[group] + 0.01 * draw.normal(size=(60, 6))
    planted(project, points.tolist())
    whole = ("--select.budget.rows", "6", "--select.diversity.candidates", "10")
    found = run(project, *COLUMN, *whole)
    assert sorted(group[found.selection["selected"].to_numpy()]) == list(range(6))
    assert "the vectors in the column vector" in found.report.read_text()


def test_rows_without_a_vector_are_said_and_strata_choose_for_themselves(project: Path) -> None:
    values: list = [[float(place % 4), 1.0] for place in range(60)]
    values[::7] = [None] * len(values[::7])
    planted(project, values)
    options = ("--select.stratify", "length", "--select.diversity.candidates", "3")
    found = run(project, *COLUMN, *options)
    summary = json.loads((project / "runs/tiny/select/summary.json").read_text())
    assert summary["selected"] == ROWS
    assert summary["diversity"] == {"column": "vector", "candidates": "3"}
    assert summary["reasons"]["no_vector"] > 0
    chosen = found.selection["selected"].to_numpy()
    assert not any(values[place] is None for place in np.flatnonzero(chosen))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("nothing", "has a value in the column 'nothing'"),
        ("question", "its column 'question' is no list of numbers"),
        ("rds", "whose vectors are made when score.methods names"),
    ],
)
def test_a_column_that_holds_no_vectors_is_refused(project: Path, column: str, said: str) -> None:
    planted(project, [[1.0]] * 60)
    with pytest.raises((RequestError, ValueError), match=said):
        run(project, *LENGTH, "--select.diversity.column", column)
