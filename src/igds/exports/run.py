"""A run's selection as a file for a trainer, with its scores and its stamp beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from igds.config.scoring import selects_by_features
from igds.errors import RequestError
from igds.exports.axolotl import write_axolotl
from igds.exports.formats import Format, Order
from igds.exports.jsonl import write_jsonl
from igds.exports.llamafactory import write_llamafactory
from igds.exports.parquet import write_parquet
from igds.exports.rows import Chosen
from igds.exports.trl import write_trl
from igds.runs.files import read_json, whole_file
from igds.runs.folder import RunFolder
from igds.runs.readings import reading_words

_WRITERS: Mapping[str, tuple[str, Callable[[Path, Chosen], list[str]]]] = MappingProxyType(
    {
        "jsonl": (".jsonl", write_jsonl),
        "parquet": (".parquet", write_parquet),
        "trl": (".jsonl", write_trl),
        "llamafactory": (".jsonl", write_llamafactory),
        "axolotl": (".jsonl", write_axolotl),
    }
)
"""Format -> ending of its file, and what writes it and returns notes for the user."""

UNCONFIRMED = "UNCONFIRMED"
REREAD = "S3-READ-AGAIN"
"""What the stamp's file is named after where features are confirmed, by rows read before."""


def export_run(folder: RunFolder, path: Path, form: Format, order: Order) -> list[str]:
    """Write the selected rows of a run and return lines that say what was written.

    Beside the file stand `<name>.scores.parquet` (row_id, pool_score, rank and source of each row,
    in the order of the file) and, for a run whose features are not confirmed,
    `<name>.UNCONFIRMED.txt`; for one whose features are confirmed by rows that other plans read
    before, `<name>.S3-READ-AGAIN.txt`.

    Raises:
        RequestError: nothing is selected yet, the file cannot be there, or a row does not go into
            the format.
        WorkError: the disk is full.
    """
    ending, write = _WRITERS[form]
    if not (folder.path / "select" / "selection.parquet").exists():
        raise RequestError(f"{folder.path} has no selection yet: see `igds status {folder.path}`")
    if not (folder.path / "index").is_dir():
        raise RequestError(
            f"{folder.path} has no index: name the run's own folder, not one below it"
        )
    if path.suffix != ending:
        raise RequestError(f"{path} does not end in {ending}, as a file for {form} does")
    if not path.parent.is_dir():
        raise RequestError(f"there is no folder {path.parent}: make it first")
    selection = folder.table("select/selection.parquet")
    rank = selection["rank"].fill_null(0).to_numpy() if order == "rank" else None
    rows = Chosen.for_trainer(folder.path / "index", selection["selected"].to_numpy(), form, rank)
    said = stamp(folder)
    word = said.partition(":")[0] if said else None
    notices = {name: path.with_name(f"{path.stem}.{name}.txt") for name in (UNCONFIRMED, REREAD)}
    if word:
        with whole_file(notices[word]) as file:
            file.write(f"{said}\n".encode())
    notes = write(path, rows)
    scores = _write_scores(path, rows, selection, {"format": form, "order": order, "stamp": said})
    for name, notice in notices.items():
        if name != word:
            notice.unlink(missing_ok=True)
    first = f"{path}: {len(rows.places)} rows, in {order} order; scores in {scores.name}"
    return [first, *notes, *([said] if said else [])]


def stamp(folder: RunFolder) -> str | None:
    """Return what must be said of the run's features, its kind first; None for nothing to say.

    That is of features that are confirmed on rows which nothing read before, or are not used.
    """
    method = (read_json(folder.path / "select" / "summary.json") or {}).get("method")
    found = read_json(folder.path / "intervene" / "task_features.json")
    if method is None or not selects_by_features(method) or found is None:
        return None
    reread = reading_words(found)
    if found["outcome"] == "confirmed":
        return f"{REREAD}: {reread}" if reread else None
    words = f"{UNCONFIRMED}: {found['reason']}"
    return f"{words}. {reread}" if reread else words


def _write_scores(path: Path, rows: Chosen, selection: pa.Table, facts: dict[str, Any]) -> Path:
    """Write the rows' scores, in the order of the rows, and return the file."""
    taken = selection.select(["row_id", "pool_score", "rank"]).take(pa.array(rows.places))
    batches = list(rows.batches(["row_id", "source"]))
    named = pa.Table.from_batches(batches).cast(
        pa.schema([("row_id", pa.string()), ("source", pa.string())])
    )
    assert named["row_id"].equals(taken["row_id"]), "the selection is of another index"
    metadata = {key: value for key, value in facts.items() if value is not None}
    table = taken.append_column("source", named["source"]).replace_schema_metadata(
        {"igds": json.dumps(metadata)}
    )
    scores = path.with_name(f"{path.stem}.scores.parquet")
    with whole_file(scores) as file:
        pq.write_table(table, file, compression="zstd")
    return scores
