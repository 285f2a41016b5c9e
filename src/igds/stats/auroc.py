"""Area under the ROC curve with mid-ranks, and its interval."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from jaxtyping import Num

from igds.stats import LEVEL
from igds.stats.rank import mid_ranks


def auroc(positive: Num[np.ndarray, " p"], negative: Num[np.ndarray, " n"]) -> float:
    """Return P(positive > negative) + P(equal) / 2, 0 to 1; NaN when either set is empty.

    Raises:
        ValueError: a value is NaN, which has no rank.
    """
    if np.isnan(positive).any() or np.isnan(negative).any():
        raise ValueError("a value is NaN: take out what has no value before ranking")
    if not len(positive) or not len(negative):
        return float("nan")
    return float(_placements(positive, negative)[0].mean())


def auroc_interval(
    positive: Num[np.ndarray, " p"], negative: Num[np.ndarray, " n"]
) -> tuple[float, float]:
    """Return the lower and upper end of DeLong's interval, cut to 0 to 1.

    Both are NaN with fewer than two values in a set. Sets that do not overlap at all have no
    spread to measure: their open end is the exact binomial bound of as many successes as the
    smaller set has values, so that two values a side prove nothing.
    """
    if min(len(positive), len(negative)) < 2:
        return float("nan"), float("nan")
    of_positive, of_negative = _placements(positive, negative)
    variance = of_positive.var(ddof=1) / len(positive) + of_negative.var(ddof=1) / len(negative)
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * np.sqrt(variance)
    area = of_positive.mean()
    if area in (0.0, 1.0):
        bound = ((1 - LEVEL) / 2) ** (1 / min(len(positive), len(negative)))
        return (float(bound), 1.0) if area == 1.0 else (0.0, float(1 - bound))
    return float(max(0.0, area - half)), float(min(1.0, area + half))


def _placements(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each positive the share of negatives below it, and the mirror image of that."""
    p, n = len(positive), len(negative)
    ranks = mid_ranks(np.concatenate([positive, negative]))
    below = (ranks[:p] - mid_ranks(positive)) / n
    above = 1 - (ranks[p:] - mid_ranks(negative)) / p
    return below, above
