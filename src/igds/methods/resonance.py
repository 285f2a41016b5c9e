"""IGDS: the activations of task features at t* (eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from torch import Tensor, nn

from igds.data.tokens import check_texts, encode_prompts
from igds.features import FeatureId, feature_ids
from igds.methods.base import Reading
from igds.reading.activations import columns_by_layer, read_activations
from igds.reading.residuals import residuals_at_read
from igds.saes.sae import FeatureEncoder, check_saes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def feature_resonant_scores(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId | str],
    prompts: Sequence[str],
    *,
    batch_tokens: int = 4096,
) -> Float[Tensor, " prompts"]:
    """Return S(x) of each prompt: the sum of the features' activations at t* (eq. 6), 0 or more.

    Args:
        model: a transformers decoder, with or without its head.
        tokenizer: the model's own.
        saes: one SAE a block; those of the features' blocks are used.
        features: the task features, or their names as `L14/11575`.
        prompts: rendered prompts, each ending in its cue.
        batch_tokens: padded tokens a forward batch.

    Raises:
        ValueError: prompts, saes or features are no list or empty, a name is none, or a feature
            has no SAE.
    """
    check_saes(saes)
    check_texts("prompts", prompts)
    chosen = feature_ids(features)
    layers = sorted({feature.layer for feature in chosen})
    ids = encode_prompts(tokenizer, list(prompts))
    residuals = residuals_at_read(model, ids, layers, batch_tokens)
    return read_activations(saes, chosen, residuals).sum(dim=1)


class ResonanceScorer:
    """Activation of each named feature: the summands of the Feature-Resonant Score."""

    parts: frozenset[str] = frozenset()

    def __init__(self, saes: Mapping[str, Mapping[str, Any]], features: Sequence[str]) -> None:
        """Read the features from their SAEs.

        Args:
            saes: block, as text, -> fields of its `SAESpec`.
            features: names as `L14/11575`.
        """
        self.features = [FeatureId.parse(name) for name in features]
        self.columns = tuple(features)
        self.layers = frozenset(feature.layer for feature in self.features)
        self._saes = columns_by_layer(saes, self.features)

    def score(self, rows: pa.Table, reading: Reading) -> dict[str, np.ndarray]:
        """Return the activations, one column a feature."""
        values = read_activations(self._saes, self.features, reading.residuals).double().numpy()
        return {name: values[:, place] for place, name in enumerate(self.columns)}


class SummedScorer:
    """The weighted sum over features as one column, for more of them than a table wants."""

    columns: tuple[str, ...] = ("sum",)
    parts: frozenset[str] = frozenset()

    def __init__(self, saes: Mapping[str, Mapping[str, Any]], weights: Mapping[str, float]) -> None:
        """Read the features from their SAEs.

        Args:
            saes: block, as text, -> fields of its `SAESpec`.
            weights: feature, as `L14/11575`, -> what its activation counts.
        """
        self._each = ResonanceScorer(saes, list(weights))
        self._weights = np.array(list(weights.values()))
        self.layers = self._each.layers

    def score(self, rows: pa.Table, reading: Reading) -> dict[str, np.ndarray]:
        """Return the sum of each row, in the unit of the weights."""
        acts = self._each.score(rows, reading)
        matrix = np.stack([acts[name] for name in self._each.columns], axis=1)
        return {"sum": matrix @ self._weights}
