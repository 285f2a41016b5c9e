"""Select: pool scores in order, cut at the budget; the chosen rows as they were read."""

from __future__ import annotations

import pyarrow.compute as pc

from igds.data.index import load_index
from igds.exports.rows import write_selected
from igds.selection.budgets import choose
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
    )
    table = selection_table(rows["row_id"], scores, selection)
    stage.write_table("selection.parquet", table)
    stage.write_json("summary.json", selection_summary(rows, scores, selection, settings))
    write_selected(stage.path / "selected.jsonl", context.run.path / "index", selection.selected)
    stage.commit()
