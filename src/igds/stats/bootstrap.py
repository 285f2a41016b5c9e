"""The mean of paired differences with its studentised bootstrap interval over clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from igds.stats import LEVEL

DRAWS = 10_000
"""Bootstrap draws."""
_AT_ONCE = 64
"""Features computed at once: some 80 bytes each a draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and where it may lie, in the unit of the values."""

    mean: float
    """Mean over the values; NaN when there are none."""
    low: float
    """Lower end; NaN where the values set no bound, as with fewer than two clusters."""
    high: float
    """Upper end; NaN where the values set no bound."""


def paired_bootstrap(
    values: Float[np.ndarray, " n"],
    clusters: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the mean of paired differences with its interval: see `paired_bootstraps`."""
    return paired_bootstraps(np.asarray(values)[None], clusters, draws=draws, seed=seed)[0]


def paired_bootstraps(
    values: Float[np.ndarray, "features n"],
    clusters: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Interval]:
    """Return the mean of each feature's paired differences with its studentised interval.

    Whole clusters are drawn, so that rows which share a prompt count as one. The same seed and
    number of clusters give the same draws, hence the same for all features: each interval holds
    for its feature alone, and comparisons between features share their noise. An end is NaN when
    so few values differ that many draws have no spread at all: nothing then bounds it.

    Args:
        values: edited minus original, a row a feature, a column a prompt.
        clusters: what columns that belong together share, one a column.
        draws: bootstrap draws.
        seed: of the draws.
    """
    values = np.ascontiguousarray(values, dtype=np.float64)
    if not values.shape[1]:
        return [Interval(mean=np.nan, low=np.nan, high=np.nan)] * len(values)
    member = cluster_numbers(clusters)
    size = np.bincount(member).astype(np.float64)
    means = values.mean(axis=1)
    ends = np.full((len(values), 2), np.nan)
    if len(size) > 1:
        # Differences are centred first: the sums of squares below would else cancel in rounding.
        total = np.stack([np.bincount(member, row) for row in values - means[:, None]])
        for start in range(0, len(values), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            weights = _weights(len(size), draws, seed)
            ends[part] = means[part, None] + _shifts(weights, total[part], size)
    return [
        Interval(mean=float(mean), low=float(low), high=float(high))
        for mean, (low, high) in zip(means, ends, strict=True)
    ]


def cluster_numbers(clusters: Sequence[Hashable]) -> Int[np.ndarray, " n"]:
    """Return the number of each cluster, from 0 in the order in which they come."""
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    return np.array([names[name] for name in clusters])


def _shifts(
    weights: Float[np.ndarray, "draws clusters"],
    total: Float[np.ndarray, "features clusters"],
    size: Float[np.ndarray, " clusters"],
) -> Float[np.ndarray, "features 2"]:
    """Return both ends of each interval, from the mean; NaN where nothing bounds it."""
    error = _errors(np.ones((1, len(size))), total, size)[1][:, 0]
    shifts, errors = _errors(weights, total, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(shifts == 0, 0.0, shifts / errors)
        tails = [(1 + LEVEL) / 2, (1 - LEVEL) / 2]
        ends = -error * np.quantile(t, tails, axis=1, method="inverted_cdf")
    return np.where((error > 0) & np.isfinite(ends), ends, np.nan).T


def _errors(
    weights: Float[np.ndarray, "draws clusters"],
    total: Float[np.ndarray, "features clusters"],
    size: Float[np.ndarray, " clusters"],
) -> tuple[Float[np.ndarray, "features draws"], Float[np.ndarray, "features draws"]]:
    """Return each draw's mean (a ratio of sums over clusters) and its linearised standard error."""
    groups = len(size)
    count = weights @ size
    sums = total @ weights.T
    crossed = sums if (size == 1).all() else (total * size) @ weights.T
    mean = sums / count
    squares = total**2 @ weights.T - mean * (2 * crossed - mean * (weights @ size**2))
    scale = (total**2).sum(axis=1, keepdims=True)
    # What rounding leaves of a sum of equal squares is no spread.
    squares = np.where(squares > 1e-12 * scale, squares, 0.0)
    return mean, np.sqrt(squares * groups / (groups - 1)) / count


@lru_cache(maxsize=4)
def _weights(groups: int, draws: int, seed: int) -> Float[np.ndarray, "draws clusters"]:
    """Return how often each cluster is in each draw."""
    picks = np.random.default_rng(seed).integers(groups, size=(draws, groups))
    picks += groups * np.arange(draws)[:, None]
    counts = np.bincount(picks.ravel(), minlength=draws * groups)
    weights = counts.reshape(draws, groups).astype(np.float64)
    weights.setflags(write=False)
    return weights
