"""Select: pool scores in order, cut at the budget; the chosen rows as they were read."""

from __future__ import annotations

import pyarrow.compute as pc

from igds.data.index import load_index
from igds.exports.jsonl import write_jsonl
from igds.exports.rows import Chosen
from igds.runs.files import read_json
from igds.selection.budgets import choose
from igds.selection.quotas import Quotas, source_numbers
from igds.selection.tables import (
    prompt_numbers,
    read_pool_scores,
    selection_summary,
    selection_table,
    tie_breaks,
    unique_mask,
)
from igds.stages.context import Context

VERSION = 1
COLUMNS = ["row_id", "content_hash", "prompt_hash", "status", "n_prompt_tokens", "n_train_tokens"]


def run(context: Context) -> None:
    """Write `select/`: `selection.parquet`, `summary.json`, `selected.jsonl`."""
    settings = context.config.select
    assert settings is not None, "the pipeline runs only stages that have a section"
    identity = context.stage_identity(
        VERSION,
        select=settings,
        quotas=[source.quota for source in context.config.data.pool],
        seed=context.config.seed,
        inputs=context.input_identity("index", f"score/{settings.method}"),
    )
    stage = context.open_stage("select", identity, replace=True, archive=context.run.path / "cells")
    if stage.done:
        return
    rows = load_index(context.run.path / "index", COLUMNS)
    scores = read_pool_scores(context.run.path / "score" / settings.method)
    selection = choose(
        scores,
        tie_break=tie_breaks(rows["row_id"], context.config.seed),
        duplicate=~unique_mask(rows, settings.unique),
        n_tokens=rows["n_train_tokens"].fill_null(0).to_numpy(),
        n_ok=pc.sum(pc.equal(rows["status"], "ok")).as_py(),
        budget=settings.budget,
        prompt=None if settings.per_prompt == "all" else prompt_numbers(rows),
        per_prompt=settings.per_prompt if isinstance(settings.per_prompt, int) else 1,
        quotas=_quotas(context),
    )
    table = selection_table(rows["row_id"], scores, selection)
    stage.write_table("selection.parquet", table)
    stage.write_json("summary.json", selection_summary(rows, scores, selection, settings))
    chosen = Chosen(context.run.path / "index", selection.selected)
    write_jsonl(stage.path / "selected.jsonl", chosen)
    stage.commit()


def _quotas(context: Context) -> Quotas | None:
    """Return the quotas of the pool's sources, None when there are none."""
    shares = [source.quota for source in context.config.data.pool]
    if all(share is None for share in shares):
        return None
    summary = read_json(context.run.path / "index" / "summary.json") or {}
    return Quotas(source=source_numbers(summary["sets"]["pool"]["source_rows"]), shares=shares)
