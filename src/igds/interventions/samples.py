"""Exact deltas of features on examples, in the form of `intervene/samples.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from igds.features import FeatureId
from igds.interventions.exact import push_effects, run_prefix
from igds.interventions.examples import Example
from igds.interventions.rules import Edit, Pushes
from igds.reading.activations import group_by_layer
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
        "push": pa.float64(),
        "kl": pa.float64(),
        "delta_by_token": pa.list_(pa.float32()),
    }
)
"""Columns of what a worker returns; deltas in nats (per response token), null where undefined.

`push` is the length of what is added at t* over that of the state there, `kl` the divergence
KL(unedited || edited) of the next token's distribution at t*, nats.
"""


def exact_samples(
    model: PreTrainedModel,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    examples: Sequence[Example],
    *,
    edit: Edit,
    batch_tokens: int,
    contrast: bool,
) -> pa.Table:
    """Return one row an example and feature, with the columns of `SAMPLES`.

    Args:
        model: a causal model in eval mode.
        saes: one SAE a block.
        features: the features to edit, one at a time.
        examples: where; their responses are teacher-forced.
        edit: what is done to each feature.
        batch_tokens: tokens a branch batch.
        contrast: also measure on the contrast response, at the same cost again.
    """
    grouped = [
        edit.pushes(sae, indices, model.device) for sae, indices in group_by_layer(saes, features)
    ]
    rows = []
    for example in examples:
        prefix = run_prefix(model, example.prompt_ids, [pushes.sae.layer for pushes in grouped])
        other = example.contrast_ids if contrast else None
        for pushes in grouped:
            layer = pushes.sae.layer
            state = prefix.states[layer]
            acts = pushes.acts(state[None])
            vectors = pushes.vectors(acts)[:, 0]
            measured = (model, prefix, pushes, vectors)
            own = push_effects(*measured, example.response_ids, batch_tokens=batch_tokens)
            columns = {
                "activation": acts[0].tolist(),
                # One model over several GPUs: the state is where its block is.
                "push": (vectors.norm(dim=1) / state.norm().to(vectors)).tolist(),
                "kl": own.kl.tolist(),
                "far": [None] * len(vectors),
            }
            if other is not None:
                far = push_effects(*measured, other, batch_tokens=batch_tokens)
                columns["far"] = far.by_token.mean(1).tolist()
            for place, index in enumerate(pushes.indices):
                facts = {column: values[place] for column, values in columns.items()}
                name = str(FeatureId(layer, index))
                rows.append(sample_row(name, example, own.by_token[place], **facts))
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def control_samples(
    model: PreTrainedModel,
    sae: FeatureEncoder,
    feature: FeatureId,
    examples: Sequence[Example],
    vectors: Float[Tensor, "controls d_model"],
    doses: Bool[Tensor, " controls"],
    *,
    edit: Edit,
    batch_tokens: int,
) -> pa.Table:
    """Return row_id and `delta`, one row an example: the delta under each control, in order.

    A control goes as far as the edit takes the feature at each token; a dose, whatever the rule, as
    far as the feature's own contribution.

    Args:
        model: a causal model in eval mode.
        sae: that of the feature's block.
        feature: whose activation scales the vectors.
        examples: where; their responses are teacher-forced.
        vectors: what is added for an amount of 1.
        doses: which of them are doses.
        edit: what is done to the feature.
        batch_tokens: tokens a branch batch.
    """
    parts = _control_pushes(sae, feature, vectors.to(model.device), doses, edit)
    rows = []
    for example in examples:
        prefix = run_prefix(model, example.prompt_ids, [feature.layer])
        deltas = torch.empty(len(vectors), dtype=torch.float64)
        for places, pushes in parts:
            at_read = pushes.added(prefix.states[feature.layer][None])[:, 0]
            found = push_effects(
                model, prefix, pushes, at_read, example.response_ids, batch_tokens=batch_tokens
            )
            deltas[places] = found.by_token.mean(1)
        rows.append({"row_id": example.row_id, "delta": deltas.tolist()})
    return pa.Table.from_pylist(
        rows, schema=pa.schema({"row_id": pa.string(), "delta": pa.list_(pa.float64())})
    )


def _control_pushes(
    sae: FeatureEncoder,
    feature: FeatureId,
    vectors: Float[Tensor, "controls d_model"],
    doses: Bool[Tensor, " controls"],
    edit: Edit,
) -> list[tuple[list[int], Pushes]]:
    """Return places of controls, and what pushes them; one part where the edit is a dose itself."""
    own = replace(edit, rule="amplify")
    every = torch.ones_like(doses)
    parts = [(every, edit)] if edit.rule == "amplify" else [(doses, own), (~doses, edit)]
    found = []
    for chosen, way in parts:
        places = chosen.nonzero()[:, 0].tolist()
        indices = (feature.index,) * len(places)
        found.append(
            (places, Pushes(edit=way, sae=sae, indices=indices, directions=vectors[places]))
        )
    return found


def sample_row(
    feature: str,
    example: Example,
    by_token: Float[Tensor, " tokens"],
    *,
    activation: float,
    push: float | None,
    kl: float,
    far: float | None,
) -> dict[str, object]:
    """Return one row of a table of `SAMPLES`; `far` is the mean delta on the contrast response."""
    delta = float(by_token.mean())
    rest = by_token[FIRST:]
    answer = by_token[slice(*example.answer)] if example.answer else by_token[:0]
    return {
        "feature": feature,
        "row_id": example.row_id,
        "activation": activation,
        "delta": delta,
        "delta_contrast": None if far is None else delta - far,
        "delta_without_first_5": float(rest.mean()) if len(rest) else None,
        "delta_answer": float(answer.mean()) if len(answer) else None,
        "push": push,
        "kl": kl,
        "delta_by_token": by_token.tolist(),
    }
