"""Readers of columnar files: Parquet and Arrow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from igds.data.files import SourceFile
from igds.data.records import Record, json_record

BATCH_ROWS = 256
"""Rows that are Python objects at once."""


def read_parquet(file: SourceFile) -> Iterator[Record]:
    """Yield the rows of a Parquet file."""
    with file.open() as stream, pq.ParquetFile(stream) as parquet:
        yield from batch_records(parquet.iter_batches(batch_size=BATCH_ROWS))


def read_arrow(file: SourceFile) -> Iterator[Record]:
    """Yield the rows of an Arrow file, of the stream format or of the random-access one."""
    with file.open() as stream:
        random_access = stream.read(6) == b"ARROW1"
        stream.seek(0)
        if random_access:
            with pa.ipc.open_file(stream) as reader:
                places = range(reader.num_record_batches)
                yield from batch_records(reader.get_batch(place) for place in places)
        else:
            with pa.ipc.open_stream(stream) as reader:
                yield from batch_records(reader)


def batch_records(batches: Iterable[pa.RecordBatch]) -> Iterator[Record]:
    """Yield the rows of record batches of any size; of a key that a map has twice the last value.

    Raises:
        ArrowInvalid: two columns have one name.
    """
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) != len(names):
            raise pa.ArrowInvalid(f"two columns have one name in {', '.join(names)}")
        for start in range(0, batch.num_rows, BATCH_ROWS):
            rows = batch.slice(start, BATCH_ROWS)
            for columns in rows.to_pylist(maps_as_pydicts="lossy"):
                yield json_record({name: _json_value(value) for name, value in columns.items()})


def _json_value(value: Any) -> Any:
    """Return a value as JSON has it: NaN as null, dates, decimals and bytes as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(_json_value(name)): _json_value(item) for name, item in value.items()}
    return value.hex() if isinstance(value, bytes) else str(value)
