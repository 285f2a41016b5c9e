"""Shares of the selection that single sources may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Which source each row is of, and the largest share of the budget that each may take."""

    source: Int[np.ndarray, " rows"]
    """Number of each row's source, from 0."""
    shares: Sequence[Decimal | None]
    """Share of each source, over 0 to 1; None sets no limit."""

    def within(
        self,
        order: Int[np.ndarray, " eligible"],
        cost: Int[np.ndarray, " rows"],
        budget: int,
    ) -> Bool[np.ndarray, " eligible"]:
        """Return which rows fit into the share of their source, its best rows first.

        Args:
            order: places of the rows that may be chosen, best first.
            cost: what each row takes of the budget: 1, or its tokens.
            budget: rows or tokens to select; a share of it is rounded up, so that halves fill it.
        """
        fits = np.ones(len(order), dtype=bool)
        for number, share in enumerate(self.shares):
            if share is not None:
                own = np.flatnonzero(self.source[order] == number)
                fits[own] = np.cumsum(cost[order[own]]) <= ceil(share * budget)
        return fits


def source_numbers(rows: Sequence[int]) -> Int[np.ndarray, " rows"]:
    """Return the number of each row's source, given how many rows each source has."""
    return np.repeat(np.arange(len(rows)), rows)
