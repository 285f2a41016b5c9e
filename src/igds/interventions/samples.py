"""Exact deltas of features on examples, in the form of `intervene/samples.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from igds.features import FeatureId
from igds.interventions.exact import Prefix, exact_deltas, run_prefix
from igds.interventions.examples import Example
from igds.interventions.rules import amplify
from igds.interventions.screen import group_by_layer
from igds.saes.sae import FeatureEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST = 5
"""An edit at the cue mostly moves the response's first tokens: deltas are also given without."""

SAMPLES = pa.schema(
    {
        "feature": pa.string(),
        "row_id": pa.string(),
        "activation": pa.float64(),
        "delta": pa.float64(),
        "delta_contrast": pa.float64(),
        "delta_without_first_5": pa.float64(),
        "delta_answer": pa.float64(),
        "delta_by_token": pa.list_(pa.float32()),
    }
)
"""Columns of what a worker returns; deltas in nats (per response token), null where undefined."""


def exact_samples(
    model: PreTrainedModel,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    examples: Sequence[Example],
    *,
    coefficient: float,
    batch_tokens: int,
    contrast: bool,
) -> pa.Table:
    """Return one row an example and feature, with the columns of `SAMPLES`.

    Args:
        model: a causal model in eval mode.
        saes: one SAE a block.
        features: the features to amplify, one at a time.
        examples: where; their responses are teacher-forced.
        coefficient: multiple of the feature's own contribution that is added.
        batch_tokens: tokens a branch batch.
        contrast: also measure on the contrast response, at the same cost again.
    """
    grouped = group_by_layer(saes, features)
    rows = []
    for example in examples:
        prefix = run_prefix(model, example.prompt_ids, [sae.layer for sae, _ in grouped])
        other = example.contrast_ids if contrast else None
        for sae, indices in grouped:
            state = prefix.states[sae.layer].cpu()
            acts = sae.encode_columns(state[None], indices)[0]
            vectors = amplify(acts, sae.decoder_rows(indices), coefficient)
            measured = (model, prefix, sae.layer, vectors)
            own = _deltas(*measured, example.response_ids, batch_tokens)
            far = None if other is None else _deltas(*measured, other, batch_tokens).mean(1)
            for place, index in enumerate(indices):
                name = str(FeatureId(sae.layer, index))
                far_mean = None if far is None else float(far[place])
                rows.append(_sample(name, example, float(acts[place]), own[place], far_mean))
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def control_samples(
    model: PreTrainedModel,
    sae: FeatureEncoder,
    feature: FeatureId,
    examples: Sequence[Example],
    vectors: Float[Tensor, "controls d_model"],
    *,
    batch_tokens: int,
) -> pa.Table:
    """Return row_id and `delta`, one row an example: the delta under each control, in order.

    Args:
        model: a causal model in eval mode.
        sae: that of the feature's block.
        feature: whose activation scales the vectors.
        examples: where; their responses are teacher-forced.
        vectors: what is added for an activation of 1.
        batch_tokens: tokens a branch batch.
    """
    rows = []
    for example in examples:
        prefix = run_prefix(model, example.prompt_ids, [feature.layer])
        state = prefix.states[feature.layer].cpu()
        activation = float(sae.encode_columns(state[None], [feature.index])[0, 0])
        by_token = _deltas(
            model, prefix, feature.layer, activation * vectors, example.response_ids, batch_tokens
        )
        rows.append({"row_id": example.row_id, "delta": by_token.mean(1).tolist()})
    return pa.Table.from_pylist(
        rows, schema=pa.schema({"row_id": pa.string(), "delta": pa.list_(pa.float64())})
    )


def _deltas(
    model: PreTrainedModel,
    prefix: Prefix,
    layer: int,
    vectors: Float[Tensor, "features d_model"],
    ids: Sequence[int],
    batch_tokens: int,
) -> Float[Tensor, "features tokens"]:
    """Return deltas by token in float64; exactly 0, and not run, where nothing is added."""
    deltas = torch.zeros(len(vectors), len(ids), dtype=torch.float64)
    live = vectors.any(dim=1)
    found = exact_deltas(
        model, prefix, layer, vectors[live].to(model.device), ids, batch_tokens=batch_tokens
    )
    deltas[live] = found.cpu().double()
    return deltas


def _sample(
    feature: str,
    example: Example,
    activation: float,
    by_token: Float[Tensor, " tokens"],
    far_mean: float | None,
) -> dict[str, object]:
    """Return one row of the table."""
    delta = float(by_token.mean())
    rest = by_token[FIRST:]
    answer = by_token[slice(*example.answer)] if example.answer else by_token[:0]
    return {
        "feature": feature,
        "row_id": example.row_id,
        "activation": activation,
        "delta": delta,
        "delta_contrast": None if far_mean is None else delta - far_mean,
        "delta_without_first_5": float(rest.mean()) if len(rest) else None,
        "delta_answer": float(answer.mean()) if len(answer) else None,
        "delta_by_token": by_token.tolist(),
    }
