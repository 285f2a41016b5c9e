"""How well an SAE describes given residuals."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from igds.saes.sae import SAE

_ROWS = 2048
"""Residuals encoded at a time."""


def sae_quality(sae: SAE, residuals: Float[Tensor, "n d_in"]) -> dict[str, float]:
    """Return explained variance (1 is perfect), l0 and dead share (0-1) on the residuals.

    Explained variance is 1 - sum |x - x_hat|^2 / sum |x - mean|^2 over all rows; l0 the mean
    number of active features a row; dead share that of the features active on no row.

    Raises:
        ValueError: fewer than two residuals, which have no variance.
    """
    if len(residuals) < 2:
        raise ValueError(f"SAE quality needs two residuals or more, not {len(residuals)}")
    mean = residuals.float().mean(dim=0)
    error = variance = active = 0.0
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    for rows in residuals.split(_ROWS):
        x = rows.float()
        acts = sae.encode(x)
        error += float((sae.decode(acts) - x).double().square().sum())
        variance += float((x - mean).double().square().sum())
        active += float((acts > 0).sum())
        fired |= (acts > 0).any(dim=0)
    return {
        "explained_variance": 1 - error / variance,
        "l0": active / len(residuals),
        "dead_share": 1 - float(fired.float().mean()),
    }
