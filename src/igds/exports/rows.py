"""The chosen rows as one file: JSONL as they were read, or Parquet with prompt and completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from igds.data.index import iter_index
from igds.errors import RequestError
from igds.runs.files import whole_file

_PARQUET_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("original", pa.string()),
    ]
)


def write_selected(path: Path, index: Path, selected: Bool[np.ndarray, " rows"]) -> None:
    """Write the selected rows of an index in pool order, whole or not at all.

    Args:
        path: `.jsonl` gives each row's original bytes and a newline; `.parquet` gives row_id,
            source, prompt, completion (the gold response, null without one) and original.
        index: the index's folder.
        selected: which rows, in index order.

    Raises:
        RequestError: the path has another ending.
        WorkError: the disk is full.
    """
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if path.suffix not in writers:
        raise RequestError(f"{path}: rows are exported to {' or '.join(writers)}")
    with whole_file(path) as file:
        writers[path.suffix](file, index, selected)


def _write_jsonl(file: BinaryIO, index: Path, selected: Bool[np.ndarray, " rows"]) -> None:
    for batch in _chosen(index, selected, ["original"]):
        file.writelines(original + b"\n" for original in batch["original"].to_pylist())


def _write_parquet(file: BinaryIO, index: Path, selected: Bool[np.ndarray, " rows"]) -> None:
    columns = ["row_id", "source", "prompt", "response", "original"]
    with pq.ParquetWriter(file, _PARQUET_SCHEMA, compression="zstd") as writer:
        for batch in _chosen(index, selected, columns):
            writer.write_table(
                pa.Table.from_batches([batch])
                .rename_columns(_PARQUET_SCHEMA.names)
                .cast(_PARQUET_SCHEMA)
            )


def _chosen(
    index: Path, selected: Bool[np.ndarray, " rows"], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the selected rows, a batch at a time."""
    start = 0
    for batch in iter_index(index, columns):
        mask = selected[start : start + len(batch)]
        start += len(batch)
        yield batch.filter(pa.array(mask))
    assert start == len(selected), f"{start} rows in the index, {len(selected)} in the mask"
