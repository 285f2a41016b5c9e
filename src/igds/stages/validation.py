"""What interventions start from, read from the run folder: examples by split, and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from igds.config.identity import digest
from igds.data.index import load_index
from igds.data.splits import split_validation
from igds.data.tokens import encode_responses
from igds.features import FeatureId
from igds.interventions.controls import Controls, control_effects, make_controls
from igds.interventions.examples import Example, make_examples
from igds.interventions.paper import SPLIT
from igds.interventions.rules import Edit, Position
from igds.interventions.steps import Steps
from igds.interventions.work import WORK
from igds.models.load import load_tokenizer
from igds.runs.readings import record_reading
from igds.runs.stage import Stage, committed_identity
from igds.stages.context import Context
from igds.tasks.base import answer_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def validation_examples(context: Context) -> tuple[dict[str, list[Example]], dict[str, str]]:
    """Return split -> examples, and row id -> hash of its prompt."""
    rows = validation_rows(context, ["row_id", "prompt_hash", "prompt", "prompt_ids", "response"])
    keys = rows["prompt_hash"].to_pylist()
    sizes = context.split_sizes
    everything = {SPLIT: list(range(len(keys)))}
    places = split_validation(keys, context.config.seed, sizes) if sizes else everything
    tokenizer = load_tokenizer(context.model)
    splits = {
        split: _split_examples(context, tokenizer, rows.take(chosen))
        for split, chosen in places.items()
    }
    return splits, dict(zip(rows["row_id"].to_pylist(), keys, strict=True))


def check_splits(context: Context) -> None:
    """Raise RequestError where the index has fewer validation rows than the splits ask for."""
    sizes = context.split_sizes
    if sizes:
        keys = validation_rows(context, ["prompt_hash"])["prompt_hash"].to_pylist()
        split_validation(keys, context.config.seed, sizes)


def validation_rows(context: Context, columns: list[str]) -> pa.Table:
    """Return columns of the validation rows with status ok."""
    rows = load_index(context.run.path / "index" / "validation", [*columns, "status"])
    return rows.filter(pc.equal(rows["status"], "ok"))


def record_plan(
    context: Context, examples: Sequence[Example], plan: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Put on record that validation rows will be read; return all readings of any, oldest first."""
    rows = validation_rows(context, ["row_id", "content_hash"])
    hashes = dict(
        zip(*(rows[name].to_pylist() for name in ("row_id", "content_hash")), strict=True)
    )
    return record_reading(
        context.runs,
        context.run.path.relative_to(context.runs).as_posix(),
        [hashes[example.row_id] for example in examples],
        plan,
        confirmation_inputs(context),
    )


RENDERING = (
    "template", "control_templates", "chat_template", "system", "thinking", "cue", "task",
    "tokenizer",
)  # fmt: skip
"""Parts of the index's identity by which its rows become tokens."""


def confirmation_inputs(context: Context) -> dict[str, str]:
    """Return name -> digest of what a plan's features are of and S3 is read with.

    Pool and test rows, and the model that will be trained, are not part of it.
    """
    index = committed_identity(context.run.path / "index")
    sets = {name: index["data"].get(name) for name in ("prior", "validation", "control")}
    return {
        "data": digest(sets),
        "rendering": digest({name: index[name] for name in RENDERING}),
        "model": digest(context.model_identity),
        "saes": digest(context.sae_identity),
    }


def run_edit(context: Context, features: Sequence[str]) -> Edit:
    """Return what the run does to features; clamp sets them to their maximum over the prior set."""
    settings = context.intervene
    maxima = {}
    if settings.rule == "clamp":
        table = pq.read_table(
            context.run.path / "recall" / "features.parquet",
            columns=["feature", "max_activation"],
            filters=pc.field("feature").isin(list(features)),
        )
        maxima = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return Edit(
        rule=settings.rule,
        coefficient=settings.coefficient,
        position=settings.position,
        maxima=maxima,
    )


def intervention_steps(
    context: Context,
    stage: Stage,
    features: Sequence[str],
    splits: Mapping[str, Sequence[Example]],
    position: Position | None = None,
) -> Steps:
    """Return the measurements of features in a stage, under the run's own edit.

    Args:
        context: the run.
        stage: open for work.
        features: all that may be measured.
        splits: split -> its examples.
        position: where the state is edited, if not at the run's own; nothing is promoted then.
    """
    work = {
        "saes": context.sae_arguments(FeatureId.parse(name).layer for name in features),
        "features": list(features),
        "edit": asdict(run_edit(context, features)),
        "screen": context.intervene.screen,
        "batch_tokens": stage.plan["batch_tokens"],
        "promotes": position is None,
    }
    return Steps(
        stage=stage,
        splits=splits,
        shard_files=partial(context.shard_files, WORK, work, stage),
        position=position,
    )


def measured_controls(
    context: Context, steps: Steps, name: str, clusters: Mapping[str, str]
) -> pa.Table:
    """Return the effects of a feature's controls on S3."""
    made = _controls(context, name)
    deltas, rows = steps.controls(name, made)
    keys = [clusters[row] for row in rows]
    return control_effects(name, made, deltas, keys, seed=context.config.seed)


def _controls(context: Context, name: str) -> Controls:
    """Return the controls of a feature, from its SAE and the residuals that recall kept."""
    settings = context.intervene
    feature = FeatureId.parse(name)
    file = context.run.path / "recall" / "residuals" / f"L{feature.layer}.safetensors"
    sets = load_file(file)
    decoder = context.load_sae(feature.layer).W_dec.numpy()
    return make_controls(
        name,
        decoder[feature.index],
        decoder,
        sets["prior"],
        sets["control_task_template"],
        draws=settings.controls,
        rule=settings.rule,
        coefficient=settings.coefficient,
        seed=context.config.seed,
    )


def _split_examples(
    context: Context, tokenizer: PreTrainedTokenizerBase, rows: pa.Table
) -> list[Example]:
    """Return the examples of one split's index rows."""
    prompt_ids, texts = rows["prompt_ids"].to_pylist(), rows["response"].to_pylist()
    # A chat response is tokenized as it goes on from its prompt, any other by itself.
    chat = context.config.prompts.chat_template
    prompts = rows["prompt"].to_pylist() if chat else [""] * len(rows)
    after = list(zip(prompts, prompt_ids if chat else [[]] * len(rows), strict=True))
    answers = [
        answer_tokens(context.task, tokenizer, text, prompt)
        for text, prompt in zip(texts, after, strict=True)
    ]
    responses = encode_responses(tokenizer, texts, after)
    return make_examples(rows["row_id"].to_pylist(), prompt_ids, responses, answers)
