"""The mean of paired differences with its studentised bootstrap interval over clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

DRAWS = 10_000
"""Bootstrap draws."""


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
    level: float = 0.95,
) -> Interval:
    """Return the mean of paired differences with its studentised bootstrap interval.

    Whole clusters are drawn, so that rows which share a prompt count as one. The same seed and
    number of clusters give the same draws, hence the same for all features. An end is NaN when
    so few values differ that many draws have no spread at all: nothing then bounds it.

    Args:
        values: edited minus original, one a row.
        clusters: what rows that belong together share, one a row.
        draws: bootstrap draws.
        seed: of the draws.
        level: coverage, 0-1.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return Interval(mean=np.nan, low=np.nan, high=np.nan)
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    member = np.array([names[name] for name in clusters])
    size = np.bincount(member).astype(np.float64)
    mean = values.mean()
    if len(size) < 2:
        return Interval(mean=float(mean), low=np.nan, high=np.nan)
    # Differences are centred first: the sums of squares below would else cancel in rounding.
    total = np.bincount(member, values - mean)
    error = _errors(np.ones((1, len(size))), total, size)[1][0]
    if error == 0:
        return Interval(mean=float(mean), low=np.nan, high=np.nan)
    shifts, errors = _errors(_weights(len(size), draws, seed), total, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(shifts == 0, 0.0, shifts / errors)
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = mean - error * np.quantile(t, tails, method="inverted_cdf")[::-1]
    low, high = np.where(np.isfinite(ends), ends, np.nan)
    return Interval(mean=float(mean), low=float(low), high=float(high))


def _errors(
    weights: Float[np.ndarray, "draws clusters"],
    total: Float[np.ndarray, " clusters"],
    size: Float[np.ndarray, " clusters"],
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Return each draw's mean (a ratio of sums over clusters) and its linearised standard error."""
    groups = len(total)
    count = weights @ size
    mean = weights @ total / count
    squares = (
        weights @ total**2 - 2 * mean * (weights @ (total * size)) + mean**2 * (weights @ size**2)
    )
    scale = float((total**2).sum())
    # What rounding leaves of a sum of equal squares is no spread.
    squares = np.where(squares > 1e-12 * scale, squares, 0.0)
    return mean, np.sqrt(squares * groups / (groups - 1)) / count


@lru_cache(maxsize=4)
def _weights(groups: int, draws: int, seed: int) -> Float[np.ndarray, "draws clusters"]:
    """Return how often each cluster is in each draw."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(np.float64)
    weights.setflags(write=False)
    return weights
