"""One column of a pool's rows, as text or as vectors, whatever format they came in."""

from __future__ import annotations

import json
import sys
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from igds.data.index import iter_index
from igds.data.records import column_value
from igds.data.templates import as_text, is_plain
from igds.errors import RequestError
from igds.rows import Status

SOURCE = "source"
"""The column that every row has: the file it came from."""
LARGEST = sys.float_info.max
"""The largest number of a vector; whole numbers of any size may stand in a row."""


def column_values(folder: Path, name: str) -> list[str]:
    """Return a column's value in each row of an index, in row order; "" where it has none.

    Args:
        folder: the index.
        name: `source`, or a column of the rows as they were read; `a.b` is the key `b` of the
            column `a`.

    Raises:
        RequestError: no row has the column.
    """
    if name == SOURCE:
        batches = iter_index(folder, [SOURCE])
        return [value for batch in batches for value in batch[SOURCE].to_pylist()]
    found: list[str] = []
    columns: dict[str, None] = {}
    known = False
    for batch in iter_index(folder, ["status", "original"]):
        for status, original in zip(
            batch["status"].to_pylist(), batch["original"].to_pylist(), strict=True
        ):
            row = json.loads(original) if status == Status.OK else {}
            columns.update(dict.fromkeys(row))
            value = column_value(row, name)
            known = known or value is not None or name in row
            found.append("" if value is None else _as_text(value))
    if not known:
        raise RequestError(
            f"no row of the pool has the column {name!r}; the columns are {', '.join(columns)}, "
            "and source is the file of a row"
        )
    return found


def column_vectors(
    folder: Path, name: str, places: Int[np.ndarray, " rows"]
) -> Float32[np.ndarray, "rows d"]:
    """Return a column's vectors in some rows of an index, at length 1; NaN where a row has none.

    Args:
        folder: the index.
        name: a column of the rows as they were read, with lists of numbers.
        places: of the rows; each must have status ok.

    Raises:
        RequestError: none of the rows has the column, a value is no list of numbers or has no
            length, or two lists are of different sizes.
    """
    order = np.argsort(places)
    columns: dict[str, None] = {}
    found: np.ndarray | None = None
    start = 0
    for batch in iter_index(folder, ["row_id", "original"]):
        low, high = np.searchsorted(places[order], [start, start + len(batch)])
        for own in order[low:high].tolist():
            row_id, original = (batch[key][int(places[own]) - start].as_py() for key in (0, 1))
            row = json.loads(original)
            columns.update(dict.fromkeys(row))
            value = column_value(row, name)
            if value is None:
                continue
            vector = _unit(value)
            if vector is None:
                raise RequestError(
                    f"row {row_id}: its column {name!r} is no list of numbers with a length over 0"
                )
            if found is None:
                found = np.full((len(places), len(vector)), np.nan, dtype=np.float32)
            if len(vector) != found.shape[1]:
                raise RequestError(
                    f"row {row_id}: its column {name!r} holds {len(vector)} numbers, that of other "
                    f"rows {found.shape[1]}"
                )
            found[own] = vector
        start += len(batch)
    if found is None:
        raise RequestError(
            f"none of the {len(places)} best rows of the pool has a value in the column {name!r}; "
            f"the columns are {', '.join(columns)}"
        )
    return found


def _as_text(value: Any) -> str:
    """Return a value as text, equal for values that are the same in a prompt, as 2 and 2.0."""
    return as_text(value) if is_plain(value) else json.dumps(value, sort_keys=True)


def _unit(value: Any) -> np.ndarray | None:
    """Return a list of numbers at length 1; None for anything else, and where it has no length."""
    if not isinstance(value, list):
        return None
    if not all(isinstance(one, int | float) and abs(one) <= LARGEST for one in value):
        return None
    vector = np.array(value, dtype=np.float64)
    length = np.linalg.norm(vector)
    return vector / length if 0 < length < inf else None
