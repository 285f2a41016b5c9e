"""Parquet: what each row came from, its prompt and its completion."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from igds.exports.rows import Chosen
from igds.runs.files import whole_file

_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("original", pa.string()),
    ]
)


def write_parquet(path: Path, rows: Chosen) -> list[str]:
    """Write row_id, source, prompt, completion (null without one) and original; return no notes.

    Raises:
        WorkError: the disk is full.
    """
    columns = ["row_id", "source", "prompt", "response", "original"]
    with whole_file(path) as file, pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
        for batch in rows.batches(columns):
            table = pa.Table.from_batches([batch])
            writer.write_table(table.rename_columns(_SCHEMA.names).cast(_SCHEMA))
    return []
