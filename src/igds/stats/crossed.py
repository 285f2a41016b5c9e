"""Means over trainings and held-out items, both of which might have been others."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from igds.stats.bootstrap import Interval, cluster_numbers

POWER = 0.8
"""Power at the smallest detectable effect."""
_ROUNDING = 1e-12
"""Spread relative to the mean that is no more than what rounding leaves of equal values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossed:
    """A mean over trainings and items, or the mean of their differences."""

    interval: Interval
    """The mean with its 95 % interval; no ends with one cluster of items, nor where all values are
    one and the same but 0."""
    p: float
    """Two-sided, of a mean of 0; NaN where there is no interval."""
    seeds: int
    """Trainings."""
    items: int
    """Held-out items."""
    seed_deviation: float
    """Deviation of the mean over items between trainings; NaN with one training."""
    error: float
    """Standard error of the mean; NaN where there is no interval."""
    freedom: float
    """Degrees of freedom of `error`."""

    def detectable(self, level: float = 0.05) -> float:
        """Return the smallest effect that a two-sided test at a level finds with a power of 0.8.

        By Student's quantiles: with few degrees of freedom the power is a little lower, at a level
        of 0.05 0.79 with 4 and 0.73 with 1, at 0.05 / 6 0.74 with 4. NaN where there is no
        interval.
        """
        from scipy import stats

        upper, power = (stats.t.ppf(share, self.freedom) for share in (1 - level / 2, POWER))
        return float(upper + power) * self.error


def crossed_mean(values: Float[np.ndarray, "seeds items"], clusters: Sequence[Hashable]) -> Crossed:
    """Return the mean with an interval that would cover other trainings and other items.

    The standard error is that of a bootstrap that draws trainings and clusters of items at once,
    one less than there are of each, in closed form: what more and more draws come to, up to the
    spread of the clusters' sizes. The variances of trainings and of items are unbiased by it;
    what is particular to a training and an item is counted three times, so where trainings agree
    the interval is too wide rather than too narrow. With five trainings the percentiles of such
    draws are too narrow, so the interval is Student's, with Satterthwaite's degrees of freedom of
    the two variances. With two trainings whose means differ much the interval covers about 0.88 of
    the time, as their variance is hardly known. One training has none: the interval then speaks of
    this training alone.

    Args:
        values: one row a training, one column a held-out item.
        clusters: cluster of each item; items of one prompt are drawn together.

    Raises:
        ValueError: there is no value, or clusters and items differ in number.
    """
    from scipy import stats

    trainings, items = values.shape
    if not values.size or len(clusters) != items:
        raise ValueError(f"{trainings} trainings of {items} items, {len(clusters)} clusters")
    member = cluster_numbers(clusters)
    counts = np.bincount(member).astype(np.float64)
    sums = np.stack([np.bincount(member, row) for row in values])
    by_seed = values.mean(axis=1)
    deviation = float(by_seed.std(ddof=1)) if trainings > 1 else float("nan")
    mean = float(values.mean())
    error = freedom = float("nan")
    if len(counts) > 1:
        error, freedom = _error(sums, counts)
        if mean and error <= _ROUNDING * abs(mean):
            error = float("nan")
    margin = float(stats.t.ppf(0.975, freedom)) * error
    return Crossed(
        interval=Interval(mean=mean, low=mean - margin, high=mean + margin),
        p=_two_sided(mean, error, freedom),
        seeds=trainings,
        items=items,
        seed_deviation=deviation,
        error=error,
        freedom=freedom,
    )


def holm(p: Sequence[float]) -> list[float]:
    """Return the p-values, none of them NaN, adjusted by Holm's procedure; each is at most 1."""
    order = sorted(range(len(p)), key=lambda place: p[place])
    adjusted, worst = [1.0] * len(p), 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * p[place]))
        adjusted[place] = worst
    return adjusted


def _two_sided(mean: float, error: float, freedom: float) -> float:
    from scipy import stats

    if error == 0:
        return 1.0
    return float(2 * stats.t.sf(abs(mean) / error, freedom))


def _error(
    sums: Float[np.ndarray, "seeds clusters"], counts: Float[np.ndarray, " clusters"]
) -> tuple[float, float]:
    """Return the standard error of the mean, and Satterthwaite's degrees of freedom of it."""
    trainings, groups = sums.shape
    mean = sums.sum() / counts.sum() / trainings
    apart = (sums - mean * counts) / counts.mean()
    by_seed, by_item = apart.mean(axis=1), apart.mean(axis=0)
    of_items = float((by_item**2).sum()) / groups / (groups - 1)
    if trainings == 1:
        return math.sqrt(of_items), groups - 1.0
    of_seeds = float((by_seed**2).sum()) / trainings / (trainings - 1)
    of_both = float(((apart - by_seed[:, None] - by_item) ** 2).sum())
    of_both /= trainings * (trainings - 1) * groups * (groups - 1)
    spread = of_seeds**2 / (trainings - 1) + of_items**2 / (groups - 1)
    freedom = (of_seeds + of_items) ** 2 / spread if spread > 0 else groups - 1.0
    return math.sqrt(of_seeds + of_items + of_both), freedom
