"""Features that resemble a task feature on the pool in how often and how strongly they fire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from igds.errors import NoStandIn
from igds.features import FeatureId
from igds.saes.sae import SAE

CALIPER = 0.1
"""Largest difference of pool frequency to the task feature's."""
SAME = 0.7
"""Decoder cosine above which a feature is the task feature over again."""
SAMPLE = 1000
"""Rows of the pool, drawn by the seed, on which frequencies and spreads are measured."""
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One feature beside the task feature that it stands in for."""

    task_feature: FeatureId
    """What it stands in for."""
    feature: FeatureId
    """A feature of the same SAE."""
    frequency: float
    """Share of the sampled pool rows with activation over 0, 0-1."""
    task_frequency: float
    """The same of the task feature."""
    deviation: float
    """Standard deviation of the activation over those rows, in the SAE's unit."""
    task_deviation: float
    """The same of the task feature."""


def matched_draws(
    features: Sequence[FeatureId],
    saes: Mapping[int, SAE],
    residuals: Mapping[int, Float[Tensor, "rows d_model"]],
    draws: int,
) -> list[list[Match]]:
    """Return up to `draws` sets of stand-ins, nearest first: one a task feature, none used twice.

    A stand-in is of the same SAE, its frequency within `CALIPER`; near is a small sum of the
    frequencies' difference, in calipers, and of the spreads' ratio, as its logarithm's size.

    Args:
        features: the task features.
        saes: block -> SAE.
        residuals: block -> residuals of pool rows at t*.
        draws: sets wanted; fewer come back when a feature has no more stand-ins.

    Raises:
        NoStandIn: a task feature is the same on all rows, so that nothing resembles it.
    """
    ranked = {
        feature: _nearest(feature, features, saes[feature.layer], residuals[feature.layer])
        for feature in features
    }
    used: set[FeatureId] = set()
    found: list[list[Match]] = []
    while len(found) < draws:
        drawn: list[Match] = []
        for feature in features:
            free = (match for match in ranked[feature] if match.feature not in used)
            match = next(free, None)
            if match is None:
                return found
            used.add(match.feature)
            drawn.append(match)
        found.append(drawn)
    return found


def _nearest(
    feature: FeatureId,
    task: Sequence[FeatureId],
    sae: SAE,
    residuals: Float[Tensor, "rows d_model"],
) -> list[Match]:
    """Return the stand-ins of one task feature, nearest first."""
    frequency, deviation = _moments(sae, residuals)
    own_frequency, own_deviation = frequency[feature.index], deviation[feature.index]
    if own_deviation == 0:
        raise NoStandIn(
            f"{feature} is the same on all {len(residuals)} sampled rows of the pool: no feature "
            "resembles it, so leave igds-matched out",
            0,
        )
    cosine = functional.cosine_similarity(sae.W_dec, sae.W_dec[feature.index][None], dim=1)
    apart = np.abs(frequency - own_frequency)
    usable = (apart <= CALIPER) & (deviation > 0) & (cosine.abs().numpy() <= SAME)
    usable[[one.index for one in task if one.layer == feature.layer]] = False
    places = np.flatnonzero(usable)
    spread = np.abs(np.log(deviation[places] / own_deviation))
    order = places[np.argsort(apart[places] / CALIPER + spread, kind="stable")]
    return [
        Match(
            task_feature=feature,
            feature=FeatureId(feature.layer, int(index)),
            frequency=float(frequency[index]),
            task_frequency=float(own_frequency),
            deviation=float(deviation[index]),
            task_deviation=float(own_deviation),
        )
        for index in order
    ]


def _moments(
    sae: SAE, residuals: Float[Tensor, "rows d_model"]
) -> tuple[Float[np.ndarray, " d_sae"], Float[np.ndarray, " d_sae"]]:
    """Return frequency and standard deviation of every feature's activation over the rows."""
    active = torch.zeros(sae.d_sae, dtype=torch.float64)
    total, squares = torch.zeros_like(active), torch.zeros_like(active)
    for chunk in residuals.split(_BATCH):
        acts = sae.encode(chunk).double()
        active += (acts > 0).sum(dim=0)
        total += acts.sum(dim=0)
        squares += acts.square().sum(dim=0)
    n = len(residuals)
    variance = (squares / n - (total / n).square()).clamp(min=0)
    # What rounding leaves of a constant is no spread.
    variance[variance < 1e-12 * squares / n] = 0
    return (active / n).numpy(), variance.sqrt().numpy()
