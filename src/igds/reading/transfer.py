"""The task features in the model that will be trained: does it use them as the first one does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from igds.data.tokens import encode_prompts
from igds.features import FeatureId
from igds.models.load import ModelShape, ModelSpec, describe, load_blocks, load_tokenizer
from igds.reading.activations import columns_by_layer, read_activations
from igds.reading.residuals import residuals_at_read
from igds.reading.work import IndexRows
from igds.stats.auroc import auroc, auroc_interval

TRANSFER = pa.schema(
    {
        "feature": pa.string(),
        "layer": pa.int32(),
        "index": pa.int32(),
        "prompts": pa.int64(),
        "frequency": pa.float64(),
        "control_frequency": pa.float64(),
        "specificity": pa.float64(),
        "specificity_low": pa.float64(),
        "specificity_high": pa.float64(),
    }
)
"""Columns of `transfer/features.parquet`."""


class TransferWork:
    """Activations of features at t* of one range of an index, by another model and tokenizer."""

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        features: Sequence[str],
        saes: Mapping[str, Mapping[str, Any]],
        chat: bool,
        batch_tokens: int,
        threads: int,
        finite: bool = True,
    ) -> None:
        """Load the first blocks of the model that will be trained, and the SAEs.

        Args:
            model: fields of its `ModelSpec`.
            features: names as `L14/11575`.
            saes: block, as text, -> fields of its `SAESpec`.
            chat: whether the prompts are in a chat template, which brings its own BOS.
            batch_tokens: padded tokens a forward batch.
            threads: CPU threads of this worker.
            finite: refuse a model whose states are infinite or NaN; else its activations are NaN.
        """
        torch.set_num_threads(threads)
        spec = ModelSpec(**model)
        self._features = [FeatureId.parse(name) for name in features]
        self._saes = columns_by_layer(saes, self._features)
        self._layers = [sae.layer for sae in self._saes]
        self._context = describe(spec).context
        self._tokenizer = load_tokenizer(spec)
        self._model = load_blocks(spec, self._layers[-1] + 1)
        self._batch_tokens, self._chat, self._finite = batch_tokens, chat, finite
        self._rows = IndexRows(["row_id", "status", "prompt"])

    def __call__(self, shard: Mapping[str, Any]) -> pa.Table:
        """Return row_id and one column a feature, of ok rows that fit the model's context."""
        rows = self._rows.read(shard["file"], shard["start"], shard["stop"])
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        ids = encode_prompts(self._tokenizer, rows["prompt"].to_pylist(), chat=self._chat)
        fits = [len(one) <= self._context for one in ids]
        rows = rows.filter(pa.array(fits, pa.bool_()))
        ids = [one for one, fit in zip(ids, fits, strict=True) if fit]
        residuals = residuals_at_read(
            self._model, ids, self._layers, self._batch_tokens, finite=self._finite
        )
        acts = read_activations(self._saes, self._features, residuals).numpy()
        # What an SAE makes of no number may be 0; only where that is not refused are there any.
        for states in residuals.values():
            acts[~states.isfinite().all(dim=1).numpy()] = np.nan
        columns = {str(feature): acts[:, at] for at, feature in enumerate(self._features)}
        return pa.table({"row_id": rows["row_id"], **columns})


def obstacle(identified: ModelShape, trained: ModelShape) -> str | None:
    """Return why an SAE of one model cannot be applied to the other, None when it can."""
    here = "the model in which the features were found"
    if trained.n_blocks != identified.n_blocks:
        return f"it has {trained.n_blocks} blocks, {here} {identified.n_blocks}"
    if trained.d_model != identified.d_model:
        return f"its residual stream is {trained.d_model} wide, that of {here} {identified.d_model}"
    return None


def transfer_table(
    features: Sequence[str], prior: pa.Table, validation: pa.Table, control: pa.Table
) -> pa.Table:
    """Return one row a feature, with the columns of `TRANSFER`.

    Frequencies are shares, 0-1, of prior and of control prompts with activation over 0.
    Specificity is the AUROC of the activation, validation against control, with its interval;
    null where there are no such prompts.

    Args:
        features: their names.
        prior: one column a feature, a row a prompt.
        validation: the same.
        control: the same.
    """
    rows = []
    for name in features:
        task, held, other = (part[name].to_numpy() for part in (prior, validation, control))
        measured = bool(len(held) and len(other))
        low, high = auroc_interval(held, other) if measured else (None, None)
        feature = FeatureId.parse(name)
        rows.append(
            {
                "feature": name,
                "layer": feature.layer,
                "index": feature.index,
                "prompts": len(task),
                "frequency": _frequency(task),
                "control_frequency": _frequency(other),
                "specificity": auroc(held, other) if measured else None,
                "specificity_low": low,
                "specificity_high": high,
            }
        )
    return pa.Table.from_pylist(rows, schema=TRANSFER)


def _frequency(activations: np.ndarray) -> float | None:
    return float((activations > 0).mean()) if len(activations) else None
