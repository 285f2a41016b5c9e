"""A share with its interval."""

from __future__ import annotations

from math import nan, sqrt
from statistics import NormalDist

from igds.stats import LEVEL


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the ends of Wilson's score interval of a share, 0-1; NaN when there is nothing."""
    if n == 0:
        return nan, nan
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share, scale = hits / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    return centre - half, centre + half
