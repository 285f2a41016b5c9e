"""Pools of several sources, one of them behind a URL: quotas, changes, exports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from tests.tiny_project import run, sums

import igds
from igds.cli.main import main
from igds.config.load import load_config
from igds.data.index import load_index
from igds.errors import RequestError, WorkError
from igds.progress import SilentProgress

TWO = """
  pool:
    - {path: pool.jsonl}
    - {path: "memory://pool/more.jsonl", columns: {question: q, answer: a}, sample: 20}
"""


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    rows = [{"q": row["question"], "a": row["answer"]} for row in sums(40, seed=9)]
    fs.pipe_file("/pool/more.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    yield fs
    fs.rm("/pool", recursive=True)


def with_two_sources(project):
    path = project / "igds.yaml"
    path.write_text(path.read_text().replace("\n  pool: [{path: pool.jsonl}]", TWO.rstrip()))
    return project


def test_rows_of_the_pool_that_overlap_are_dropped(finished, project, capsys):
    rows = (project / "prior.jsonl").read_text().splitlines()
    with (project / "pool.jsonl").open("a") as pool:
        pool.write(rows[0] + "\n")
    drop = ["--data.overlap", "drop"]
    assert main(["run", str(project / "igds.yaml"), *drop]) == 0
    said = capsys.readouterr().err
    assert "note: pool: 1 of 61 rows share text with another set and are not used" in said
    assert "  prior and pool: 1 equal rows" in said
    statuses = load_index(project / "runs/tiny/index", ["status"])["status"].to_pylist()
    assert statuses == ["ok"] * 60 + ["overlap"]
    chosen, expected = (
        pq.read_table(folder / "runs/tiny/select/selection.parquet")
        for folder in (project, finished)
    )
    assert chosen.slice(0, 60).equals(expected)
    page = (project / "runs/tiny/report/index.html").read_text()
    assert "Rows of the pool that share text with another set were left out" in page
    assert "OVERLAP ALLOWED" not in page
    with (project / "control.jsonl").open("a") as control:
        control.write(rows[1] + "\n")
    with pytest.raises(RequestError, match="prior and control: 1 equal rows") as refused:
        run(project, *drop, "--name", "other")
    assert "pool" not in str(refused.value)
    assert "drop" not in str(refused.value)


def test_a_pool_of_which_nothing_is_left_is_refused(project):
    shutil.copy(project / "prior.jsonl", project / "pool.jsonl")
    with pytest.raises(RequestError, match="no row of the pool:\n  pool and prior: 20 equal"):
        run(project, "--data.overlap", "drop")


@pytest.mark.usefixtures("memory")
def test_quotas_of_a_mixed_pool(project, capsys):
    with_two_sources(project)
    free = run(project, "--select.budget.rows", "40").selection
    own = [True] * 60 + [False] * 20

    def from_first(selection):
        kept = zip(selection["selected"].to_pylist(), own, strict=True)
        return sum(selected and first for selected, first in kept)

    assert len(free) == 80
    assert from_first(free) > 24
    index = (project / "runs/tiny/index/stage.json").stat().st_mtime_ns
    # Another quota is another selection, not another run.
    held = run(project, "--select.budget.rows", "40", "--data.pool.0.quota", "0.6").selection
    assert (project / "runs/tiny/index/stage.json").stat().st_mtime_ns == index
    assert from_first(held) == 24
    assert sum(held["selected"].to_pylist()) == 40
    summary = json.loads((project / "runs/tiny/select/summary.json").read_text())
    assert summary["reasons"]["quota"] == 36
    with pytest.raises(RequestError, match=r"only 30 can be chosen.*50 more are over the quota"):
        run(project, "--select.budget.rows", "40", "--data.pool.0.quota", "0.25")

    out = project / "chosen.jsonl"
    words = ["export", str(project / "runs/tiny"), "--format", "trl", "--output", str(out)]
    assert main([*words, "--order", "rank"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 40
    assert all(row["prompt"].endswith("\nSum:") and row["completion"][0] == " " for row in rows)
    scores = pq.read_table(project / "chosen.scores.parquet")
    assert scores["pool_score"].to_pylist() == sorted(scores["pool_score"].to_pylist())[::-1]
    assert set(scores["source"].to_pylist()) == {"pool.jsonl", "memory:///pool/more.jsonl"}
    assert capsys.readouterr().out.splitlines()[-1].startswith("UNCONFIRMED")
    assert (project / "chosen.UNCONFIRMED.txt").exists()


def test_a_remote_source_that_changed_is_refused(project, memory):
    with_two_sources(project)
    run(project, until="index")
    memory.pipe_file("/pool/more.jsonl", b'{"q": "1 and 1", "a": "2"}\n')
    with pytest.raises(RequestError, match=r"data\.pool\.1\.files\.0\.bytes"):
        run(project, until="index")
    run(project, until="index", overwrite=True)


def test_a_source_that_changes_while_it_is_read_is_no_index(project):
    class Changing(SilentProgress):
        def note(self, *_: str) -> None:  # of few controls: all sets are read by then
            with (project / "pool.jsonl").open("a") as file:
                file.write('{"question": "1 and 1", "answer": "2"}\n')

    file = load_config(project / "igds.yaml", [])
    with pytest.raises(WorkError, match="a source changed while it was read"):
        igds.run(file, until="index", progress=Changing())
    assert not (project / "runs/tiny/index").exists()
    run(project, until="index")
