"""Which features a task uses: frequency on its prompts, and specificity against controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from igds.data.seeds import seeded_bits
from igds.data.tokens import check_texts, encode_prompts
from igds.features import FeatureId
from igds.reading.residuals import residuals_at_read
from igds.saes.sae import SAE, check_saes
from igds.stats.auroc import auroc, auroc_interval

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 512
"""Prompts encoded at once: bounds memory at BATCH x d_sae float32."""
TEMPLATE_CELLS = ("template_specificity", "specificity_other_template")
"""AUROCs that complete the 2 x 2: task rows in the task's against other templates, and task
against control rows in other templates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSets:
    """Residuals at t* of one block, [prompts, d_model], by set of prompts.

    The controls are the 2 x 2 of {task, other} rows in {task, other} templates, whose fourth cell
    is `validation`.
    """

    prior: Float[Tensor, "prior d_model"]
    """Task rows, task template: where frequency is measured."""
    validation: Float[Tensor, "validation d_model"]
    """Task rows, task template, disjoint from `prior`: where specificity is measured."""
    control_task_template: Float[Tensor, "control d_model"]
    """Other rows, task template."""
    control_other_template: Float[Tensor, "control_other d_model"]
    """Other rows, other templates."""
    task_other_template: Float[Tensor, "task_other d_model"]
    """Task rows, other templates."""


def recall(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    saes: Sequence[SAE],
    prompts: Sequence[str],
    *,
    validation_prompts: Sequence[str] = (),
    control_prompts: Sequence[str] = (),
    min_frequency: float = 0.8,
    batch_tokens: int = 4096,
) -> pa.Table:
    """Return the features of the SAEs with their frequency on the task's prompts (eq. 2).

    Args:
        model: a transformers decoder, with or without its head.
        tokenizer: the model's own.
        saes: one SAE a block.
        prompts: rendered task prompts, each ending in the cue (D_prior).
        validation_prompts: further task prompts, for specificity.
        control_prompts: rows of other tasks in the task's template, for control frequency and
            specificity.
        min_frequency: share of prompts, 0-1, from which a feature is recalled.
        batch_tokens: padded tokens a forward batch.

    Raises:
        ValueError: prompts or saes are no list or empty, or `min_frequency` is out of range.
    """
    check_saes(saes)
    check_texts("prompts", prompts)
    if not 0 < min_frequency <= 1:
        raise ValueError(f"min_frequency is a share over 0 and at most 1, not {min_frequency}")
    layers = [sae.layer for sae in saes]
    given = {"prior": prompts, "validation": validation_prompts, "control": control_prompts}
    ids = {name: encode_prompts(tokenizer, list(texts)) for name, texts in given.items()}
    read = {name: residuals_at_read(model, i, layers, batch_tokens) for name, i in ids.items()}
    tables = [
        feature_statistics(
            sae,
            PromptSets(
                prior=read["prior"][sae.layer],
                validation=read["validation"][sae.layer],
                control_task_template=read["control"][sae.layer],
                control_other_template=read["control"][sae.layer][:0],
                task_other_template=read["control"][sae.layer][:0],
            ),
            min_frequency,
        )
        for sae in saes
    ]
    return pa.concat_tables(tables)


