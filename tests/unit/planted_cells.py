"""Finished cells of an experiment with planted values, as their files would hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from jaxtyping import Bool
from numpy import ndarray

from igds.experiments.results import ITEMS, CellResult, as_bits

EFFECT = {
    "feature": "L9/7", "split": "S3", "position": "read", "delta": 0.02, "delta_low": 0.01,
    "delta_high": None,
}  # fmt: skip
"""Of the task feature of every cell."""


def cell_result(
    items: Sequence[Mapping[str, Any]],
    selected: Bool[ndarray, " rows"],
    *,
    outcome: str = "CONFIRMED",
    pass_at: Sequence[int] = (),
) -> CellResult:
    """Return a cell that selected these rows of its pool and measured these items."""
    rows, kept = len(selected), int(selected.sum())
    facts = {
        "outcome": outcome,
        "versions": {"torch": "2"},
        "git": {"sha": "0123456789", "dirty": False},
        "identified": {"features": ["L9/7"], "reason": "planted", "effects": [EFFECT]},
        "ranked_by": {"L9/7": 1.0},
        "trained": {"rows": kept, "tokens": 30, "steps": 60},
        "selection": {
            "source_entropy": 0.0, "distinct_2": 0.5, "share_zero": 0.0, "ok": rows,
            "scored": rows, "selected": kept, "rows": rows, "bits": as_bits(selected),
        },
        "cost": {"identify": 100.0, "score": 10.0, "rows": 15.0},
        "seconds": {"finetune": 61.0},
    }  # fmt: skip
    identity = {
        "evaluate": {"pass_at": list(pass_at)} if pass_at else {},
        "contents": {"pool": []},
    }
    table = pa.Table.from_pylist(list(items), schema=ITEMS)
    return CellResult(identity=identity, facts=facts, items=table)


def item(name: str, metric: str, value: float, sample: int = 0) -> dict[str, Any]:
    """Return the row of an item that is a cluster of its own."""
    return {"item": name, "cluster": name, "metric": metric, "sample": sample, "value": value}
