"""The rigorous mode of intervene: the funnel joined to workers, budget and record of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from igds.config.schema import Intervene
from igds.features import FeatureId, is_group
from igds.interventions.budget import Ledger
from igds.interventions.effects import with_neutral
from igds.interventions.funnel import Funnel, run_funnel
from igds.interventions.steps import Steps
from igds.models.sizes import model_sizes
from igds.runs.readings import reading_facts
from igds.runs.stage import Stage
from igds.saes.load import open_sae
from igds.stages.context import Context
from igds.stages.judging import Scale, chosen_scale
from igds.stages.validation import measured_controls, record_plan


def confirm(
    context: Context,
    stage: Stage,
    steps: Steps,
    specificity: Mapping[str, float],
    clusters: Mapping[str, str],
) -> None:
    """Write what the funnel finds.

    Args:
        context: the run.
        stage: `intervene/`, open for work.
        steps: its measurements.
        specificity: candidate -> lower end of its specificity.
        clusters: row id -> hash of its prompt.

    Raises:
        RequestError: the funnel does not fit `intervene.budget`.
    """
    settings = context.intervene
    ledger = Ledger(
        settings=settings,
        sizes=model_sizes(context.model),
        splits=steps.splits,
        batch_tokens=stage.plan["batch_tokens"],
        layers={FeatureId.parse(name).layer for name in specificity},
        candidates=len(specificity),
    )
    ledger.check()
    scale = chosen_scale(context, stage, steps)
    work = _Work(
        context=context,
        settings=settings,
        stage=stage,
        steps=steps,
        candidates=list(specificity),
        clusters=clusters,
        ledger=ledger,
        scale=scale,
    )
    outcome = run_funnel(
        Funnel(
            settings=scale.settings,
            mixed_pool=context.config.data.pool_kind == "mixed",
            clusters=clusters,
            specificity_low=specificity,
            direction=work.direction,
            seed=context.config.seed,
            metric=scale.metric,
            confirm=not context.seals,
            screen=work.screen,
            exact=work.exact,
            commit_plan=work.commit_plan,
            group=work.group,
            controls=work.controls,
        )
    )
    order = outcome.task_features["order"]
    s3 = outcome.effects.filter(pc.equal(outcome.effects["split"], "S3"))
    measured = [name for name in s3["feature"].to_pylist() if not is_group(name)]
    ledger.neutral(measured)
    ratios = steps.neutral(measured)
    stage.write_table("effects.parquet", with_neutral(outcome.effects, "S3", ratios))
    stage.write_table("samples.parquet", outcome.samples)
    stage.write_table("controls.parquet", outcome.controls)
    stage.write_table("promoted.parquet", steps.promoted(order))
    ledger.promoted(len(order))
    stage.write_table("words.parquet", scale.words())
    facts = {
        **scale.stamped(outcome.task_features),
        **reading_facts(work.readings),
        **ledger.facts(),
    }
    stage.write_json("task_features.json", facts)


@dataclass(slots=True, kw_only=True)
class _Work:
    """What the funnel asks for, each measurement entered in the ledger."""

    context: Context
    settings: Intervene
    stage: Stage
    steps: Steps
    candidates: Sequence[str]
    clusters: Mapping[str, str]
    ledger: Ledger
    scale: Scale
    readings: list[dict[str, Any]] = field(default_factory=list)
    """All that S3 was read for, once the plan is committed."""

    def direction(self, name: str) -> np.ndarray:
        """Return a feature's decoder row."""
        feature = FeatureId.parse(name)
        return open_sae(self.context.saes[feature.layer]).decoder_rows([feature.index])[0].numpy()

    def screen(self) -> pa.Table:
        """Return the gradient screen of all candidates."""
        self.ledger.screened()
        return self.steps.screen(self.candidates)

    def exact(self, split: str, features: Sequence[str], contrast: bool) -> pa.Table:
        """Return exact deltas on a split."""
        samples = self.scale.exact(split, features, contrast)
        self.ledger.measured(split, samples)
        return samples

    def commit_plan(self, plan: dict[str, Any]) -> None:
        """Write the plan, and put on record that S3 will be read."""
        self.readings = record_plan(self.context, self.steps.splits["S3"], plan)
        self.stage.write_json("plan.json", plan)

    def group(self, features: Sequence[str]) -> pa.Table:
        """Return exact deltas of features amplified together."""
        samples = self.steps.group(features, self.settings.across)
        self.ledger.grouped(features, samples)
        return samples

    def controls(self, name: str) -> pa.Table | None:
        """Return the effects of a feature's controls, None when they do not fit the budget."""
        if not self.ledger.has_room_for_controls(name):
            return None
        effects = measured_controls(self.context, self.steps, name, self.clusters)
        self.ledger.controlled(name)
        return effects
