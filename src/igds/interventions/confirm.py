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

from igds.errors import RequestError
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
        RequestError: the smallest p of the flips is not below the level each test needs.
    """
    if not family:
        return {}
    values, rows = delta_matrix(samples, family)
    if ALPHA / len(family) <= 1 / (FLIPS + 1):
        raise RequestError(
            f"{FLIPS} sign flips cannot confirm one of {len(family)} features: lower "
            "intervene.confirm_n"
        )
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One thing that S3 must show of a feature."""

    values: Float[np.ndarray, " prompts"]
    """Per prompt, nats a token."""
    above: float
    """What their mean must exceed."""
    alpha: float
    """One-sided level, 0-1."""


def bars(samples: pa.Table, feature: str, family: int, delta_min: float) -> list[Bar]:
    """Return all that S3 must show of a feature, by its samples there."""
    own = samples.filter(pc.equal(samples["feature"], feature))
    found = [
        Bar(values=own["delta"].to_numpy(), above=0.0, alpha=ALPHA / family),
        Bar(values=own["delta"].to_numpy(), above=delta_min, alpha=ALPHA / 2),
    ]
    for column in ("delta_contrast", "delta_without_first_5"):
        values = own[column].drop_null().to_numpy()
        if len(values):
            found.append(Bar(values=values, above=0.0, alpha=ALPHA / 2))
    return found


def prompts_needed(found: Sequence[Bar]) -> int | None:
    """Return how many prompts would clear each bar at these means and deviations, 9 times in 10.

    None where a mean is not above its bar: no number of prompts would.
    """
    needed = 2
    for bar in found:
        margin = float(bar.values.mean()) - bar.above
        if margin <= 0:
            return None
        z = NormalDist().inv_cdf(1 - bar.alpha) + NormalDist().inv_cdf(POWER)
        deviation = float(bar.values.std(ddof=1)) if len(bar.values) > 1 else 0.0
        needed = max(needed, int(np.ceil((z * deviation / margin) ** 2)))
    return needed


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
