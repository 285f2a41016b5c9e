"""RDS+ (arXiv 2503.01807): rows nearest to the task's prompts by the last hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from igds.methods.base import ORDER, STATUS, Reading
from igds.rows import Status

COLUMN = "embedding"


class EmbeddingScorer:
    """The mean of a row's last hidden states, token t weighing t, at length 1."""

    columns: tuple[str, ...] = (COLUMN,)
    layers: frozenset[int] = frozenset()
    parts = frozenset({"mean"})

    def score(self, rows: pa.Table, reading: Reading) -> dict[str, np.ndarray]:
        """Return unit vectors [rows, d_model]; NaN where the prompt does not fit."""
        found = reading.responses
        assert found is not None, "the pass read no responses"
        assert found.mean is not None, "the pass read no mean states"
        status = np.array(found.status, dtype=object)
        status[~np.isnan(found.mean).any(axis=1)] = Status.OK
        unit = found.mean / np.linalg.norm(found.mean, axis=1, keepdims=True)
        return {COLUMN: unit, STATUS: status}


def round_robin(
    queries: Float[np.ndarray, "queries d_model"], rows: Float[np.ndarray, "rows d_model"]
) -> Int[np.ndarray, " rows"]:
    """Return the places of rows in the order in which queries, taking turns, choose them.

    In its turn a query takes the row most similar to it that is left; equal rows go by place.

    Args:
        queries: unit vectors, in the order of their turns.
        rows: unit vectors.
    """
    preference = np.empty((len(queries), len(rows)), dtype=np.int32)
    for place, query in enumerate(queries):
        preference[place] = np.argsort(-(rows @ query), kind="stable")
    following = np.zeros(len(queries), dtype=np.int64)
    left = np.ones(len(rows), dtype=bool)
    order = np.empty(len(rows), dtype=np.int64)
    for taken in range(len(rows)):
        query = taken % len(queries)
        while not left[preference[query, following[query]]]:
            following[query] += 1
        order[taken] = preference[query, following[query]]
        left[order[taken]] = False
    return order


class RdsRanker:
    """Round robin of the prior prompts over the pool."""

    def __init__(
        self,
        queries: Float[np.ndarray, "queries d_model"],
        rows: Float[np.ndarray, "rows d_model"],
    ) -> None:
        """Keep the unit vectors of the prior prompts and of the pool's rows."""
        self._queries, self._rows = queries, rows

    def rounds(self, state: Mapping[str, np.ndarray] | None) -> Iterator[dict[str, np.ndarray]]:
        """Yield the whole order at once."""
        yield {ORDER: round_robin(self._queries, self._rows)}
