"""The quickstart end to end on SmolLM2 with the shipped SAEs, on fewer rows."""

import gzip
import hashlib
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import igds
import quickstart
from igds.config import schema

POOL_ROWS = 80
FEWER = {
    "data.prior.0.limit": 40,
    "data.validation.0.limit": 24,
    "data.control.0.limit": 32,
    "data.pool.0.limit": POOL_ROWS,
    "intervene.screen-rows": 8,
    "intervene.order-rows": 8,
    "intervene.confirm-rows": 8,
    "intervene.screen-keep": 4,
    "intervene.exact-keep": 3,
    "intervene.confirm-n": 2,
    "runtime.shard-rows": 64,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    words = [word for key, value in FEWER.items() for word in (f"--{key}", str(value))]
    runs = tmp_path_factory.mktemp("runs")
    return igds.load_config(quickstart.CONFIG, [*words, "--runs-dir", str(runs)])


@pytest.fixture(scope="module")
def run(config):
    return igds.run(config)


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of change of every file of the stages."""
    return {
        str(file.relative_to(folder)): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in sorted(folder.glob("*/**/*"))
        if file.is_file()
    }


def test_every_stage_leaves_its_artifacts(run):
    folder = run.folder.path
    assert run.features.filter(run.features["recalled"]).num_rows > 0
    assert set(run.effects["split"].to_pylist()) == {"S1", "S2", "S3"}
    outcome = json.loads((folder / "intervene" / "task_features.json").read_text())
    assert outcome["outcome"] == "unconfirmed"
    assert len(outcome["features"]) == 1
    assert run.selection.num_rows == POOL_ROWS
    assert sum(run.selection["selected"].to_pylist()) == POOL_ROWS // 5
    page = run.report.read_text()
    assert "UNCONFIRMED" in page
    assert outcome["features"][0] in page


def test_the_kept_rows_are_the_pool_s_own_bytes_in_pool_order(run):
    pool = gzip.decompress((quickstart.QUICKSTART / "data" / "pool.jsonl.gz").read_bytes())
    lines = pool.split(b"\n")[:POOL_ROWS]
    selected = run.selection["selected"].to_pylist()
    wanted = [line for line, keep in zip(lines, selected, strict=True) if keep]
    file = run.folder.path / "select" / "selected.jsonl"
    assert file.read_bytes() == b"\n".join(wanted) + b"\n"


def test_the_best_pool_scores_are_kept(run):
    score = run.selection["pool_score"].to_numpy()
    kept = np.array(run.selection["selected"].to_pylist())
    assert score[kept].min() >= score[~kept].max()


def test_the_auroc_line_equals_a_count_over_pairs(run):
    """Independent of igds: every GSM8K row against every other row, from selection.parquet."""
    labels = np.array(quickstart.read_labels()[:POOL_ROWS])
    table = pq.read_table(run.folder.path / "select" / "selection.parquet")
    score = table["pool_score"].to_numpy()
    for other, sources in (
        ("non-math", ["strategyqa", "mts-dialog"]),
        ("TAL-SCQ5K", ["tal-scq5k"]),
    ):
        task, rest = score[labels == "gsm8k"][:, None], score[np.isin(labels, sources)][None]
        value = float(np.mean((task > rest) + 0.5 * (task == rest)))
        line = f"AUROC of pool_score, GSM8K against {other} rows: {value:.3f}"
        assert quickstart.separation(run, list(labels)).count(line) == 1


def test_the_lines_name_all_four_scores_for_both_comparisons(run):
    lines = quickstart.separation(
        run, ["gsm8k", "tal-scq5k", "strategyqa", "mts-dialog"] * (POOL_ROWS // 4)
    )
    assert [line.split(",")[0] for line in lines] == 2 * [
        f"AUROC of {score}"
        for score in ("pool_score", "prompt length", "a random feature", "the dense cosine")
    ]


def test_the_sources_of_the_selected_rows_are_counted(run):
    labels = quickstart.read_labels()[:POOL_ROWS]
    pool = gzip.decompress((quickstart.QUICKSTART / "data" / "pool.jsonl.gz").read_bytes())
    source = dict(zip(pool.split(b"\n")[:POOL_ROWS], labels, strict=True))
    selected = (run.folder.path / "select" / "selected.jsonl").read_bytes().splitlines()
    counts = Counter(source[line] for line in selected)
    every = Counter(labels)
    assert quickstart.chosen(run, labels) == "rows selected: " + ", ".join(
        f"{counts[name]} of {every[name]} {name}" for name in sorted(every)
    )


def test_the_table_names_the_task_feature(run):
    outcome = json.loads((run.folder.path / "intervene" / "task_features.json").read_text())
    table = quickstart.features_table(run)
    assert f"{outcome['features'][0]} *" in list(table.columns[0].cells)
    assert table.row_count == FEWER["intervene.confirm-n"]


def test_a_second_run_does_nothing(config, run):
    before = digests(run.folder.path)
    igds.run(config)
    assert digests(run.folder.path) == before


def test_the_python_of_the_readme_runs_as_it_stands(config, run, monkeypatch):
    def fewer_rows(path):
        assert (quickstart.ROOT / path).samefile(quickstart.CONFIG)
        return config

    monkeypatch.chdir(quickstart.ROOT)
    monkeypatch.setattr(igds, "load_config", fewer_rows)
    before = digests(run.folder.path)
    text = (quickstart.ROOT / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names = {}
    exec(block, names)
    assert digests(run.folder.path) == before
    assert names["run"].selection.num_rows == POOL_ROWS
    assert 0 < len(names["chosen"]) <= 3
    assert set(names["effects"]["feature"].to_pylist()) == set(map(str, names["chosen"]))
    assert all(names["scores"] > 0)


def test_other_settings_are_refused_with_what_the_quickstart_can_do(
    config, run, monkeypatch, capsys
):
    again = replace(config.config, recall=schema.Recall(min_frequency=0.7))
    monkeypatch.setattr(sys, "argv", ["quickstart.py"])
    monkeypatch.setattr(igds, "load_config", lambda *_: replace(config, config=again))
    assert quickstart.main() == 2
    said = capsys.readouterr().err
    assert f"{run.folder.path}/recall was made by other settings" in said
    assert "recall.min_frequency: 0.8 on disk, 0.7 asked for" in said
    assert "Delete runs/quickstart, or set another `name` in configs/quickstart/igds.yaml" in said
    assert "add --overwrite" not in said
