"""How well an SAE describes given residuals."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from igds.saes.sae import SAE

_ROWS = 512
"""Residuals encoded at a time."""


def sae_quality(sae: SAE, residuals: Float[Tensor, "n d_in"]) -> dict[str, float | None]:
    """Return explained variance (1 is perfect), l0 and dead share (0-1) on the residuals.

    Explained variance is 1 - sum |x - x_hat|^2 / sum |x - mean|^2 over all rows; l0 the mean
    number of active features a row; dead share that of the features active on no row; edge cases
    are the values that rounding could turn on or off.
    Explained variance is None where residuals do not vary.

    Raises:
        ValueError: there are no residuals.
    """
    if not len(residuals):
        raise ValueError("SAE quality needs residuals, and there are none")
    mean = residuals.float().mean(dim=0)
    error = variance = active = 0.0
    edges = 0
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    for rows in residuals.split(_ROWS):
        x = rows.float()
        pre = sae.pre_activations(x)
        acts = sae.activate(pre)
        edges += int(sae.near_cut(pre).sum())
        error += float((sae.decode(acts) - x).double().square().sum())
        variance += float((x - mean).double().square().sum())
        active += float((acts > 0).sum())
        fired |= (acts > 0).any(dim=0)
    return {
        "explained_variance": 1 - error / variance if variance else None,
        "l0": active / len(residuals),
        "dead_share": 1 - float(fired.float().mean()),
        "edge_cases": edges,
    }
