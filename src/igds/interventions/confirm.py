"""What S3 says of the declared family: the test, who is confirmed, how many prompts it takes.

The error rate with several task features (K > 1): the family's features are tested by max-T, then
the first K confirmed ones, in S2 order, once more together. That group is chosen by S3 itself, so
its test is not simply one more member of the family: many groups could have been chosen, and those
that S3 flatters are. But each is made of some of the n features of the family that are usable by
what was known before S3, and there are C(n, m) groups of m of them. `joint_level` gives each size
from 2 to K an equal part of `JOINT`, and each group of a size an equal part of that: levels that
stand before S3 is read and add up to `JOINT` over all groups. Whatever depends on what, the chance
that a useless feature is confirmed, or a group that does not help together, is then at most
(ALPHA - JOINT) + JOINT = ALPHA. The price: of 10 usable features two together must reach a p of
2.2e-4 at K = 2 and of 1.1e-4 at K = 3, a t of about 3.6 and 3.8. Two that pass alone at the
family's level (a t of about 2.7) do so when they add up with noise of their own; two that share
all their noise, as near copies do, must each be clearer than the family's test asks. The most
groups are of half the features: with n and K of 10 and 5 confirmed, a p of 4.4e-6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
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
"""Chance that anything is confirmed that does not help."""
JOINT = 0.01
"""Part of it that is kept for what the task features do together, where there are several."""
JOINT_FLIPS = 25 * FLIPS
"""Random sign flips of the one joint test: enough for any group of 10 features."""
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
    """Adjusted over the family by max-T; of a group, over all that could have been chosen."""
    q: float | None
    """Benjamini-Hochberg; None of a group."""


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
        RequestError: see `check_flips`.
    """
    if not family:
        return {}
    check_flips(len(family), top_k=1)
    values, rows = delta_matrix(samples, family)
    found = sign_flip_test(values, [clusters[row] for row in rows], seed=seed)
    return {
        name: Evidence(**{key: float(getattr(found, key)[place]) for key in COLUMNS})
        for place, name in enumerate(family)
    }


def check_flips(family: int, top_k: int) -> None:
    """Refuse a family of more features than the sign flips can tell apart.

    Args:
        family: features in it.
        top_k: features asked for, K.

    Raises:
        RequestError: the smallest p of the flips is not below the level each test needs.
    """
    if family and feature_level(top_k) / family <= 1 / (FLIPS + 1):
        raise RequestError(
            f"{FLIPS} sign flips cannot confirm one of {family} features: lower intervene.confirm_n"
        )


def feature_level(top_k: int) -> float:
    """Return the family-wise level of the single features, 0-1."""
    return ALPHA if top_k == 1 else ALPHA - JOINT


def joint_level(members: int, usable: int, top_k: int) -> float:
    """Return the level of the joint test of a group, 0-1: see the top of this file.

    Args:
        members: features in it, 2 or more.
        usable: features of the family that could be in it, by what was known before S3.
        top_k: features asked for, K.
    """
    return JOINT / (min(top_k, usable) - 1) / comb(usable, members)


def joint_evidence(
    samples: pa.Table, clusters: Mapping[str, str], level: float, seed: int
) -> Evidence:
    """Return the test of a group's delta on S3; `p_family` is to be compared with `JOINT`.

    Args:
        samples: of the group alone.
        clusters: row id -> hash of its prompt.
        level: of this group, `joint_level`.
        seed: of the sign flips.
    """
    rows = samples["row_id"].to_pylist()
    values, names = samples["delta"].to_numpy()[None], [clusters[row] for row in rows]
    found = sign_flip_test(values, names, flips=JOINT_FLIPS, seed=seed)
    p = float(found.p[0])
    return Evidence(t=float(found.t[0]), p=p, p_family=min(1.0, p * JOINT / level), q=None)


def delta_matrix(
    samples: pa.Table, features: Sequence[str], column: str = "delta"
) -> tuple[Float[np.ndarray, "features prompts"], list[str]]:
    """Return the deltas of features, or another column, by prompt of one split, and the row ids."""
    values, rows = [], []
    samples = samples.select(["feature", "row_id", column])
    for name in features:
        own = samples.filter(pc.equal(samples["feature"], name)).sort_by("row_id")
        values.append(own[column].to_numpy())
        rows = own["row_id"].to_pylist()
    return np.stack(values), rows


def unconfirmed(found: Evidence, effect: Mapping[str, Any], delta_min: float, level: float) -> str:
    """Return why S3 does not confirm a feature or group at a level; empty when it does.

    The family test must find its delta, and the intervals must end above `delta_min` for the delta,
    above 0 for the contrast and for the response without its first 5 tokens (where there is more):
    by their means alone a quarter of all format features would pass.
    """
    if found.p_family > level:
        return f"not confirmed on S3: family-wise p {found.p_family:.3f}, over {level:g}"
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


def bars(samples: pa.Table, feature: str, alpha: float, delta_min: float) -> list[Bar]:
    """Return all that S3 must show of a feature, by its samples there.

    Args:
        samples: exact deltas of a split.
        feature: its name.
        alpha: level of the family divided by its features.
        delta_min: smallest delta worth having.
    """
    own = samples.filter(pc.equal(samples["feature"], feature))
    found = [
        Bar(values=own["delta"].to_numpy(), above=0.0, alpha=alpha),
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
        deviation = float(bar.values.std(ddof=1)) if len(bar.values) > 1 else 0.0
        one = prompts_for(margin, deviation, bar.alpha)
        if one is None:
            return None
        needed = max(needed, one)
    return needed


def prompts_for(margin: float, deviation: float, alpha: float) -> int | None:
    """Return how many prompts show a margin at a deviation between prompts, 9 times in 10.

    None for a margin that is not above 0.

    Args:
        margin: true mean above the bar, nats a token.
        deviation: standard deviation between prompts, nats a token.
        alpha: one-sided level of the test, 0-1.
    """
    if margin <= 0:
        return None
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(POWER)
    return max(2, int(np.ceil((z * deviation / margin) ** 2)))


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
