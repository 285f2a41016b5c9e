"""The untrained double of an SAE: random directions that fire as often, and as strongly."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from igds.data.seeds import seeded_bits
from igds.features import FeatureId
from igds.saes.sae import AS_STORED, SAE
from igds.saes.topk import BLOCK

STORED = torch.float16
"""Dtype of the directions on disk."""
_ROWS = 512
"""Residuals encoded at a time."""


class Activity(NamedTuple):
    """What an SAE's features do on some residuals."""

    count: Int[Tensor, " d_sae"]
    """Residuals on which a feature is active."""
    strength: Float[Tensor, " d_sae"]
    """Mean activation there, times the norm of the decoder row; 0 where there are none."""


def random_directions(seed: int, layer: int, d_sae: int, d_in: int) -> Float[Tensor, "d_sae d_in"]:
    """Return a unit vector a feature, uniform on the sphere, from seed, block and index alone."""
    rows = torch.empty(d_sae, d_in)
    for index in range(d_sae):
        bits = seeded_bits(seed, "sae-directions", str(FeatureId(layer, index)))
        draw = np.random.default_rng(bits).standard_normal(d_in, dtype=np.float32)
        rows[index] = torch.from_numpy(draw)
    return rows / rows.norm(dim=1, keepdim=True)


def activity(sae: SAE, residuals: Float[Tensor, "n d_in"]) -> Activity:
    """Return how often, and how strongly, each feature is active on the residuals."""
    count = torch.zeros(sae.d_sae, dtype=torch.long)
    total = torch.zeros(sae.d_sae, dtype=torch.float64)
    for rows in residuals.split(_ROWS):
        acts = sae.encode(rows)
        count += (acts > 0).sum(dim=0)
        total += acts.sum(dim=0, dtype=torch.float64)
    mean = (total / count.clamp(min=1)).float()
    return Activity(count, mean * sae.W_dec.norm(dim=1))


def untrained_sae(sae: SAE, residuals: Float[Tensor, "n d_in"], seed: int) -> SAE:
    """Return an SAE of random unit directions that is active as often as a given one.

    A JumpReLU SAE of the same block and width, its encoder tied to the decoder. On the residuals
    each feature is active on as many rows as its namesake, those with the longest projections on
    its direction; its bias makes the mean activation there that of the namesake, times the norm of
    the decoder row, or the least more that keeps all of them over 0.

    Args:
        sae: the trained one; of it the decoder bias stays, which moves no feature.
        residuals: where both are compared.
        seed: root of the directions.

    Raises:
        ValueError: there are fewer than two residuals.
    """
    if len(residuals) < 2:
        raise ValueError(f"frequencies are matched on two residuals or more, not {len(residuals)}")
    directions = random_directions(seed, sae.layer, sae.d_sae, sae.d_in)
    # Rounded first: thresholds are then those of the weights that are written.
    directions = directions.to(STORED).float()
    wanted, x = activity(sae, residuals), sae.centred(residuals)
    b_enc, threshold = torch.empty(sae.d_sae), torch.empty(sae.d_sae)
    for block in torch.arange(sae.d_sae).split(BLOCK):
        b_enc[block], threshold[block] = _matched(
            x @ directions[block].T, wanted.count[block], wanted.strength[block]
        )
    return dataclasses.replace(
        sae,
        activation="jumprelu",
        W_enc=directions.T,
        W_dec=directions,
        b_enc=b_enc,
        threshold=threshold,
        k=None,
        unit=AS_STORED,
        neuronpedia_id=None,
        published_l0=None,
        release=f"untrained double of {sae.release}",
        revision="",
    )


def _matched(
    projections: Float[Tensor, "n features"],
    count: Int[Tensor, " features"],
    strength: Float[Tensor, " features"],
) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    """Return bias and threshold that let the `count` longest projections of each feature through.

    The cut is in the middle between the last that passes and the next; beyond the ends a mean
    spacing is thought to follow, so that the share passing elsewhere is near 0 or 1 there too.
    """
    n = len(projections)
    ordered = projections.sort(dim=0, descending=True).values
    spacing = (ordered[:1] - ordered[-1:]) / n
    bounded = torch.cat([ordered[:1] + spacing, ordered, ordered[-1:] - spacing])
    cut = bounded.gather(0, torch.stack([count, count + 1])).mean(dim=0)
    passing = torch.arange(n)[:, None] < count
    mean = torch.where(passing, ordered - cut, 0).sum(dim=0) / count.clamp(min=1)
    # What passes is over 0 by at least its distance to the cut.
    bias = (strength - mean).clamp(min=0) - cut
    return bias, cut + bias
