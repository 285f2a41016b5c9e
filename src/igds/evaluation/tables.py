"""From what workers return to the rows of `evaluate/items.parquet`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from igds.evaluation.items import ITEMS
from igds.tasks.base import Task, scored_row


def usable_rows(rows: pa.Table) -> pa.Table:
    """Return the rows that can be judged: rendered, with a gold response."""
    ok = pc.and_(pc.equal(rows["status"], "ok"), pc.is_valid(rows["response"]))
    return rows.filter(ok)


def likelihood_items(model: str, found: pa.Table, clusters: Mapping[str, str]) -> pa.Table:
    """Return the items `logprob`, and `logprob_answer` where an answer is marked."""
    rows = [
        {
            "model": model,
            "item": row["row_id"],
            "cluster": clusters[row["row_id"]],
            "metric": metric,
            "sample": 0,
            "value": row[metric],
            "tokens": row[tokens],
        }
        for metric, tokens in (("logprob", "tokens"), ("logprob_answer", "answer_tokens"))
        for row in found.to_pylist()
        if row[metric] is not None
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def output_items(
    model: str,
    found: pa.Table,
    task: Task,
    fields: Mapping[str, str],
    clusters: Mapping[str, str],
) -> pa.Table:
    """Return the items `task_score`: each generated response with its judgement.

    Args:
        model: name of the model.
        found: what workers generated.
        task: judges.
        fields: row id -> the row's mapped fields as JSON.
        clusters: row id -> hash of its prompt.
    """
    rows = []
    for row in found.to_pylist():
        row_id = row["row_id"]
        judged = scored_row(task, json.loads(fields[row_id]))
        rows.append(
            {
                "model": model,
                "item": row_id,
                "cluster": clusters[row_id],
                "metric": "task_score",
                "sample": row["sample"],
                "value": float(task.score(row["text"], judged)),
                **{name: row[name] for name in ("tokens", "finished", "text")},
            }
        )
    return pa.Table.from_pylist(rows, schema=ITEMS)


def activation_items(model: str, found: pa.Table, clusters: Mapping[str, str]) -> pa.Table:
    """Return the items `feature_activation`: the sum over the task features at the read position.

    Args:
        model: name of the model.
        found: row_id and one column a feature.
        clusters: row id of the rows that are judged -> hash of its prompt.
    """
    names = [name for name in found.column_names if name != "row_id"]
    rows = [
        {
            "model": model,
            "item": row["row_id"],
            "cluster": clusters[row["row_id"]],
            "metric": "feature_activation",
            "sample": 0,
            "value": float(sum(row[name] for name in names)),
        }
        for row in found.to_pylist()
        if row["row_id"] in clusters
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def document_items(model: str, found: pa.Table) -> pa.Table:
    """Return the items of a benchmark; each document is its own cluster."""
    rows = [
        {**row, "model": model, "cluster": row["item"], "sample": 0} for row in found.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=ITEMS)


def generated(items: pa.Table) -> pa.Table:
    """Return the items that have a generated response."""
    return items.filter(pc.equal(items["metric"], "task_score"))


def output_facts(items: pa.Table) -> dict[str, Any]:
    """Return model -> what the lengths of its responses say: tokens, cut off, empty."""
    outputs = generated(items)
    facts: dict[str, Any] = {}
    for model in pc.unique(outputs["model"]).to_pylist():
        own = outputs.filter(pc.equal(outputs["model"], model))
        blank = pc.equal(pc.utf8_trim_whitespace(own["text"]), "")
        facts[model] = {
            "mean_tokens": pc.mean(own["tokens"]).as_py(),
            "cut_off_share": 1 - pc.mean(pc.cast(own["finished"], "float64")).as_py(),
            "empty_share": pc.mean(pc.cast(blank, "float64")).as_py(),
        }
    return facts
