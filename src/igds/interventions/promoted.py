"""Tokens that a feature's direction raises when nothing after its block changes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from torch import nn

from igds.errors import RequestError
from igds.features import FeatureId
from igds.models.blocks import decoder
from igds.models.likelihood import head_logits
from igds.reading.activations import group_by_layer
from igds.saes.sae import FeatureEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f")
"""Names of the norm between the last block and the head."""


@torch.no_grad()
def promoted_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    *,
    top: int = 10,
) -> pa.Table:
    """Return feature, rank (from 1), token (its text) and logit of the `top` raised tokens.

    The logit is what the final norm and the head make of `W_dec[f]` alone: directions compare
    in their order of tokens, not in size.
    """
    rows = []
    for sae, indices in group_by_layer(saes, features):
        directions = sae.decoder_rows(indices).to(model.device, model.dtype)
        best = head_logits(model, final_norm(model)(directions)).topk(top, dim=1)
        for index, values, ids in zip(indices, *best, strict=True):
            for rank, (value, token) in enumerate(zip(values, ids, strict=True), start=1):
                rows.append(
                    {
                        "feature": str(FeatureId(sae.layer, index)),
                        "rank": rank,
                        "token": tokenizer.decode([int(token)]),
                        "logit": float(value),
                    }
                )
    types = {"feature": pa.string(), "rank": pa.int32(), "token": pa.string()}
    return pa.Table.from_pylist(rows, schema=pa.schema({**types, "logit": pa.float64()}))


def final_norm(model: PreTrainedModel) -> nn.Module:
    """Return the norm between the last block and the head.

    Raises:
        RequestError: the decoder keeps it under a name that igds does not know.
    """
    for name, module in decoder(model).named_children():
        if name in _NORMS:
            return module
    raise RequestError(
        f"{type(model).__name__} has no final norm named {', '.join(_NORMS)} in its decoder: the "
        "tokens that features promote cannot be told, so interventions need another model"
    )
