"""Groups of rows that share a budget in proportion to their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

TENTHS = 10
"""Groups of length: each holds about a tenth of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was chosen of one stratum."""

    rows: Int[np.ndarray, " chosen"]
    """Places of the rows that are kept, in the order of the choice."""
    reasons: Mapping[str, Int[np.ndarray, " reason"]]
    """Reason -> places of rows; of several for one row the last holds."""
    at_cut: Int[np.ndarray, " tied"]
    """Places of the rows with the very score of the last one kept."""


def tenths(
    lengths: Int[np.ndarray, " rows"], counted: Bool[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """Return each row's tenth by length, from 0; rows of one length share theirs.

    Args:
        lengths: of all rows, tokens.
        counted: the rows that the tenths are of.
    """
    edges = np.quantile(lengths[counted], np.arange(1, TENTHS) / TENTHS, method="higher")
    return np.searchsorted(edges, lengths, side="left")


def numbered(values: Sequence[str]) -> Int[np.ndarray, " rows"]:
    """Return a number for each row's value, the same for equal values, in their order."""
    number = {value: place for place, value in enumerate(sorted(set(values)))}
    return np.fromiter((number[value] for value in values), dtype=np.int64, count=len(values))


def shares(budget: int, sizes: Int[np.ndarray, " strata"]) -> Int[np.ndarray, " strata"]:
    """Return whole shares of a budget in proportion to sizes; they add up to the budget.

    Whole parts first, what is left to the largest remainders, the larger and then the earlier
    stratum first. In whole numbers throughout, so the same on every machine. No share is over its
    size unless the budget is over their sum.
    """
    total = int(sizes.sum())
    parts = [divmod(budget * int(size), total) for size in sizes]
    found = np.array([whole for whole, _ in parts], dtype=np.int64)
    order = sorted(range(len(parts)), key=lambda k: (-parts[k][1], -int(sizes[k]), k))
    for stratum in order[: budget - int(found.sum())]:
        found[stratum] += 1
    return found


def that_fit(cost: Int[np.ndarray, " rows"], limit: int) -> int:
    """Return how many rows, in order, fit into the limit before the first that does not."""
    return int(np.searchsorted(np.cumsum(cost), limit, side="right"))


def turns(taken: Sequence[Taken]) -> Int[np.ndarray, " chosen"]:
    """Return the places of all rows that are kept, the strata taking turns."""
    turn = np.concatenate([np.arange(len(one.rows)) for one in taken])
    return np.concatenate([one.rows for one in taken])[np.argsort(turn, kind="stable")]
