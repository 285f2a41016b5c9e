"""Activations of chosen features: at the read position, or on every token of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from igds.features import FeatureId
from igds.models.blocks import decoder
from igds.models.capture import capture
from igds.saes.load import SAESpec, open_sae
from igds.saes.sae import FeatureEncoder
from igds.saes.stored import SAEColumns

Group = tuple[FeatureEncoder, list[int]]
"""An SAE and the indices of some of its features."""


def columns_by_layer(
    saes: Mapping[str, Mapping[str, Any]], features: Sequence[FeatureId]
) -> list[SAEColumns]:
    """Return for each block with features its SAE, of which only these features are read.

    Args:
        saes: block, as text, -> fields of its `SAESpec`.
        features: any number a block.
    """
    return [
        open_sae(SAESpec(**saes[str(layer)])).columns(
            [f.index for f in features if f.layer == layer]
        )
        for layer in sorted({feature.layer for feature in features})
    ]


def group_by_layer(saes: Sequence[FeatureEncoder], features: Sequence[FeatureId]) -> list[Group]:
    """Return (SAE, indices of its features in order) for each block with features, by block.

    Raises:
        ValueError: a feature's block has no SAE, or the SAE no such feature.
    """
    by_layer = {sae.layer: sae for sae in saes}
    for feature in features:
        if feature.layer not in by_layer:
            raise ValueError(
                f"{feature}: no SAE reads block {feature.layer}; there are SAEs of "
                f"{sorted(by_layer)}"
            )
        width = by_layer[feature.layer].d_sae
        if feature.index >= width:
            raise ValueError(f"{feature}: that SAE has {width} features, from 0")
    return [
        (by_layer[layer], [feature.index for feature in features if feature.layer == layer])
        for layer in sorted({feature.layer for feature in features})
    ]


def read_activations(
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    residuals: Mapping[int, Float[Tensor, "rows d_model"]],
) -> Float[Tensor, "rows features"]:
    """Return the activations of features, in their order, from residuals by block.

    Raises:
        ValueError: a feature's block has no SAE, or the SAE no such feature.
    """
    rows = len(next(iter(residuals.values())))
    acts = torch.empty(rows, len(features))
    for sae, indices in group_by_layer(saes, features):
        places = [place for place, feature in enumerate(features) if feature.layer == sae.layer]
        acts[:, places] = sae.encode_columns(residuals[sae.layer], indices)
    return acts


def token_activations(
    model: nn.Module,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    ids: Sequence[int],
) -> Float[Tensor, "tokens features"]:
    """Return the activations of features, in their order, on every token of one prompt.

    Raises:
        ValueError: a feature's block has no SAE or is not in the model.
    """
    text = decoder(model)
    tokens = torch.tensor([list(ids)], device=next(text.parameters()).device)
    with capture(text, {feature.layer for feature in features}) as kept:
        text(input_ids=tokens, use_cache=False)
    return read_activations(
        saes, features, {layer: hidden[0].float().cpu() for layer, hidden in kept.items()}
    )
