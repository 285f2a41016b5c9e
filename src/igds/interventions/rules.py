"""How a feature is changed: the vector that is added to the residual stream at t*."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

RULE = "amplify"
"""Name of the one rule there is so far, as artifacts record it."""


def amplify(
    activations: Float[Tensor, " features"],
    directions: Float[Tensor, "features d_model"],
    coefficient: float,
) -> Float[Tensor, "features d_model"]:
    """Return `coefficient * a_f * W_dec[f]`: the feature's own contribution once more (eq. 3-4).

    It is zero where the feature is not active. A coefficient of -1 ablates the feature.
    """
    return coefficient * activations[:, None] * directions
