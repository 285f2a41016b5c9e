"""Methods that look at no model: length and chance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from torch import Tensor

from igds.data.seeds import seeded_unit


class LengthScorer:
    """A token count that the index already holds."""

    layers: frozenset[int] = frozenset()

    def __init__(self, column: str) -> None:
        """Name the index column, `n_prompt_tokens` or `n_response_tokens`."""
        self.columns = (column,)

    def score(self, rows: pa.Table, residuals: Mapping[int, Tensor]) -> dict[str, np.ndarray]:
        """Return the count; NaN where the row has no response."""
        (column,) = self.columns
        counts = rows.column(column).to_numpy(zero_copy_only=False)
        return {column: counts.astype(np.float64)}


class RandomScorer:
    """A uniform number from the seed and the row's id, whatever its place in the pool."""

    columns: tuple[str, ...] = ("uniform",)
    layers: frozenset[int] = frozenset()

    def __init__(self, seed: int) -> None:
        """Keep the run's seed."""
        self._seed = seed

    def score(self, rows: pa.Table, residuals: Mapping[int, Tensor]) -> dict[str, np.ndarray]:
        """Return numbers in 0 to 1."""
        ids = rows.column("row_id").to_pylist()
        draws = (seeded_unit(self._seed, "score/random", row_id) for row_id in ids)
        return {"uniform": np.fromiter(draws, dtype=np.float64, count=len(ids))}