def feature_statistics(
    sae: SAE, sets: PromptSets, min_frequency: float, random_seed: int | None = None
) -> pa.Table:
    """Return one row a feature of the SAE, with the columns of `recall/features.parquet`.

    A feature is recalled when the share of prior prompts on which its activation is over 0 is at
    least `min_frequency` (eq. 2). Specificity is the AUROC of the activation between task and
    control rows in the task's template; the other two AUROCs are `TEMPLATE_CELLS`. All are null
    where there are no such prompts, and for features that are not recalled.

    Args:
        sae: its features are measured.
        sets: residuals at its block.
        min_frequency: share of prompts, 0-1.
        random_seed: take in place of the recalled features as many random ones; None takes none.
    """
    prior = summary(sae, sets.prior)
    recalled = prior["frequency"] >= min_frequency
    if random_seed is not None:
        recalled = _drawn(sae, int(recalled.sum()), random_seed)
    columns: dict[str, np.ndarray | list[str]] = {
        "feature": [str(FeatureId(sae.layer, index)) for index in range(sae.d_sae)],
        "layer": np.full(sae.d_sae, sae.layer, dtype=np.int32),
        "index": np.arange(sae.d_sae, dtype=np.int32),
        **prior,
        "control_frequency": summary(sae, sets.control_task_template)["frequency"],
        **_specificity(sae, sets, np.flatnonzero(recalled)),
        "recalled": recalled,
    }
    return pa.table({name: pa.array(column, from_pandas=True) for name, column in columns.items()})


def _drawn(sae: SAE, count: int, seed: int) -> Bool[np.ndarray, " d_sae"]:
    """Return which features a seeded draw takes, of all that the SAE has; more hold every fewer."""
    names = [str(FeatureId(sae.layer, index)) for index in range(sae.d_sae)]
    order = sorted(range(sae.d_sae), key=lambda k: seeded_bits(seed, "recall/random", names[k]))
    drawn = np.zeros(sae.d_sae, dtype=bool)
    drawn[order[:count]] = True
    return drawn


def summary(sae: SAE, residuals: Float[Tensor, "prompts d_model"]) -> dict[str, np.ndarray]:
    """Return frequency (0-1), mean and maximal activation of every feature; NaN of no prompts."""
    n = len(residuals)
    active, total = torch.zeros(sae.d_sae), torch.zeros(sae.d_sae, dtype=torch.float64)
    maximum = torch.zeros(sae.d_sae)
    for chunk in residuals.split(BATCH) if n else ():
        acts = sae.encode(chunk)
        active += (acts > 0).sum(dim=0)
        total += acts.sum(dim=0, dtype=torch.float64)
        maximum = torch.maximum(maximum, acts.amax(dim=0))
    scale = n if n else float("nan")
    return {
        "frequency": (active.double() / scale).numpy(),
        "mean_activation": (total / scale).numpy(),
        "max_activation": maximum.numpy(),
    }


def _specificity(sae: SAE, sets: PromptSets, recalled: np.ndarray) -> dict[str, np.ndarray]:
    """Return the AUROCs of recalled features, NaN elsewhere."""
    names = ("specificity", "specificity_low", "specificity_high", *TEMPLATE_CELLS)
    result = {name: np.full(sae.d_sae, np.nan) for name in names}
    if not len(recalled) or not len(sets.validation):
        return result
    task = _columns(sae, sets.validation, recalled)
    rows = _columns(sae, sets.control_task_template, recalled)
    task_other = _columns(sae, sets.task_other_template, recalled)
    other_other = _columns(sae, sets.control_other_template, recalled)
    for place, index in enumerate(recalled):
        if len(rows):
            low, high = auroc_interval(task[:, place], rows[:, place])
            result["specificity"][index] = auroc(task[:, place], rows[:, place])
            result["specificity_low"][index] = low
            result["specificity_high"][index] = high
        pairs = ((task, task_other), (task_other, other_other))
        for name, (positive, negative) in zip(TEMPLATE_CELLS, pairs, strict=True):
            result[name][index] = auroc(positive[:, place], negative[:, place])
    return result


def _columns(
    sae: SAE, residuals: Float[Tensor, "prompts d_model"], index: np.ndarray
) -> np.ndarray:
    """Return activations [prompts, features] of some features."""
    if not len(residuals):
        return np.empty((0, len(index)), dtype=np.float32)
    return sae.encode_columns(residuals, index.tolist()).numpy()


def highest_frequency(features: pa.Table) -> Mapping[str, object]:
    """Return the row of the most frequent feature, for the message when none is recalled."""
    place = int(np.argmax(features.column("frequency").to_numpy()))
    return features.slice(place, 1).to_pylist()[0]
