"""Verify: do features that are named beforehand survive S3 and the controls?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from igds.config.schema import Intervene
from igds.errors import RequestError
from igds.features import FeatureId
from igds.interventions.rules import Position
from igds.interventions.steps import FOLDER
from igds.interventions.verification import Verification, Verified, run_verification
from igds.runs.readings import reading_facts
from igds.runs.stage import Stage
from igds.saes.load import open_sae
from igds.stages.context import Context
from igds.stages.judging import INSTEAD, on_likelihood
from igds.stages.validation import (
    intervention_steps,
    measured_controls,
    record_plan,
    validation_examples,
)

VERSION = 1
RECALLED = ("frequency", "control_frequency", "specificity", "recalled")
"""Columns of `recall/features.parquet` that stand beside a verdict."""


def named_features(context: Context, names: Sequence[str]) -> tuple[FeatureId, ...]:
    """Return the features that a user names.

    Raises:
        RequestError: none is named, one twice, or the run's SAEs have no such feature.
        ValueError: a name has another form than `L14/11575`.
    """
    if not names:
        raise RequestError("no feature is named: write --features L14/11575")
    found = tuple(FeatureId.parse(name) for name in names)
    for place, feature in enumerate(found):
        if feature in found[:place]:
            raise RequestError(f"{feature} is named twice")
        if feature.layer not in context.saes:
            blocks = ", ".join(f"L{layer}" for layer in context.saes)
            raise RequestError(f"{feature}: no SAE reads block {feature.layer}; saes has {blocks}")
        width = open_sae(context.saes[feature.layer]).d_sae
        if feature.index >= width:
            raise RequestError(
                f"{feature}: the SAE of block {feature.layer} has {width} features, counted from 0"
            )
    return found


def run(context: Context, features: Sequence[FeatureId], positions: Sequence[Position]) -> None:
    """Write `verify/`: plan, samples, effects, controls and a verdict a feature and position."""
    settings, doubt = _settings(context)
    identity = context.stage_identity(
        VERSION,
        features=list(map(str, features)),
        positions=list(positions),
        rule=settings.rule,
        coefficient=settings.coefficient,
        controls=settings.controls,
        delta_min=settings.delta_min,
        seed=context.config.seed,
        inputs=context.input_identity("index", "recall"),
    )
    stage = context.open_stage("verify", identity, scratch=[FOLDER])
    if stage.done:
        return
    readings: list[dict[str, Any]] = []
    found = _verified(context, stage, list(map(str, features)), positions, readings)
    recalled = _recalled(context, features)
    verdicts = [
        {**verdict, **recalled[verdict["feature"]], "reason": f"{verdict['reason']}{doubt}"}
        for verdict in found.verdicts
    ]
    stage.write_table("effects.parquet", found.effects)
    stage.write_table("samples.parquet", found.samples)
    stage.write_table("controls.parquet", found.controls)
    stage.write_json("verdicts.json", {"verdicts": verdicts, **reading_facts(readings)})
    stage.commit()


def _settings(context: Context) -> tuple[Intervene, str]:
    """Return the section as the likelihood reads it, and what a verdict must say of that."""
    settings = context.intervene
    if settings.metric == "logprob":
        return settings, ""
    settings, why = on_likelihood(settings, "igds verify generates no outputs")
    return settings, f"; judged on {INSTEAD}: {why}"


def _verified(
    context: Context,
    stage: Stage,
    names: Sequence[str],
    positions: Sequence[Position],
    readings: list[dict[str, Any]],
) -> Verified:
    """Return what S3 says of the features, measured in shards that a resumed run reads again.

    What has read S3 so far, this plan included, is added to `readings`.
    """
    settings, _ = _settings(context)
    splits, clusters = validation_examples(context)
    steps = {at: intervention_steps(context, stage, names, splits, at) for at in positions}

    def commit_plan(plan: dict[str, Any]) -> None:
        readings.extend(record_plan(context, splits["S3"], plan))
        stage.write_json("plan.json", plan)

    return run_verification(
        Verification(
            settings=settings,
            features=names,
            positions=positions,
            clusters=clusters,
            seed=context.config.seed,
            commit_plan=commit_plan,
            exact=lambda position: steps[position].exact("S3", names, True),
            controls=lambda position, name: measured_controls(
                context, steps[position], name, clusters
            ),
        )
    )


def _recalled(context: Context, features: Sequence[FeatureId]) -> dict[str, dict[str, Any]]:
    """Return feature -> what recall says of it; specificity is null unless it was recalled."""
    named = pc.field("feature").isin(list(map(str, features)))
    file = context.run.path / "recall" / "features.parquet"
    rows = pq.read_table(file, columns=["feature", *RECALLED], filters=named).to_pylist()
    return {row["feature"]: {name: row[name] for name in RECALLED} for row in rows}
