"""Gradient screen: first-order estimates for all features of all blocks by one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from igds.features import FeatureId
from igds.interventions.exact import prompt_cache, share
from igds.interventions.examples import Example
from igds.models.blocks import decoder
from igds.models.capture import capture
from igds.models.likelihood import target_gradient
from igds.saes.sae import FeatureEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read_gradients(
    model: PreTrainedModel, example: Example, layers: Sequence[int]
) -> dict[int, tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]]:
    """Return layer -> (h at t*, gradient of the mean response log p at h), float32 on the CPU.

    The tokens before t* run without a graph, and nothing below the first of the layers is
    differentiated: a prompt costs about one forward and one backward over its response.
    """
    targets = torch.tensor(list(example.response_ids), device=model.device)
    segment = [example.prompt_ids[-1], *example.response_ids[:-1]]
    cache = share(prompt_cache(model, example.prompt_ids))
    with capture(model, layers, grad=True) as kept:
        hidden = decoder(model)(
            input_ids=torch.tensor([segment], device=model.device),
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
    _, upstream = target_gradient(model, hidden[0], targets)
    states = [kept[layer] for layer in layers]
    grads = torch.autograd.grad(hidden, states, upstream[None])
    return {
        layer: (state[0, 0].detach().float().cpu(), grad[0, 0].float().cpu())
        for layer, state, grad in zip(layers, states, grads, strict=True)
    }


def gradient_screen(
    model: PreTrainedModel,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    examples: Sequence[Example],
    *,
    coefficient: float = 1.0,
) -> pa.Table:
    """Return feature, row_id, activation and screen, one row an example and feature.

    `screen` is `c * a_f * <W_dec[f], d mean log p / d h_l(t*)>`, the first-order estimate of the
    delta in nats per response token. Frozen weights make it cheaper.
    """
    by_layer = group_by_layer(saes, features)
    parts = []
    for example in examples:
        found = read_gradients(model, example, [sae.layer for sae, _ in by_layer])
        for sae, indices in by_layer:
            state, grad = found[sae.layer]
            acts = sae.encode_columns(state[None], indices)[0]
            slopes = sae.decoder_rows(indices) @ grad
            parts.append(
                pa.table(
                    {
                        "feature": [str(FeatureId(sae.layer, index)) for index in indices],
                        "row_id": [example.row_id] * len(indices),
                        "activation": acts.double().numpy(),
                        "screen": (coefficient * acts * slopes).double().numpy(),
                    }
                )
            )
    return pa.concat_tables(parts)


def group_by_layer(
    saes: Sequence[FeatureEncoder], features: Sequence[FeatureId]
) -> list[tuple[FeatureEncoder, list[int]]]:
    """Return (SAE, indices of its features in order) for each block with features, by block.

    Raises:
        ValueError: a feature's block has no SAE, or the SAE no such feature.
    """
    by_layer = {sae.layer: sae for sae in saes}
    for feature in features:
        if feature.layer not in by_layer:
            raise ValueError(f"{feature}: no SAE reads block {feature.layer}")
        if feature.index >= by_layer[feature.layer].d_sae:
            raise ValueError(
                f"{feature}: that SAE has {by_layer[feature.layer].d_sae} features, from 0"
            )
    return [
        (by_layer[layer], [feature.index for feature in features if feature.layer == layer])
        for layer in sorted({feature.layer for feature in features})
    ]
