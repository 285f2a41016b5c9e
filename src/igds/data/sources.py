"""Readers: the rows of a source as bytes and as mapped fields, one pass, in order."""

from __future__ import annotations

import csv
import heapq
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from igds.config.inputs import Source
from igds.data.files import SourceFile, find_files
from igds.data.hub import read_hub
from igds.data.records import Record, column_value, json_record
from igds.data.remote import public, reached
from igds.data.seeds import seeded_bits
from igds.data.tables import read_arrow, read_parquet
from igds.errors import RequestError
from igds.rows import Status, canonical

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a source, mapped but not yet judged."""

    source: str
    """Name of the file, or of the Hub set's split."""
    ordinal: int
    """Number of the row in its file, from 0; blank lines do not count."""
    original: bytes
    """See `Record`."""
    fields: dict[str, Any] | None
    """Mapped field -> value, absent and null ones left out; None when the row cannot be read."""
    id: str | None
    """Text of the source's `id_column`; None without one, or when the row cannot be read."""
    status: Status
    """See `Record`."""


def read_source(source: Source, fields: Sequence[str], base: Path) -> Iterator[RawRow]:
    """Return the rows of a source in order: files by path, rows as they stand.

    With `sample`, that many rows drawn by a seeded hash of their places are held in memory.

    Args:
        source: what the config says.
        fields: names that templates and task read; `source.columns` maps them to columns.
        base: folder that a relative path starts from.

    Raises:
        RequestError: see `find_files` and `read_hub`; `columns` maps a field that nothing reads; a
            file cannot be read; a row lacks the id column.
    """
    unknown = [field for field in source.columns if field not in fields]
    if unknown:
        raise RequestError(
            f"{public(source.path)}: columns maps {', '.join(unknown)}, which nothing reads; the "
            f"template and the task read {', '.join(fields)}"
        )
    parts = _parts(source, base)
    mapping = {field: source.columns.get(field, field) for field in fields}
    rows = (row for part in parts for row in _mapped(*part, mapping, source.id_column))
    stop = None if source.limit is None else source.skip + source.limit
    limited = islice(rows, source.skip, stop)
    return limited if source.sample is None else _sampled(limited, source)


def column_names(source: Source, base: Path) -> list[str]:
    """Return the columns of the source's first readable row, [] when it has none."""
    records = (record for _, part in _parts(source, base) for record in part)
    return next((list(r.columns) for r in records if r.columns is not None), [])


def _parts(source: Source, base: Path) -> list[tuple[str, Iterator[Record]]]:
    """Return name and rows of each file of a source, or of the split of a Hub set."""
    if source.on_hub:
        return [read_hub(source)]
    return [(file.name, _read(file)) for file in find_files(source, base)]


def _sampled(rows: Iterable[RawRow], source: Source) -> Iterator[RawRow]:
    """Yield `source.sample` rows in their order: those whose places hash lowest.

    One pass, which holds no more rows than are drawn.
    """
    keyed = (
        (seeded_bits(source.sample_seed, "data/sample", str(place)), place, row)
        for place, row in enumerate(rows, source.skip)
    )
    drawn = heapq.nsmallest(source.sample or 0, keyed)
    for _, _, row in sorted(drawn, key=itemgetter(1)):
        yield row


def _mapped(
    name: str, records: Iterable[Record], mapping: Mapping[str, str], id_column: str | None
) -> Iterator[RawRow]:
    for ordinal, record in enumerate(records):
        fields = row_id = None
        if (columns := record.columns) is not None:
            values = {field: column_value(columns, column) for field, column in mapping.items()}
            fields = {field: value for field, value in values.items() if value is not None}
            row_id = _own_id(columns, id_column, name, ordinal)
        yield RawRow(name, ordinal, record.original, fields, row_id, record.status)


def _own_id(
    columns: Mapping[str, Any], id_column: str | None, name: str, ordinal: int
) -> str | None:
    if id_column is None:
        return None
    value = column_value(columns, id_column)
    if value is None or value == "":
        raise RequestError(
            f"{name}, row {ordinal}: no value in id_column {id_column!r}; "
            f"columns: {', '.join(columns)}"
        )
    return value if isinstance(value, str) else canonical({"": value})[len('{"":') : -1].decode()


def _read(file: SourceFile) -> Iterator[Record]:
    """Yield the rows of one file.

    Raises:
        RequestError: the file as a whole cannot be read.
    """
    with _blamed_on(file):
        match file.format:
            case "jsonl":
                yield from _read_jsonl(file)
            case "json":
                yield from _read_json(file)
            case "csv":
                yield from _read_delimited(file, ",")
            case "tsv":
                yield from _read_delimited(file, "\t")
            case "arrow":
                yield from read_arrow(file)
            case _:
                yield from read_parquet(file)


@contextmanager
def _blamed_on(file: SourceFile) -> Iterator[None]:
    if not file.is_local:
        with reached(file.name):
            yield
        return
    try:
        yield
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise RequestError(f"{file.name} cannot be read: {error}") from error


def _read_jsonl(file: SourceFile) -> Iterator[Record]:
    with file.open() as lines:
        begun = False
        # A binary file splits on \n alone: U+2028 and its kind may stand inside a JSON string.
        for number, line in enumerate(lines):
            torn = not line.endswith(b"\n")
            original = line if torn else line[:-1]
            if number == 0:
                original = original.removeprefix(_BOM)
            if not original.strip():
                continue
            if not begun and b"".join(original.split(maxsplit=2)[:2])[:2] in (b"[", b"[{"):
                raise RequestError(
                    f"{file.name} holds JSON arrays, not one object a line: if it is one array, "
                    "name it .json or set format: json; a conversation a line is written as "
                    '{"messages": [...]}'
                )
            begun = True
            yield _parse_line(original, torn)


def _parse_line(original: bytes, torn: bool) -> Record:
    try:
        value = json.loads(original.decode())
    except UnicodeDecodeError:
        return Record(original, None, Status.TORN_LINE if torn else Status.BAD_UTF8)
    except (ValueError, RecursionError):
        return Record(original, None, Status.TORN_LINE if torn else Status.BAD_JSON)
    if not isinstance(value, dict):
        return Record(original, None, Status.BAD_JSON)
    return Record(original, value, Status.OK)


def _read_json(file: SourceFile) -> Iterator[Record]:
    """Yield the objects of one JSON array, which is held in memory whole."""
    with file.open() as stream:
        data = stream.read()
    try:
        items = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"{file.name} is not JSON: {error}; for one object a line set format: jsonl"
        ) from error
    if not isinstance(items, list):
        raise RequestError(f"{file.name} holds no array of objects; a JSON file is one array")
    for item in items:
        if isinstance(item, dict):
            yield json_record(item)
        else:
            yield Record(json.dumps(item).encode(), None, Status.BAD_JSON)


def _read_delimited(file: SourceFile, delimiter: str) -> Iterator[Record]:
    """Yield the rows of a file with a header; every value is text, as written."""
    csv.field_size_limit(sys.maxsize)
    with (
        file.open() as stream,
        # Bytes that are not UTF-8 become lone surrogates, by which `json_record` knows the row.
        io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise RequestError(f"{file.name}: two columns have one name in {', '.join(header)}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise RequestError(
                    f"{file.name}: the row that ends in line {reader.line_num} has {len(cells)} "
                    f"cells, the header has {len(header)}: quote cells that hold a separator"
                )
            yield json_record(dict(zip(header, cells, strict=True)))
