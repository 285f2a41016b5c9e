"""What a scoring method is: numbers a row, from the row itself and from residuals at t*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """One method, resolved: everything a worker needs to build its scorer, JSON-able."""

    name: str
    """Name in `score.methods` and of the folder below `score/`."""
    kind: str
    """Key of `igds.methods.registry.SCORERS`."""
    weights: dict[str, float]
    """Raw column -> weight; the pool score of a row is the weighted sum of its raw columns."""
    offset: float = 0.0
    """Added to that sum."""
    arguments: dict[str, Any]
    """Keyword arguments of the scorer class."""


@runtime_checkable
class RowScorer(Protocol):
    """Raw values of pool rows, one array a column, whatever batch the rows come in."""

    columns: tuple[str, ...]
    """Names of the raw columns it returns."""
    layers: frozenset[int]
    """Decoder blocks whose residual at t* it reads; empty when it needs no model."""

    def score(self, rows: pa.Table, residuals: Mapping[int, Tensor]) -> dict[str, np.ndarray]:
        """Return one float array [rows] a column; NaN where a row has no value.

        Args:
            rows: index rows with status ok, in shard order.
            residuals: block -> residuals at t*, [rows, d_model], float32.
        """
        ...
