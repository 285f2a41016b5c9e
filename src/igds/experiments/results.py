"""Finished cells: one small Parquet file each, that says all by itself and counts as done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from igds.errors import RequestError
from igds.evaluation.results import item_clusters, item_values, judges_by_0_and_1
from igds.runs.files import whole_file
from igds.runs.stage import difference_text

ITEMS = pa.schema(
    [
        pa.field("item", pa.string()),
        pa.field("cluster", pa.string()),
        pa.field("metric", pa.string()),
        pa.field("sample", pa.int64()),
        pa.field("value", pa.float64()),
    ]
)
"""Columns of a cell's file, one row a held-out item, metric and sample."""
NO_SELECTION = "no_selection"
"""Fact of a cell that has no rows to train on, and so no items: why."""
_KEY = b"igds"


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What is kept of a finished cell."""

    identity: Mapping[str, Any]
    """What its numbers depend on."""
    facts: Mapping[str, Any]
    """What was selected, by which features, and trained, how long it took, by which versions."""
    items: pa.Table
    """`ITEMS`; no row where the facts say that there is no selection."""

    @cached_property
    def values(self) -> dict[str, dict[str, float]]:
        """Return metric -> item -> mean over samples, in the order measured; then each pass@k."""
        pass_at = self.identity["evaluate"].get("pass_at", [])
        return item_values(self.items, pass_at if judges_by_0_and_1(self.items) else [])

    @cached_property
    def clusters(self) -> dict[str, str]:
        """Return item -> its cluster."""
        return item_clusters(self.items)


def as_bits(selected: Bool[np.ndarray, " rows"]) -> str:
    """Return which rows of a pool were selected, in its order, as hexadecimal digits."""
    return np.packbits(selected).tobytes().hex()


def selected_rows(result: CellResult) -> Bool[np.ndarray, " rows"]:
    """Return which rows of the pool a cell selected, in the pool's order."""
    selection = result.facts["selection"]
    packed = np.frombuffer(bytes.fromhex(selection["bits"]), dtype=np.uint8)
    return np.unpackbits(packed, count=selection["rows"]).astype(bool)


def result_file(folder: Path, name: str) -> Path:
    """Return the file of a finished cell."""
    return folder / f"{name}.parquet"


def write_result(path: Path, result: CellResult) -> None:
    """Write a finished cell, all of it or nothing."""
    record = json.dumps({"identity": result.identity, "facts": result.facts}, allow_nan=False)
    table = result.items.select(ITEMS.names).cast(ITEMS)
    with whole_file(path) as file:
        pq.write_table(table.replace_schema_metadata({_KEY: record}), file, compression="zstd")


def read_result(path: Path) -> CellResult | None:
    """Return a finished cell, None where there is none.

    Raises:
        RequestError: the file is no result of a cell.
    """
    if not path.exists():
        return None
    try:
        table = pq.ParquetFile(path).read()
        record = json.loads((table.schema.metadata or {})[_KEY])
        items = table.replace_schema_metadata(None).cast(ITEMS)
    except (KeyError, ValueError, pa.ArrowInvalid) as error:
        raise RequestError(f"{path} is no result of an experiment's cell: {error}") from error
    return CellResult(identity=record["identity"], facts=record["facts"], items=items)


def other_settings(
    path: Path, recorded: Mapping[str, Any], wanted: Mapping[str, Any]
) -> RequestError:
    """Return the error for a cell that other settings or inputs made, with what differs."""
    return RequestError(
        f"{difference_text(path, dict(recorded), dict(wanted))}\n"
        "Give the experiment another name, and experiment.results another folder if it has one, or "
        "add --overwrite to make such cells again."
    )
