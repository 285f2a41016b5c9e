"""The published formulas of methods that read responses, on full logits, one row at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LEAST_HELP = 1 - 1e-4
"""Ratio from which igds may leave a row out, by rounding; it does so from 1 on."""


@torch.no_grad()
def read_plainly(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: str, response: str
) -> tuple[float, np.ndarray]:
    """Return the mean loss of a response token in nats, NaN without one, and the RDS+ embedding.

    That is the mean of the last hidden states, token t weighing t, at length 1.
    """
    head: list[int] = tokenizer(context)["input_ids"]
    tail: list[int] = tokenizer(response, add_special_tokens=False)["input_ids"]
    out = model(torch.tensor([[*head, *tail]]), output_hidden_states=True, use_cache=False)
    logits = out.logits[0, len(head) - 1 : -1].float()
    states = out.hidden_states[-1][0].double().numpy()
    mean = np.average(states, axis=0, weights=np.arange(1, len(states) + 1))
    loss = (
        float(torch.nn.functional.cross_entropy(logits, torch.tensor(tail))) if tail else math.nan
    )
    return loss, mean / np.linalg.norm(mean)


def formula_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Mapping[str, str]],
    marker: str,
) -> list[dict[str, Any]]:
    """Return for each row its column of every method -> the value by the formula.

    Args:
        model: with its language-modelling head.
        tokenizer: the model's.
        rows: each with `prompt` and `response`.
        marker: what stands before a response without its prompt.
    """
    found = []
    for row in rows:
        loss, embedding = read_plainly(model, tokenizer, row["prompt"], row["response"])
        bare, _ = read_plainly(model, tokenizer, marker, row["response"])
        found.append(
            {
                "loss:loss": loss,
                "ifd:ifd": loss / bare,
                "superfilter:superfilter": math.exp(loss) / math.exp(bare),
                "rds:embedding": embedding,
            }
        )
    return found


def largest_differences(
    found: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return column -> largest difference of igds to the formulas, over the rows it has a value of.

    A value that is not there must be a ratio that is not below 1. Columns that igds was not asked
    for are left out.

    Args:
        found: rows as igds scored them.
        wanted: the same rows, as `formula_scores` gives them.
    """
    worst: dict[str, float] = {}
    for row, plain in zip(found, wanted, strict=True):
        for name in (name for name in plain if name in row):
            if row[name] is None:
                assert plain[name] >= LEAST_HELP, f"{name} has no value of {plain[name]}"
            else:
                gap = float(np.max(np.abs(np.asarray(row[name]) - plain[name])))
                worst[name] = max(worst.get(name, 0.0), gap)
    return worst
