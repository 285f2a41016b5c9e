"""Select: pool scores in order, cut at the budget; the chosen rows as they were read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from igds.config.scoring import KEEPS_VECTORS, RANDOM_MATCHED, Select
from igds.data.columns import SOURCE, column_values, column_vectors
from igds.data.index import load_index
from igds.data.seeds import seeded_unit
from igds.exports.jsonl import write_jsonl
from igds.exports.rows import Chosen
from igds.methods.ranking import unit_vectors
from igds.runs.files import read_json
from igds.selection.budgets import Selection, choose
from igds.selection.diversity import Diverse
from igds.selection.quotas import Quotas, source_numbers
from igds.selection.resembling import resembling_scores
from igds.selection.strata import TENTHS, numbered, tenths
from igds.selection.tables import (
    prompt_numbers,
    read_pool_scores,
    selection_summary,
    selection_table,
    tie_breaks,
    unique_mask,
)
from igds.stages.context import Context

VERSION = 2
COLUMNS = ["row_id", "content_hash", "status", "n_prompt_tokens", "n_train_tokens"]


def run(context: Context) -> None:
    """Write `select/`: `selection.parquet`, `summary.json`, `selected.jsonl`."""
    settings = context.config.select
    assert settings is not None, "the pipeline runs only stages that have a section"
    identity = context.stage_identity(
        VERSION,
        select=settings,
        quotas=[source.quota for source in context.config.data.pool],
        seed=context.config.seed,
        inputs=context.input_identity("index", *(f"score/{name}" for name in settings.scored)),
    )
    stage = context.open_stage("select", identity, replace=True, archive=context.archive)
    if stage.done:
        return
    rows = load_index(context.run.path / "index", COLUMNS)
    scores, selection = _chosen(
        context, rows, settings, read_pool_scores(context.run.path / "score" / settings.scored[0])
    )
    table = selection_table(rows["row_id"], scores, selection)
    stage.write_table("selection.parquet", table)
    stage.write_json("summary.json", selection_summary(rows, scores, selection, settings))
    chosen = Chosen(context.run.path / "index", selection.selected)
    write_jsonl(stage.path / "selected.jsonl", chosen)
    earlier = stage.archived
    stage.commit()
    if earlier is not None:
        place = earlier.relative_to(context.run.path)
        context.progress.note(f"select: the earlier selection moved to {place}")


def _chosen(
    context: Context, rows: pa.Table, settings: Select, scores: Float[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, " rows"], Selection]:
    """Return the scores that rank the rows, and the rows kept; the limits are let go of here."""
    limits = _limits(context, rows, settings)
    selection = choose(scores, **limits, diversity=_diverse(context.run.path, settings))
    if settings.method not in RANDOM_MATCHED:
        return scores, selection
    scores = _random_scores(context, rows, settings, scores, selection)
    return scores, choose(scores, **limits)


def _limits(context: Context, rows: pa.Table, settings: Select) -> dict[str, Any]:
    """Return all that `choose` takes beside the scores."""
    return {
        "tie_break": tie_breaks(rows["row_id"], context.config.seed),
        "duplicate": ~unique_mask(rows, settings.unique),
        "n_tokens": rows["n_train_tokens"].fill_null(0).to_numpy(),
        "n_ok": pc.sum(pc.equal(rows["status"], "ok")).as_py(),
        "budget": settings.budget,
        "prompt": None if settings.per_prompt == "all" else _prompts(context),
        "per_prompt": settings.per_prompt if isinstance(settings.per_prompt, int) else 1,
        "quotas": _quotas(context),
        "strata": _strata(context, rows, settings.stratify),
    }


def _diverse(run: Path, settings: Select) -> Diverse | None:
    """Return how rows are chosen among the best, None by rank alone."""
    if settings.diversity is None:
        return None
    if settings.reads_vectors:
        vectors = partial(unit_vectors, run / "score" / KEEPS_VECTORS)
    else:
        vectors = partial(column_vectors, run / "index", settings.diversity.column)
    return Diverse(candidates=settings.diversity.candidates, vectors=vectors)


def _prompts(context: Context) -> Int[np.ndarray, " rows"]:
    """Return the number of each row's prompt."""
    return prompt_numbers(load_index(context.run.path / "index", ["prompt_hash"]))


def _strata(
    context: Context, rows: pa.Table, stratify: str | None
) -> Int[np.ndarray, " rows"] | None:
    """Return the number of each row's stratum, None when there are none."""
    if stratify is None:
        return None
    if stratify == "length":
        return _tenths(rows["n_prompt_tokens"], rows["status"])
    return numbered(column_values(context.run.path / "index", stratify))


def _tenths(counts: pa.ChunkedArray, status: pa.ChunkedArray) -> Int[np.ndarray, " rows"]:
    """Return each row's tenth by a count of tokens; the tenths are those of the ok rows."""
    return tenths(counts.fill_null(0).to_numpy(), pc.equal(status, "ok").to_numpy())


def _random_scores(
    context: Context,
    rows: pa.Table,
    settings: Select,
    scores: Float[np.ndarray, " rows"],
    selection: Selection,
) -> Float[np.ndarray, " rows"]:
    """Return scores by which random rows come first that resemble the selection.

    Cells are of one source file, one tenth by prompt tokens and one by response tokens.
    """
    source = numbered(column_values(context.run.path / "index", SOURCE))
    lengths = load_index(context.run.path / "index", ["n_prompt_tokens", "n_response_tokens"])
    prompt, response = (_tenths(column, rows["status"]) for column in lengths.columns)
    stream = f"select/{settings.method}"
    ids = rows["row_id"].to_pylist()
    uniform = np.array([seeded_unit(context.config.seed, stream, row_id) for row_id in ids])
    return resembling_scores(
        selection.selected,
        (source * TENTHS + prompt) * TENTHS + response,
        uniform,
        ~np.isnan(scores) & unique_mask(rows, settings.unique),
    )


def _quotas(context: Context) -> Quotas | None:
    """Return the quotas of the pool's sources, None when there are none."""
    shares = [source.quota for source in context.config.data.pool]
    if all(share is None for share in shares):
        return None
    summary = read_json(context.run.path / "index" / "summary.json") or {}
    return Quotas(source=source_numbers(summary["sets"]["pool"]["source_rows"]), shares=shares)
