"""Rows that stand for the others: greedy facility location over vectors of the best rows."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, sqrt

import numpy as np
from jaxtyping import Float32, Int

from igds.selection.strata import Taken, that_fit

BLOCK = 64
"""Rows whose gains are computed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diverse:
    """Which rows enter the choice, and their vectors."""

    candidates: Decimal
    """What the rows that enter take of the budget over what those kept take, 1 or more."""
    vectors: Callable[[Int[np.ndarray, " rows"]], Float32[np.ndarray, "rows d"]]
    """Places in the pool -> vectors of length 1; NaN for a row that has none."""

    def take(
        self, group: Int[np.ndarray, " group"], cost: Int[np.ndarray, " rows"], limit: int
    ) -> Taken:
        """Return what is chosen of a stratum, in the order of the choice.

        Args:
            group: places of the rows that may be chosen, best first.
            cost: what each row of the pool takes of the budget: 1, or its tokens.
            limit: what the stratum may take of it; the choice ends before the row that is over.
        """
        candidates = group[: that_fit(cost[group], ceil(self.candidates * limit))]
        if not len(candidates):
            return Taken(rows=candidates, reasons={}, at_cut=candidates)
        vectors = self.vectors(candidates)
        known = ~np.isnan(vectors).any(axis=1)
        rows, left = candidates[known], limit
        chosen: list[int] = []
        for place in facility_location(vectors[known]):
            left -= int(cost[rows[place]])
            if left < 0:
                break
            chosen.append(int(rows[place]))
            if not left:
                break
        taken = np.array(chosen, dtype=np.int64)
        reasons = {"diversity": rows, "no_vector": candidates[~known], "top": taken}
        return Taken(rows=taken, reasons=reasons, at_cut=taken[:0])


def facility_location(vectors: Float32[np.ndarray, "rows d"]) -> Iterator[int]:
    """Yield the places of all rows, each time the one that adds most; equal ones go by place.

    A set of rows is worth, summed over all rows, the cosine of each to the nearest of the set,
    negative ones counted as 0: a choice of n by this rule is worth at least 1 - 1/e of the best.
    What a row adds never rises while others are chosen, so what it added before bounds it, and
    only rows at the top of that order are computed again (lazy greedy).

    Time grows with the square of the rows; memory holds the vectors once more, and some `BLOCK`
    numbers a row. Cosines are exact to about 2e-4, see `_Rows`.

    Args:
        vectors: of length 1.
    """
    rows = _Rows.of(vectors)
    covered = np.zeros(len(vectors), dtype=np.float32)
    bounds: list[tuple[float, int, int]] = []  # (-gain, place, rows chosen when it was computed)
    for start in range(0, len(vectors), BLOCK):
        places = list(range(start, min(start + BLOCK, len(vectors))))
        bounds += [(-gain, place, 0) for place, gain in rows.gains(places, covered)]
    heapq.heapify(bounds)
    chosen = 0
    while bounds:
        stale: list[int] = []
        # A row that adds nothing will never add anything: its bound needs no second look.
        while bounds and bounds[0][0] < 0 and bounds[0][2] < chosen and len(stale) < BLOCK:
            stale.append(heapq.heappop(bounds)[1])
        if stale:
            for place, gain in rows.gains(stale, covered):
                heapq.heappush(bounds, (-gain, place, chosen))
            continue
        _, place, _ = heapq.heappop(bounds)
        yield place
        np.maximum(covered, rows.cosines([place])[:, 0], out=covered)
        chosen += 1


@dataclass(frozen=True, slots=True)
class _Rows:
    """Vectors in whole numbers, at a length of nearly, and under, 4096.

    Products of two and all their partial sums are then whole numbers under 2^24, which float32
    holds exactly: no order of rows, block or number of threads changes a choice.
    """

    whole: Float32[np.ndarray, "rows d"]
    """The rounded vectors."""
    one: np.float32
    """The smallest product of a vector with itself, which is a cosine of 1 and the largest there
    is: all rows are then as like themselves, and rows with one vector add the same."""

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "rows d"]) -> _Rows:
        """Return vectors of length 1 in whole numbers."""
        # Rounding makes no vector longer by more than half the diagonal of a unit cube.
        whole = vectors * np.float32(4095 - sqrt(vectors.shape[1]) / 2)
        np.rint(whole, out=whole)
        own = np.einsum("ij,ij->i", whole, whole)
        return cls(whole, own.min(initial=np.float32(2**24)))

    def cosines(self, places: list[int]) -> Float32[np.ndarray, "rows places"]:
        """Return the cosine of every row to each of some rows, in units of 1 / `one`."""
        found = self.whole @ self.whole[places].T
        return np.minimum(found, self.one, out=found)

    def gains(
        self, places: list[int], covered: Float32[np.ndarray, " rows"]
    ) -> Iterator[tuple[int, float]]:
        """Yield (place, what it adds to what the chosen rows stand for) of some rows."""
        added = self.cosines(places)
        added -= covered[:, None]
        np.maximum(added, 0, out=added)
        yield from zip(places, added.sum(axis=0, dtype=np.float64).tolist(), strict=True)
