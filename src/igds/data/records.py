"""One row as its file has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from igds.rows import Status, canonical


@dataclass(frozen=True, slots=True)
class Record:
    """One row as its file has it."""

    original: bytes
    """JSONL: the line without its newline; else canonical JSON of all columns."""
    columns: Mapping[str, Any] | None
    """Column -> value; None when the row cannot be read."""
    status: Status
    """ok, torn_line, bad_json or bad_utf8."""


def json_record(columns: dict[str, Any]) -> Record:
    """Return a row whose `original` is the canonical JSON of its columns."""
    try:
        return Record(canonical(columns), columns, Status.OK)
    except UnicodeEncodeError:
        return Record(json.dumps(columns).encode(), None, Status.BAD_UTF8)


def column_value(columns: Mapping[str, Any], name: str) -> Any:
    """Return a column's value; of no column `a.b`, the key `b` of the column `a`."""
    outer, dot, inner = name.partition(".")
    if name in columns or not dot:
        return columns.get(name)
    value = columns.get(outer)
    return column_value(value, inner) if isinstance(value, Mapping) else None
