"""Report: activations by token of a few rows, then the page."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from igds.config.identity import digest
from igds.config.schema import Runtime
from igds.data.index import load_index
from igds.reporting.page import write_report
from igds.runs.stage import Stage
from igds.selection.showcase import showcase
from igds.stages.context import Context

VERSION = 5
TRAINED = ("finetune", "evaluate")


def run(context: Context) -> None:
    """Write `report/`: `token_activations.parquet` where rows were selected, `index.html`."""
    settings = context.config.report
    assert settings is not None, "the pipeline runs only stages that have a section"
    methods = context.config.score.methods if context.config.score else ()
    scores = [f"score/{method}" for method in methods]
    wanted = ("recall", "intervene", "transfer", *scores, "select", *TRAINED)
    done = [name for name in wanted if context.has_stage(name)]
    identity = context.stage_identity(
        VERSION,
        report=settings,
        config=digest(replace(context.config, runtime=Runtime())),
        inputs=context.input_identity("index", *done),
    )
    stage = context.open_stage("report", identity, replace=True)
    if stage.done:
        return
    if "select" in done and context.task_features:
        table = _token_activations(context, stage, settings.rows)
        stage.write_table("token_activations.parquet", table)
    write_report(context.run.path, stage.path / "index.html", stage.path)
    stage.commit()


def _token_activations(context: Context, stage: Stage, rows: int) -> pa.Table:
    """Return the activation of each task feature at each token of the rows shown."""
    selection = pq.read_table(context.run.path / "select" / "selection.parquet")
    shown = showcase(selection, rows)
    ids = shown["row_id"].to_pylist()
    index = load_index(context.run.path / "index", ["row_id", "prompt_ids"], ids)
    prompts = dict(zip(*(column.to_pylist() for column in index.columns), strict=True))
    shard = {
        "row_id": ids,
        "group": shown["group"].to_pylist(),
        "prompt_ids": [prompts[row_id] for row_id in ids],
    }
    features = context.task_features
    results: list[pa.Table] = []
    context.run_shards(
        "igds.reading.work:TokenWork",
        {
            "features": [str(feature) for feature in features],
            "saes": context.sae_arguments(f.layer for f in features),
        },
        [shard],
        stage.plan,
        lambda _place, table: results.append(table),
        "report: reading the rows shown",
        [len(shown)],
    )
    return results[0]
