"""Intervene: which recalled features help when they are amplified (eq. 3-5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igds.config.identity import to_plain
from igds.errors import RequestError
from igds.interventions.controls import CONTROLS
from igds.interventions.paper import POSITIONS, SPLIT, paper_choice, paper_effects
from igds.interventions.scored import scored_outputs
from igds.interventions.steps import FOLDER, Steps
from igds.interventions.words import risen_words
from igds.runs.stage import Stage
from igds.stages.context import Context
from igds.stages.judging import generation_settings, run_pilot, task_judge
from igds.stages.rigorous import confirm
from igds.stages.transfer import measure_transfer
from igds.stages.validation import intervention_steps, record_plan, validation_examples
from igds.stats.null import or_nan

VERSION = 8
PROMOTED = 16
"""Features, best first, whose promoted tokens the paper mode names."""


def run(context: Context) -> None:
    """Write `intervene/`, then `transfer/` when another model will be trained."""
    _identify(context)
    measure_transfer(context)


def _identify(context: Context) -> None:
    """Write `intervene/`: plan, samples, effects, promoted tokens and the task features."""
    settings = context.intervene
    identity = context.stage_identity(
        VERSION,
        intervene=settings,
        pool_kind=context.config.data.pool_kind,
        seed=context.config.seed,
        confirm=not context.seals,
        inputs=context.input_identity("index", "recall"),
    )
    stage = context.open_stage("intervene", identity, scratch=[FOLDER])
    if stage.done:
        return
    mixed = context.config.data.pool_kind == "mixed"
    paper = settings.mode == "paper"
    specificity = _candidates(context, mixed and not paper)
    splits, clusters = validation_examples(context)
    steps = intervention_steps(context, stage, list(specificity), splits)
    if paper:
        _paper(context, stage, steps, list(specificity), clusters)
    else:
        confirm(context, stage, steps, specificity, clusters)
    stage.commit()


def _paper(
    context: Context,
    stage: Stage,
    steps: Steps,
    features: Sequence[str],
    clusters: Mapping[str, str],
) -> None:
    """Write what the published procedure finds, on all validation rows."""
    settings = context.intervene
    judge = task_judge(context)
    generation = generation_settings(context, stage, POSITIONS)
    # It reads every validation row, those of any split S3 among them.
    plan = {"features": list(features), **to_plain(settings), "seed": context.config.seed}
    record_plan(context, steps.splits[SPLIT], plan)
    pilot = run_pilot(context, stage, steps, generation, judge, SPLIT)
    outputs = steps.generate(features, SPLIT, generation)
    samples = scored_outputs(outputs, judge, settings.pass_k)
    effects = paper_effects(
        samples,
        clusters,
        rule=settings.rule,
        coefficient=settings.coefficient,
        seed=context.config.seed,
    )
    found = paper_choice(effects, pilot, position=settings.position, top_k=settings.top_k)
    split = pa.array([SPLIT] * len(samples), pa.string())
    stage.write_table("effects.parquet", effects)
    stage.write_table("samples.parquet", samples.add_column(1, "split", split))
    stage.write_table("words.parquet", risen_words(outputs))
    stage.write_table("controls.parquet", CONTROLS.empty_table())
    stage.write_table("promoted.parquet", steps.promoted(found["order"][:PROMOTED]))
    stage.write_json("task_features.json", found)


def _candidates(context: Context, mixed: bool) -> dict[str, float]:
    """Return recalled feature -> lower end of its specificity; in a mixed pool the specific ones.

    Raises:
        RequestError: the pool is mixed and no recalled feature is specific.
    """
    table = pq.read_table(context.run.path / "recall" / "features.parquet")
    table = table.filter(table["recalled"])
    low = table["specificity_low"].fill_null(float("nan"))
    chosen = table.filter(pc.greater(low, 0.5)) if mixed else table
    if not len(chosen):
        raise RequestError(
            f"none of the {len(table)} recalled features fires more on task than on control rows "
            f"(the highest lower end of an AUROC is {pc.max(table['specificity_low'])}); a mixed "
            "pool cannot be ranked by them: add SAEs of other blocks, or lower "
            "recall.min_frequency and say --overwrite"
        )
    names, lows = (chosen[column].to_pylist() for column in ("feature", "specificity_low"))
    return dict(zip(names, map(or_nan, lows), strict=True))
