"""Residuals in, numbers out: how an SAE fits a block, a scale and a cue."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from igds.saes.quality import sae_quality
from igds.saes.sae import SAE
from igds.stats.auroc import auroc, auroc_interval
from igds.stats.rank import spearman

MAX_NORM = 10
"""Residuals of more than this many median norms are sinks, which SAEs are not trained on."""
OCTAVES = 7
"""Input scales are tried from 2^-7 to 2^7."""
_LEVEL = 0.002
"""Explained variances this close are equal: of such scales the one nearest to 1 is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleFit:
    """The input scale at which an SAE reconstructs best."""

    scale: float
    """Factor on the residuals before encoding, divided out after decoding; 1 is none."""
    explained_variance: float
    """At that scale."""
    l0: float
    """Active features a token at that scale."""
    unit_scale: float
    """sqrt(d_model) / mean norm of these residuals: the scale that many trainers apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFit:
    """How one feature, read at t*, behaves under the cue."""

    index: int
    """SAE dimension, from 0."""
    specificity: float | None
    """AUROC of its activation between task and control prompts; None without control prompts."""
    specific: bool
    """Whether the AUROC is over 0.5 with 95 %."""
    stability: float | None
    """Spearman's correlation between its activation in the cue and in a paraphrase, over task and
    control prompts; the median of the paraphrases, None without any."""
    task_stability: float | None
    """The same over task prompts alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CueFit:
    """How the features that would be used behave under the cue."""

    features: tuple[FeatureFit, ...]
    """Those of the task, or those that recall would keep."""
    stability: float | None
    """Median over features and paraphrases; None without either."""
    task_stability: float | None
    """The same over task prompts alone."""


def typical(
    residuals: Float[Tensor, "tokens d_model"], bos: Bool[Tensor, " tokens"]
) -> Bool[Tensor, " tokens"]:
    """Return which tokens are neither BOS nor sinks of more than `MAX_NORM` median norms."""
    norms = residuals.norm(dim=1)
    # Of no tokens the median is NaN, and nothing is below it.
    return ~bos & (norms <= MAX_NORM * norms[~bos].median())


def fit_by_block(
    sae: SAE, residuals: Mapping[int, Float[Tensor, "tokens d_model"]], bos: Bool[Tensor, " tokens"]
) -> dict[int, float | None]:
    """Return block -> variance (1 is all) that the SAE explains of that block's typical tokens."""
    return {
        layer: sae_quality(sae, x[typical(x, bos)])["explained_variance"]
        for layer, x in residuals.items()
    }


def best_scale(sae: SAE, residuals: Float[Tensor, "tokens d_model"]) -> ScaleFit:
    """Return the input scale that suits the SAE best: every octave, then quarters of the best."""
    tried = {2.0**power: _at_scale(sae, residuals, 2.0**power) for power in _octaves()}
    around = _nearest_best(tried)
    for quarter in (-3, -2, -1, 1, 2, 3):
        scale = around * 2 ** (quarter / 4)
        tried[scale] = _at_scale(sae, residuals, scale)
    scale = _nearest_best(tried)
    variance, l0 = tried[scale]
    mean_norm = float(residuals.norm(dim=1).mean())
    return ScaleFit(
        scale=scale,
        explained_variance=variance,
        l0=l0,
        unit_scale=math.sqrt(residuals.shape[1]) / mean_norm if mean_norm else math.inf,
    )


def cue_fit(
    indices: Sequence[int],
    task: Sequence[Float[Tensor, "_ features"]],
    control: Sequence[Float[Tensor, "_ features"]],
) -> CueFit:
    """Return how features behave in the cue, which comes first, and in its paraphrases.

    Args:
        indices: SAE dimensions of the features.
        task: activations on task prompts, a matrix a template; paraphrases may have only the
            first rows.
        control: activations on control prompts, likewise.
    """
    n_task, n_control = len(task[-1]), len(control[-1])
    cue = torch.cat([task[0][:n_task], control[0][:n_control]])
    pairs = zip(task[1:], control[1:], strict=True)
    across = [_agreement(cue, torch.cat(pair)) for pair in pairs]
    within = [_agreement(task[0][:n_task], acts) for acts in task[1:]]
    return CueFit(
        features=tuple(
            FeatureFit(
                index=index,
                **_specificity(task[0][:, place].numpy(), control[0][:, place].numpy()),
                stability=_median([rho[place] for rho in across]),
                task_stability=_median([rho[place] for rho in within]),
            )
            for place, index in enumerate(indices)
        ),
        stability=_median(across),
        task_stability=_median(within),
    )


def _specificity(task: np.ndarray, control: np.ndarray) -> dict[str, Any]:
    """Return the AUROC of a feature, and whether it is over 0.5 beyond chance."""
    area = auroc(task, control) if len(control) else None
    return {"specificity": area, "specific": auroc_interval(task, control)[0] > 0.5}


def _octaves() -> range:
    return range(-OCTAVES, OCTAVES + 1)


def _at_scale(sae: SAE, residuals: Tensor, scale: float) -> tuple[float, float]:
    """Return explained variance and l0 of the scaled residuals.

    The share of variance is that of the residuals themselves, reconstruction divided by the scale.
    """
    quality = sae_quality(sae, residuals * scale)
    variance, l0 = quality["explained_variance"], quality["l0"]
    return -math.inf if variance is None else variance, l0 or 0.0


def _nearest_best(tried: Mapping[float, tuple[float, float]]) -> float:
    """Return the scale nearest to 1 of those that explain as much as the best."""
    top = max(variance for variance, _ in tried.values())
    equal = (scale for scale, (variance, _) in tried.items() if variance >= top - _LEVEL)
    return min(equal, key=lambda scale: abs(math.log(scale)))


def _agreement(
    cue: Float[Tensor, "rows features"], other: Float[Tensor, "rows features"]
) -> Float[np.ndarray, " features"]:
    """Return the rank correlation of each feature over the same rows in two templates.

    A feature that says the same of all rows in one of them ranks nothing: 0.
    """
    pairs = zip(cue.T.numpy(), other.T.numpy(), strict=True)
    return np.nan_to_num(np.array([spearman(x, y) for x, y in pairs], dtype=np.float64))


def _median(values: Sequence[Any]) -> float | None:
    """Return the median, None of nothing."""
    return float(np.median(values)) if np.size(values) else None
