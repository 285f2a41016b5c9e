"""What an edit does to plain text: perplexity on neutral texts, edited over unedited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from igds.config.inputs import Source
from igds.data.files import NEUTRAL
from igds.data.sources import read_source
from igds.data.tokens import encode_prompts
from igds.features import FeatureId
from igds.interventions.exact import push_effects, run_prefix
from igds.interventions.examples import Example
from igds.interventions.rules import Edit
from igds.reading.activations import group_by_layer
from igds.saes.sae import FeatureEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXTS, TOKENS = 16, 64
"""Texts, and tokens of each: the control set that igds ships stands in no order."""


def neutral_examples(tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Return the first neutral texts as examples: their first token, and what follows it."""
    rows = read_source(Source(path=NEUTRAL, limit=TEXTS), ["text"], Path())
    texts = [str(row.fields["text"]) for row in rows if row.fields]
    return [
        Example(row_id=str(place), prompt_ids=ids[:1], response_ids=ids[1:TOKENS])
        for place, ids in enumerate(encode_prompts(tokenizer, texts))
    ]


def perplexity_ratios(
    model: PreTrainedModel,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    examples: Sequence[Example],
    *,
    edit: Edit,
    batch_tokens: int,
) -> pa.Table:
    """Return feature and neutral_perplexity_ratio: over 1 where the edit harms plain text.

    The edit acts at every token, the first included, whatever its own position.

    Args:
        model: a causal model in eval mode.
        saes: one SAE a block.
        features: the features to edit, one at a time.
        examples: texts, see `neutral_examples`.
        edit: what is done to each feature.
        batch_tokens: tokens a branch batch.
    """
    everywhere, ratios = replace(edit, position="all"), {}
    for sae, indices in group_by_layer(saes, features):
        pushes = everywhere.pushes(sae, indices, model.device)
        deltas = []
        for example in examples:
            prefix = run_prefix(model, example.prompt_ids, [sae.layer])
            vectors = pushes.added(prefix.states[sae.layer][None])[:, 0]
            found = push_effects(
                model, prefix, pushes, vectors, example.response_ids, batch_tokens=batch_tokens
            )
            deltas.append(found.by_token)
        gains = np.exp(-torch.cat(deltas, dim=1).mean(1).numpy())
        ratios |= {str(FeatureId(sae.layer, i)): g for i, g in zip(indices, gains, strict=True)}
    names = [str(feature) for feature in features]
    return pa.table(
        {"feature": names, "neutral_perplexity_ratio": [float(ratios[name]) for name in names]}
    )
