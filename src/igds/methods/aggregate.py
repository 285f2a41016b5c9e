"""How the activations of several task features become one pool score: a weighted sum (eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from igds.errors import RequestError
from igds.features import FeatureId
from igds.saes.load import SAESpec, open_sae


def aggregate(
    kind: str,
    features: Sequence[FeatureId],
    saes: Mapping[int, SAESpec],
    residuals: Path,
    deltas: Sequence[float],
) -> tuple[dict[str, float], float]:
    """Return (weight of each feature's activation, number to add): the pool score is their sum.

    raw: 1 each (the paper). folded: the length of the feature's decoder row, so that features count
    by what they write. zscore: activations in deviations from their mean over the prior prompts.
    delta_weighted: those, weighted by each feature's delta on S2, clipped at 0 and summing to 1.
    auto: raw for one feature, folded for more. For one feature all of them rank alike.

    Args:
        kind: one of the five.
        features: the task features, in order.
        saes: block -> SAE, on disk.
        residuals: the recall stage's folder of residuals.
        deltas: S2 delta of each feature.

    Raises:
        RequestError: a feature does not vary over the prior prompts, or no delta is above 0.
    """
    if kind == "auto":
        kind = "raw" if len(features) == 1 else "folded"
    if kind == "raw":
        return {str(feature): 1.0 for feature in features}, 0.0
    if kind == "folded":
        norms = (open_sae(saes[f.layer]).decoder_rows([f.index]).norm() for f in features)
        return {str(f): float(norm) for f, norm in zip(features, norms, strict=True)}, 0.0
    shares = [1.0] * len(features)
    if kind == "delta_weighted":
        clipped = [max(0.0, delta) for delta in deltas]
        if not sum(clipped):
            raise RequestError(
                "score.aggregate delta_weighted needs a task feature with a delta above 0 on S2"
            )
        shares = [delta / sum(clipped) for delta in clipped]
    weights, offset = {}, 0.0
    for feature, share in zip(features, shares, strict=True):
        mean, deviation = _prior_moments(feature, saes[feature.layer], residuals)
        weights[str(feature)] = share / deviation
        offset -= share * mean / deviation
    return weights, offset


def _prior_moments(feature: FeatureId, sae: SAESpec, residuals: Path) -> tuple[float, float]:
    """Return mean and deviation of a feature's activation over the prior prompts."""
    prior = load_file(residuals / f"L{feature.layer}.safetensors")["prior"]
    column = open_sae(sae).columns([feature.index])
    acts = column.encode_columns(prior, [feature.index])[:, 0].double()
    deviation = float(torch.std(acts, correction=0))
    if deviation == 0:
        raise RequestError(
            f"{feature} is the same on all prior prompts, so it has no z score: take "
            "score.aggregate raw or folded"
        )
    return float(acts.mean()), deviation
