"""Ranks with ties, and the rank correlation made of them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num


def mid_ranks(values: Num[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return ranks from 1 to n; equal values share the mean of the ranks they fill."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]


def spearman(x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"]) -> float:
    """Return Spearman's rank correlation, -1 to 1; NaN when either is constant or n < 2."""
    a, b = mid_ranks(x), mid_ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")
