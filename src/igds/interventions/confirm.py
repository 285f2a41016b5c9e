"""What S3 says of the declared family: the test, who is confirmed, how many prompts it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from igds.stats.rank import spearman
from igds.stats.signflip import FLIPS, sign_flip_test

ALPHA = 0.05
"""Chance that a family without any helpful feature has one confirmed."""
POWER = 0.9
"""Chance of confirming a feature that `prompts_needed` aims at."""


COLUMNS = ("t", "p", "p_family", "q")
"""Fields of `Evidence`, and columns of `intervene/effects.parquet`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One feature's place in the family test on S3."""

    t: float
    """Mean delta over its standard error."""
    p: float
    """Alone, one-sided up."""
    p_family: float
    """Adjusted over the family by max-T."""
    q: float
    """Benjamini-Hochberg."""


def family_evidence(
    samples: pa.Table, family: Sequence[str], clusters: Mapping[str, str], seed: int
) -> dict[str, Evidence]:
    """Return each feature's test on the deltas of S3; nothing for an empty family.

    Args:
        samples: exact deltas of S3, one row a feature and prompt.
        family: the features declared in the plan.
        clusters: row id -> hash of its prompt.
        seed: of the sign flips.

    Raises:
        ValueError: the smallest p of the flips is not below the level each test needs.
    """
    if not family:
        return {}
    if ALPHA / len(family) <= 1 / (FLIPS + 1):
        raise ValueError(f"{FLIPS} flips cannot confirm one of {len(family)} features")
    values, rows = delta_matrix(samples, family)
    found = sign_flip_test(values, [clusters[row] for row in rows], seed=seed)
    return {
        name: Evidence(**{key: float(getattr(found, key)[place]) for key in COLUMNS})
        for place, name in enumerate(family)
    }


def delta_matrix(
    samples: pa.Table, features: Sequence[str]
) -> tuple[Float[np.ndarray, "features prompts"], list[str]]:
    """Return the deltas of features on the prompts of one split, and the prompts' row ids."""
    values, rows = [], []
    for name in features:
        own = samples.filter(pc.equal(samples["feature"], name)).sort_by("row_id")
        values.append(own["delta"].to_numpy())
        rows = own["row_id"].to_pylist()
    return np.stack(values), rows


def unconfirmed(found: Evidence, effect: Mapping[str, Any], delta_min: float) -> str:
    """Return why S3 does not confirm a feature; empty when it does.

    The family test must find its delta, and the intervals must end above `delta_min` for the delta,
    above 0 for the contrast and for the response without its first 5 tokens (where there is more):
    by their means alone a quarter of all format features would pass.
    """
    if found.p_family > ALPHA:
        return f"not confirmed on S3: family-wise p {found.p_family:.3f}, over {ALPHA:g}"
    bars = [("delta_low", "delta", delta_min), ("contrast_low", "contrast", 0.0)]
    if effect["n_without_first_5"]:
        bars.append(("without_first_5_low", "delta without the first 5 tokens", 0.0))
    for column, words, bar in bars:
        low = effect[column]
        if low is None or not low > bar:
            shown = "has no lower end" if low is None else f"starts at {low:+.4f}"
            return f"not confirmed on S3: the interval of its {words} {shown}, not above {bar:g}"
    return ""


def prompts_needed(deltas: Float[np.ndarray, " prompts"], family: int) -> int | None:
    """Return how many S3 prompts would confirm this mean at this deviation, 9 times in 10.

    None where the mean is not above 0: no number of prompts would.
    """
    mean, deviation = float(deltas.mean()), float(deltas.std(ddof=1)) if len(deltas) > 1 else 0.0
    if mean <= 0:
        return None
    z = NormalDist().inv_cdf(1 - ALPHA / max(1, family)) + NormalDist().inv_cdf(POWER)
    return max(2, int(np.ceil((z * deviation / mean) ** 2)))


def split_half_spearman(values: Float[np.ndarray, "features prompts"], seed: int) -> float:
    """Return the rank agreement of features' mean deltas between random halves, mean of 100."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(100):
        order = rng.permutation(values.shape[1])
        half = len(order) // 2
        found.append(spearman(values[:, order[:half]].mean(1), values[:, order[half:]].mean(1)))
    return float(np.mean(found))


def top_share(values: Float[np.ndarray, "features prompts"], seed: int, draws: int = 2000) -> float:
    """Return the share of bootstrap draws over prompts in which the best feature stays the best."""
    rng, n = np.random.default_rng(seed), values.shape[1]
    weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    return float(((weights @ values.T).argmax(axis=1) == values.mean(axis=1).argmax()).mean())
