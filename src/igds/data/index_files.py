"""The index's Parquet files: schema and writer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igds.rows import Status
from igds.runs.files import room_checked, whole_file

INDEX_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("ordinal", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("prompt_hash", pa.string()),
        pa.field("prompt_ids", pa.list_(pa.int32())),
        pa.field("response", pa.string()),
        pa.field("n_prompt_tokens", pa.int32()),
        pa.field("n_response_tokens", pa.int32()),
        pa.field("n_train_tokens", pa.int32()),
        pa.field("fields", pa.string()),
        pa.field("original", pa.binary(), nullable=False),
    ]
)
"""Columns of the index, one row a row that was read."""

PROMPT_FIELDS = "prompt_fields"
"""Key of the files' metadata that lists the mapped fields of the prompt, as JSON."""

FILE_ROWS = 100_000
GROUP_ROWS = 8192
_GROUP_BYTES = 32 << 20


def mark_rows(folder: Path, row_ids: Collection[str], status: Status) -> int:
    """Give rows of an index another status; return how many prompt tokens they have.

    Files without such a row stay as they are.

    Args:
        folder: the set's index.
        row_ids: the rows, of any status.
        status: the new one.
    """
    named, tokens = pa.array(sorted(row_ids), pa.string()), 0
    for file in sorted(folder.glob("rows-*.parquet")):
        with pq.ParquetFile(file) as parquet:
            if not pc.any(pc.is_in(parquet.read(["row_id"])["row_id"], named)).as_py():
                continue
            with (
                whole_file(file) as new,
                pq.ParquetWriter(new, parquet.schema_arrow, compression="zstd") as writer,
            ):
                for place in range(parquet.num_row_groups):
                    group = parquet.read_row_group(place)
                    hit = pc.is_in(group["row_id"], named)
                    changed = pc.if_else(hit, status.value, group["status"])
                    column = group.schema.get_field_index("status")
                    writer.write_table(group.set_column(column, group.field(column), changed))
                    tokens += pc.sum(group["n_prompt_tokens"].filter(hit)).as_py() or 0
    return tokens


class IndexWriter:
    """Writes index rows to `rows-00000.parquet` and on, in row groups of bounded size."""

    def __init__(self, folder: Path, metadata: Mapping[str, str]) -> None:
        """Make the folder and remove what an earlier attempt left in it."""
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("rows-*.parquet"):
            stale.unlink()
        self._folder = folder
        self._schema = INDEX_SCHEMA.with_metadata(metadata)
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = self._pending_bytes = 0
        self._file: pq.ParquetWriter | None = None
        self._n_files = 0
        self._n_rows = 0

    def __enter__(self) -> IndexWriter:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the rest, unless the block failed, and close the file."""
        if kind is None:
            self._flush(last=True)
            with room_checked(self._folder):
                self._close()
        elif self._file is not None:
            # On a full disk the footer fails too, and must not hide the first error.
            with suppress(OSError):
                self._file.close()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows, each with every column of the schema."""
        # A column at a time is five times faster than RecordBatch.from_pylist.
        columns = [pa.array([row[f.name] for row in rows], f.type) for f in self._schema]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += batch.nbytes
        if self._pending_bytes >= _GROUP_BYTES:
            self._flush(last=True)
        elif self._pending_rows >= GROUP_ROWS:
            self._flush(last=False)

    def _flush(self, *, last: bool) -> None:
        """Write full row groups, and with `last` the rest too."""
        table = pa.Table.from_batches(self._pending, self._schema)
        while len(table) >= GROUP_ROWS or (last and len(table)):
            n_rows = min(GROUP_ROWS, FILE_ROWS - self._n_rows, len(table))
            self._write(table.slice(0, n_rows))
            table = table.slice(n_rows)
        self._pending = table.combine_chunks().to_batches()
        self._pending_rows, self._pending_bytes = len(table), table.nbytes

    def _write(self, group: pa.Table) -> None:
        path = self._folder / f"rows-{self._n_files:05d}.parquet"
        with room_checked(path):
            file = self._file or pq.ParquetWriter(path, self._schema, compression="zstd")
            self._file = file
            file.write_table(group)
            self._n_rows += len(group)
            if self._n_rows == FILE_ROWS:
                self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._n_files += 1
            self._n_rows = 0
