"""What a training leaves for others to read: its log, the rows it saw, and a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from igds.finetuning.examples import example_lengths, response_lengths
from igds.finetuning.spec import TrainSpec
from igds.stats.null import or_null

LOG = pa.schema(
    [
        pa.field("step", pa.int64()),
        pa.field("loss", pa.float64()),
        pa.field("learning_rate", pa.float64()),
        pa.field("grad_norm", pa.float64()),
        pa.field("tokens", pa.int64()),
    ]
)
"""Columns of `finetune/log.parquet`, one row an update."""

ROWS = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("tokens", pa.int64()),
        pa.field("response_tokens", pa.int64()),
        pa.field("truncated", pa.bool_()),
        pa.field("times", pa.int64()),
    ]
)
"""Columns of `finetune/rows.parquet`, one row an example."""


def log_table(history: Sequence[Mapping[str, Any]], lengths: np.ndarray, batch: int) -> pa.Table:
    """Return the log: what the trainer wrote, and the tokens seen so far.

    Args:
        history: the trainer's entries, one an update; None is no finite number.
        lengths: tokens of each row in the order it was trained on, repeats included.
        batch: rows an update.
    """
    seen = np.cumsum(lengths)
    rows = [
        {
            "step": entry["step"],
            "loss": entry["loss"],
            "learning_rate": entry["learning_rate"],
            "grad_norm": entry["grad_norm"],
            "tokens": int(seen[min(entry["step"] * batch, len(seen)) - 1]),
        }
        for entry in history
    ]
    return pa.Table.from_pylist(rows, schema=LOG)


def rows_table(examples: pa.Table, order: Sequence[int]) -> pa.Table:
    """Return the rows that were trained on, and how often."""
    return pa.table(
        {
            "row_id": examples["row_id"],
            "tokens": example_lengths(examples),
            "response_tokens": response_lengths(examples),
            "truncated": examples["truncated"],
            "times": np.bincount(np.array(order, dtype=np.int64), minlength=len(examples)),
        }
    ).cast(ROWS)


def training_summary(
    spec: TrainSpec, rows: pa.Table, log: pa.Table, *, left_out: int
) -> dict[str, Any]:
    """Return `finetune/summary.json`."""
    times = rows["times"].to_numpy()
    losses = log["loss"].to_numpy()
    tail = max(1, len(losses) // 10)
    return {
        "engine": "trl",
        "model": spec.model.id,
        "rows": int((times > 0).sum()),
        "left_out": left_out,
        "truncated": int(rows["truncated"].to_numpy()[times > 0].sum()),
        "examples": len(spec.order),
        "steps": spec.steps,
        "tokens": int((rows["tokens"].to_numpy() * times).sum()),
        "response_tokens": int((rows["response_tokens"].to_numpy() * times).sum()),
        "learning_rate": spec.settings.learning_rate,
        "batch": spec.settings.batch,
        "precision": spec.settings.precision,
        "lora": spec.settings.lora is not None,
        "template": spec.settings.template,
        "response": spec.settings.response,
        "first_loss": or_null(float(losses[:tail].mean())),
        "last_loss": or_null(float(losses[-tail:].mean())),
    }
