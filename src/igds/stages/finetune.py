"""Finetune: the model that will be trained, on the selected rows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igds.config.identity import to_plain
from igds.config.training import LAYOUT, Finetune
from igds.data.index import load_index
from igds.data.templates import parse_template
from igds.errors import RequestError
from igds.executors.make import worker_threads
from igds.exports.rows import Chosen
from igds.finetuning.engines import write_engine
from igds.finetuning.examples import (
    example_lengths,
    training_examples,
    training_order,
    training_texts,
)
from igds.finetuning.launch import check_packages, launch
from igds.finetuning.results import log_table, rows_table, training_summary
from igds.finetuning.spec import TrainFolder, TrainSpec
from igds.models.load import ModelSpec, describe, load_tokenizer, model_identity
from igds.runs.stage import Stage
from igds.stages.context import Context

VERSION = 1


def check(context: Context) -> None:
    """Refuse, before any work, what cannot be done.

    Raises:
        RequestError: a package is missing, or the templates are not for these prompts.
    """
    settings = context.config.finetune
    assert settings is not None, "the pipeline checks only stages that have a section"
    if settings.engine != "trl":
        return
    check_packages(settings)
    own = settings.template is not None or settings.response is not None
    if own and context.config.prompts.chat_template:
        raise RequestError("finetune.template and response are for raw prompts, not chat prompts")
    if settings.template is not None:
        known = {*context.template.fields, *context.task.fields}
        unknown = set(parse_template(settings.template, user_turn=True).fields) - known
        if unknown:
            raise RequestError(
                f"finetune.template has the place {min(unknown)!r}, which rows do not have: the "
                f"fields are {', '.join(sorted(known))}"
            )


def run(context: Context) -> None:
    """Write `finetune/`: model, log, rows and summary; or data and YAML for another trainer."""
    settings = context.config.finetune
    assert settings is not None, "the pipeline runs only stages that have a section"
    selection = pq.read_table(context.folder("select") / "selection.parquet")
    chosen = selection.filter(selection["selected"])["row_id"].to_pylist()
    stage = open_finetune(context, settings, "finetune", inputs="select")
    if not stage.done:
        finetune_rows(context, stage, settings, chosen)


def open_finetune(context: Context, settings: Finetune, name: str, *, inputs: str) -> Stage:
    """Return the stage of a fine-tuning on the rows that another stage chose.

    Where one is finished, its replacement moves it to `cells/`; one that is under way is only given
    up with --overwrite.
    """
    model = context.train_model or context.model
    identity = context.stage_identity(
        VERSION,
        finetune=_without_layout(settings),
        model={**model_identity(model), "dtype": "float32"},
        seed=context.config.seed,
        inputs=context.input_identity("index", inputs),
    )
    replace = context.has_stage(name)
    runtime = context.config.runtime
    # Nothing else runs beside the training: it has the threads of all workers.
    threads = max(1, worker_threads(runtime) * runtime.workers // settings.processes)
    return context.open_stage(
        name, identity, {"threads": threads}, replace=replace, archive=context.archive
    )


def finetune_rows(
    context: Context, stage: Stage, settings: Finetune, row_ids: Sequence[str]
) -> None:
    """Train on rows of the pool, whoever chose them, and commit the stage."""
    model = context.train_model or context.model
    if settings.engine == "trl":
        _train(context, stage, settings, model, row_ids)
        stage.commit()
        return
    notes = write_engine(
        stage.path,
        stage.folder,
        _chosen(context, settings, row_ids),
        settings,
        model=model.path,
        seed=context.config.seed,
    )
    summary = {"engine": settings.engine, "model": model.id, "rows": len(row_ids), "notes": notes}
    stage.write_json("summary.json", summary)
    stage.commit()
    for note in notes:
        context.progress.note(note)


def _chosen(context: Context, settings: Finetune, row_ids: Sequence[str]) -> Chosen:
    """Return the rows for another trainer."""
    folder = context.run.path / "index"
    ids = load_index(folder, ["row_id"])["row_id"]
    mask = pc.is_in(ids, value_set=pa.array(row_ids, pa.string())).to_numpy().astype(bool)
    return Chosen.for_trainer(folder, mask, settings.engine)


def _train(
    context: Context, stage: Stage, settings: Finetune, model: ModelSpec, row_ids: Sequence[str]
) -> None:
    """Write all of `finetune/` but its record."""
    rows = training_texts(context.run.path / "index", row_ids, settings)
    examples = training_examples(
        load_tokenizer(model),
        rows,
        max_tokens=min(settings.max_tokens, describe(model).context),
        chat=context.config.prompts.chat_template,
    )
    lengths = example_lengths(examples)
    names = examples["row_id"].to_pylist()
    order = training_order(names, lengths.tolist(), settings, context.config.seed)
    spec = TrainSpec(
        name=context.config.name,
        model=model,
        settings=settings,
        order=tuple(order),
        seed=context.config.seed,
    )
    folder = TrainFolder(stage.path)
    if folder.history is None:
        folder.write(spec, examples)
        launch(
            folder,
            settings,
            device=model.device,
            threads=stage.plan["threads"],
            steps=spec.steps,
            base=context.base,
            progress=context.progress,
        )
    log = log_table(folder.history or [], lengths[order], settings.batch)
    trained = rows_table(examples, order)
    stage.write_table("log.parquet", log)
    stage.write_table("rows.parquet", trained)
    left_out = len(rows) - len(examples)
    stage.write_json("summary.json", training_summary(spec, trained, log, left_out=left_out))
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    folder.examples.unlink(missing_ok=True)


def _without_layout(settings: Finetune) -> dict[str, Any]:
    """Return the settings that the result depends on."""
    plain = to_plain(settings)
    absent = [name for name in ("template", "response") if plain[name] is None]
    unused = LAYOUT if settings.engine == "trl" else ()  # of another all are in the YAML
    return {name: value for name, value in plain.items() if name not in (*unused, *absent)}
