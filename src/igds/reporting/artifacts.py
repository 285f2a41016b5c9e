"""Checked reads of artifact files: a missing file, column or key is an error that names it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from igds.errors import RequestError


def read_table(
    path: Path, columns: Sequence[str], *, where: ds.Expression | None = None
) -> pa.Table:
    """Return the named columns of one Parquet file, of all rows or of those that match `where`.

    Raises:
        RequestError: the file or a column is missing.
    """
    _require_file(path)
    _require(path, "column", columns, pq.read_schema(path).names)
    return ds.dataset(path, format="parquet").to_table(columns=list(columns), filter=where)


def read_parts(
    folder: Path, pattern: str, columns: Sequence[str], *, where: ds.Expression | None = None
) -> pa.Table:
    """Return the named columns of all Parquet files that match, joined in order of their names.

    Raises:
        RequestError: no file matches, or a column is missing.
    """
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise RequestError(f"{folder} has no {pattern}: run the stage that writes it again")
    return pa.concat_tables(read_table(path, columns, where=where) for path in paths)


def read_json(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        RequestError: the file or one of the keys is missing.
    """
    _require_file(path)
    value = json.loads(path.read_bytes())
    _require(path, "key", keys, value)
    return value


def require_keys(path: Path, place: str, keys: Sequence[str], value: dict[str, Any]) -> None:
    """Check an object inside a JSON file.

    Raises:
        RequestError: a key is missing at that place of the file.
    """
    _require(path, f"key in {place}", keys, value)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise RequestError(f"{path} is missing: run the stage that writes it again")


def _require(path: Path, kind: str, wanted: Sequence[str], present: Any) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        names = ", ".join(missing)
        raise RequestError(
            f"{path} has no {kind} {names}: it was written by another version of igds; "
            "run its stage again with --overwrite"
        )
