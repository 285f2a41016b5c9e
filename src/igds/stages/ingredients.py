"""What the score stage's methods are made from, and what makes two scorings the same work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from igds.config.scoring import DRAWS, RATIOS, READ_PROMPTS, READ_RESPONSES, USE_FEATURES, Score
from igds.data.index import load_index
from igds.data.seeds import seeded_bits
from igds.errors import NoTaskFeature, RequestError
from igds.features import FeatureId
from igds.methods.matched import SAMPLE, Match, matched_draws
from igds.methods.registry import Ingredients, has_chance, split_draw
from igds.reading.work import RESIDUAL_COLUMN, ResidualWork, as_matrix, n_rows, row_ranges
from igds.runs.stage import Stage
from igds.stages.context import Context

if TYPE_CHECKING:
    from igds.models.load import ModelSpec


def method_identity(context: Context, name: str, version: int) -> dict[str, Any]:
    """Return what makes two scorings by one method the same work."""
    settings = _settings(context)
    base, _ = split_draw(name)
    parts: dict[str, Any] = {"method": name, "index": context.input_identity("index")}
    if name in USE_FEATURES:
        parts["features"] = [str(feature) for feature in _required_features(context)]
    if name in USE_FEATURES or name == "igds-nofilter":
        parts["aggregate"] = settings.aggregate
    if name in USE_FEATURES and settings.aggregate == "delta_weighted":
        deltas = _deltas(context)
        parts["deltas"] = [deltas[feature] for feature in context.task_features]
    if name in READ_PROMPTS:
        parts["model"] = context.model_identity
        parts["inputs"] = context.input_identity("recall")
    if name in READ_RESPONSES:
        from igds.models.load import model_identity

        parts["model"] = model_identity(_response_model(context, name))
        parts["max_length"] = settings.max_length
    if name in RATIOS:
        parts["marker"] = _marker(context)
    ranked = {
        "rds": {},
        "zip": {"zip": settings.zip},
        "random-balanced": {"balance": settings.balance},
    }
    if base in ranked:
        parts |= {"copies": "behind all rows", **ranked[base]}
    if has_chance(name):
        parts["seed"] = context.config.seed
    return context.stage_identity(version, **parts)


def gather(context: Context, stages: Mapping[str, Stage]) -> Ingredients:
    """Return what methods are made from, the pool's sample for igds-matched read now.

    It is read under the plan that the first igds-matched was begun with. Its draws share the
    sample, for none of them may take what another one took.

    Args:
        context: the run.
        stages: method -> its stage, open for work.
    """
    names = list(stages)
    matched = [stage for name, stage in stages.items() if split_draw(name)[0] == "igds-matched"]
    bases = {split_draw(name)[0] for name in names}
    features = context.task_features if set(names) & set(USE_FEATURES) else ()
    recalled = _recalled(context) if bases & {"igds-frequency", "igds-nofilter"} else ()
    return Ingredients(
        features=features,
        saes=context.saes if set(names) & set(READ_PROMPTS) else {},
        residuals=context.run.path / "recall" / "residuals",
        deltas=_deltas(context) if features else {},
        recalled=recalled,
        matched=_matched(context, features, matched[0].plan) if matched else (),
        models={
            name: asdict(_response_model(context, name)) for name in names if name in READ_RESPONSES
        },
        settings=_settings(context),
        seed=context.config.seed,
    )


def response_arguments(
    context: Context, model: Mapping[str, Any], methods: Sequence[str]
) -> dict[str, Any]:
    """Return how one model reads prompt and response for some methods, as workers are told."""
    return {
        "marker": _marker(context) if set(methods) & set(RATIOS) else "",
        "chat": context.config.prompts.chat_template,
        "own_prompts": dict(model) == asdict(context.model),
        "max_length": _settings(context).max_length,
    }


def _settings(context: Context) -> Score:
    assert context.config.score is not None, "the pipeline runs only stages that have a section"
    return context.config.score


def _response_model(context: Context, name: str) -> ModelSpec:
    """Return the model that reads prompt and response for a method."""
    from igds.models.load import resolve_model

    settings = _settings(context)
    chosen = settings.model
    if name == "superfilter":
        chosen = settings.superfilter_model or settings.model
    if chosen is None:
        return context.model
    return resolve_model(chosen, context.config.runtime.device, context.base)


def _marker(context: Context) -> str:
    """Return what stands before a response without its prompt.

    Raises:
        RequestError: prompts are in a chat template and the marker is not stated.
    """
    stated = _settings(context).marker
    if stated is not None:
        return stated
    if context.config.prompts.chat_template:
        raise RequestError(
            f"{' and '.join(RATIOS)} read a response without its prompt: in a chat template state "
            "score.marker, the text that opens the assistant's turn"
        )
    return context.template.cue


def _required_features(context: Context) -> tuple[FeatureId, ...]:
    """Return F_task.

    Raises:
        NoTaskFeature: interventions left none; the best unconfirmed feature is named.
    """
    settings = context.config.intervene
    if not context.task_features:
        advice = (
            "To go on with the best one, stamped UNCONFIRMED, set intervene.allow_unconfirmed: true"
        )
        if settings is not None and settings.allow_unconfirmed:
            advice = "Measure more of them (intervene.confirm_n), or add SAEs of other blocks,"
        raise NoTaskFeature(
            f"no task feature to score with: {context.outcome['reason']}. {advice} and say "
            "--overwrite"
        )
    return context.task_features


def _deltas(context: Context) -> dict[FeatureId, float]:
    """Return feature -> its delta on S2; in the paper mode that at the position which ranks."""
    settings = context.intervene
    split = "all" if settings.mode == "paper" else "S2"
    effects = pq.read_table(
        context.run.path / "intervene" / "effects.parquet",
        columns=["feature", "delta"],
        filters=[("split", "==", split), ("position", "==", settings.position)],
    )
    names, deltas = (effects[column].to_pylist() for column in ("feature", "delta"))
    return dict(zip(map(FeatureId.parse, names), deltas, strict=True))


def _recalled(context: Context) -> tuple[FeatureId, ...]:
    """Return recalled features, the most frequent first, of equal ones the more specific."""
    table = pq.read_table(
        context.run.path / "recall" / "features.parquet",
        columns=["layer", "index", "frequency", "specificity"],
        filters=[("recalled", "==", True)],
    )
    rows = table.to_pylist()
    rows.sort(key=lambda row: (-row["frequency"], -(row["specificity"] or 0.0)))
    return tuple(FeatureId(row["layer"], row["index"]) for row in rows)


def _matched(
    context: Context, features: Sequence[FeatureId], plan: Mapping[str, Any]
) -> list[list[Match]]:
    """Return stand-ins of the task features, by what a sample of the pool shows of their SAEs."""
    layers = sorted({feature.layer for feature in features})
    residuals = _sample(context, layers, plan)
    context.executor.close()  # frees the model before SAEs are loaded
    saes = {layer: context.load_sae(layer) for layer in layers}
    draws = matched_draws(features, saes, residuals, DRAWS)
    if len(draws) < DRAWS:
        context.progress.note(
            f"note: only {len(draws)} of {DRAWS} sets of features resemble the task features on "
            "the pool"
        )
    return draws


def _sample(
    context: Context, layers: Sequence[int], plan: Mapping[str, Any]
) -> dict[int, torch.Tensor]:
    """Return block -> residuals at t* of a seeded sample of the pool's ok rows."""
    index = context.run.path / "index"
    rows = load_index(index, ["row_id", "status"])
    names = rows["row_id"].to_pylist()
    ok = np.flatnonzero(np.array(rows["status"].to_pylist()) == "ok").tolist()
    draw = partial(seeded_bits, context.config.seed, "score/igds-matched")
    chosen = np.array(sorted(sorted(ok, key=lambda place: draw(names[place]))[:SAMPLE]))
    shards, start = [], 0
    for shard in row_ranges(index, plan["shard_rows"]):
        inside = chosen[(chosen >= start) & (chosen < start + n_rows(shard))] - start
        if len(inside):
            shards.append({**shard, "rows": inside.tolist()})
        start += n_rows(shard)
    found: dict[int, pa.Table] = {}
    context.run_shards(
        f"{ResidualWork.__module__}:{ResidualWork.__name__}",
        {"layers": list(layers), "batch_tokens": plan["batch_tokens"]},
        shards,
        plan,
        found.__setitem__,
        "score: a sample of the pool for igds-matched",
        [len(shard["rows"]) for shard in shards],
    )
    joined = pa.concat_tables([found[place] for place in sorted(found)])
    return {
        layer: torch.from_numpy(as_matrix(joined[RESIDUAL_COLUMN.format(layer=layer)]).copy())
        for layer in layers
    }
