"""A run folder that lacks something the page needs is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_folder import Plan, drop_column, write_run

from igds.errors import RequestError
from igds.reporting.page import write_report


@pytest.mark.parametrize(
    ("artifact", "column"),
    [
        ("recall/features.parquet", "template_specificity"),
        ("recall/features.parquet", "recalled"),
        ("intervene/effects.parquet", "contrast_low"),
        ("intervene/effects.parquet", "active"),
        ("intervene/promoted.parquet", "token"),
        ("score/igds/shard-00001.parquet", "status"),
        ("select/selection.parquet", "pool_score"),
        ("select/selection.parquet", "rank"),
        ("index/rows-00001.parquet", "n_prompt_tokens"),
        ("index/rows-00000.parquet", "response"),
        ("report/token_activations.parquet", "tokens"),
    ],
)
def test_a_missing_column_is_an_error_that_names_it(
    tmp_path: Path, artifact: str, column: str
) -> None:
    write_run(tmp_path, Plan())
    drop_column(tmp_path / artifact, column)
    with pytest.raises(RequestError, match=rf"{Path(artifact).name} has no column {column}"):
        write_report(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("artifact", "key"),
    [
        ("manifest.json", "versions"),
        ("index/summary.json", "template"),
        ("intervene/task_features.json", "order"),
        ("select/summary.json", "tied_at_cut"),
    ],
)
def test_a_missing_key_is_an_error_that_names_it(tmp_path: Path, artifact: str, key: str) -> None:
    write_run(tmp_path, Plan())
    value = json.loads((tmp_path / artifact).read_text())
    del value[key]
    (tmp_path / artifact).write_text(json.dumps(value))
    with pytest.raises(RequestError, match=f"has no key {key}"):
        write_report(tmp_path, tmp_path / "page.html")


@pytest.mark.parametrize(
    "artifact", ["config.yaml", "manifest.json", "recall/quality.json", "intervene/effects.parquet"]
)
def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path, artifact: str) -> None:
    write_run(tmp_path, Plan())
    (tmp_path / artifact).unlink()
    with pytest.raises(RequestError, match=Path(artifact).name):
        write_report(tmp_path, tmp_path / "page.html")


def test_a_selection_of_another_index_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, Plan())
    (tmp_path / "index" / "rows-00001.parquet").unlink()
    with pytest.raises(RequestError, match="not of this index"):
        write_report(tmp_path, tmp_path / "page.html")
