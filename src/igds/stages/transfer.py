"""Transfer, a part of intervene: the task features in the model that will be trained."""

from __future__ import annotations

from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igds.data.splits import confirmation_rows
from igds.models.load import ModelSpec, describe, model_identity
from igds.reading.transfer import obstacle, transfer_table
from igds.runs.stage import Stage
from igds.stages.context import Context

VERSION = 1
SETS = ("prior", "validation", "control")


def measure_transfer(context: Context) -> None:
    """Write `transfer/` when `model.train_id` is another model and there are task features."""
    trained, features = context.train_model, [str(feature) for feature in context.task_features]
    if trained is None or not features:
        return
    identity = context.stage_identity(
        VERSION,
        features=features,
        saes=context.sae_identity,
        model=model_identity(trained),
        splits=context.split_sizes,
        seed=context.config.seed,
        inputs=context.input_identity("index"),
    )
    stage = context.open_stage("transfer", identity, replace=True, scratch=["shards"])
    if stage.done:
        return
    reason = obstacle(describe(context.model), describe(trained))
    if reason is None:
        stage.write_table("features.parquet", _measure(context, stage, trained, features))
    summary = {"model": trained.id, "revision": trained.revision, "reason": reason}
    stage.write_json("summary.json", summary)
    stage.commit()


def _measure(context: Context, stage: Stage, trained: ModelSpec, features: list[str]) -> pa.Table:
    """Return the table of transfer, read as recall reads: without the rows of split S3."""
    parts = context.run_sets(
        "igds.reading.transfer:TransferWork",
        {
            "model": asdict(trained),
            "features": features,
            "saes": context.sae_arguments(f.layer for f in context.task_features),
            "chat": context.config.prompts.chat_template,
        },
        stage,
        {name: name for name in SETS},
        "intervene: reading prompts by the model to be trained",
    )
    empty = pa.table({name: pa.array([], pa.float32()) for name in features})
    prior, validation, control = (
        pa.concat_tables([pq.read_table(part) for part in parts[name]]) if parts[name] else empty
        for name in SETS
    )
    sealed = confirmation_rows(
        context.run.path / "index" / "validation", context.config.seed, context.split_sizes
    )
    ids = sealed["row_id"].combine_chunks()
    validation = validation.filter(pc.invert(pc.is_in(validation["row_id"], value_set=ids)))
    return transfer_table(features, prior, validation, control)
