"""What else an edit does to outputs: a gain that comes with their length or form is flagged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from igds.stats.bootstrap import Interval, paired_bootstrap
from igds.stats.null import or_null

SIDE_EFFECTS: dict[str, pa.DataType] = {
    "task_score": pa.float64(),
    "original_score": pa.float64(),
    "changed": pa.int32(),
    "tokens": pa.float64(),
    "original_tokens": pa.float64(),
    "broken": pa.float64(),
    "original_broken": pa.float64(),
    "side_effects": pa.string(),
    "delta_pass_k": pa.float64(),
    "pass_k_low": pa.float64(),
    "pass_k_high": pa.float64(),
}
"""Columns of effects that only generated outputs have."""


def side_effects(samples: pa.Table, clusters: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Return the columns of `SIDE_EFFECTS` for one feature; nothing where none was generated.

    Args:
        samples: its rows, with the columns of `SCORED`.
        clusters: row id -> hash of its prompt.
        seed: of the bootstrap draws.
    """
    if "task_score" not in samples.column_names:
        return {}
    names = [clusters[row] for row in samples["row_id"].to_pylist()]
    column = {name: samples[name].to_numpy() for name in (*_MEANS, "changed")}

    def difference(edited: str, original: str) -> Interval:
        return paired_bootstrap(column[edited] - column[original], names, seed=seed)

    found = {name: float(column[name].mean()) for name in _MEANS}
    found |= {
        "changed": int(np.count_nonzero(column["changed"])),
        "side_effects": _flags(
            found["task_score"] - found["original_score"],
            difference("tokens", "original_tokens"),
            difference("broken", "original_broken"),
        ),
    }
    if samples["pass_k"].null_count:
        return found
    column |= {name: samples[name].to_numpy() for name in ("pass_k", "original_pass_k")}
    gain = difference("pass_k", "original_pass_k")
    ends = {"pass_k_low": gain.low, "pass_k_high": gain.high}
    known = {name: or_null(value) for name, value in ends.items()}
    return found | {"delta_pass_k": gain.mean, **known}


_MEANS = (
    "task_score", "original_score", "tokens", "original_tokens", "broken", "original_broken",
)  # fmt: skip


def _flags(delta: float, tokens: Interval, broken: Interval) -> str:
    """Return what goes with a gain, by intervals that lie on one side of 0; empty without one."""
    if delta <= 0:
        return ""
    signs = {
        "longer": tokens.low > 0,
        "shorter": tokens.high < 0,
        "fewer broken": broken.high < 0,
    }
    return ", ".join(words for words, shown in signs.items() if shown)
