"""From samples to effects: the mean delta of each feature with its interval and label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from igds.features import FeatureId, is_group
from igds.interventions.confirm import COLUMNS, Evidence
from igds.interventions.rules import Position, Rule
from igds.interventions.side_effects import SIDE_EFFECTS, side_effects
from igds.stats.bootstrap import Interval, paired_bootstraps
from igds.stats.null import or_null

STEMS = {
    "delta": "delta",
    "delta_contrast": "contrast",
    "delta_without_first_5": "without_first_5",
    "delta_answer": "answer",
    "delta_logprob": "logprob",
}
"""Column of a mean -> stem of its `_low` and `_high` columns."""

EFFECTS = pa.schema(
    {
        "feature": pa.string(),
        "layer": pa.int32(),
        "index": pa.int32(),
        "split": pa.string(),
        "metric": pa.string(),
        "position": pa.string(),
        "rule": pa.string(),
        "coefficient": pa.float64(),
        "n": pa.int32(),
        "active": pa.int32(),
        "n_without_first_5": pa.int32(),
        "n_answer": pa.int32(),
        "delta": pa.float64(),
        "delta_low": pa.float64(),
        "delta_high": pa.float64(),
        "delta_contrast": pa.float64(),
        "contrast_low": pa.float64(),
        "contrast_high": pa.float64(),
        "delta_without_first_5": pa.float64(),
        "without_first_5_low": pa.float64(),
        "without_first_5_high": pa.float64(),
        "delta_answer": pa.float64(),
        "answer_low": pa.float64(),
        "answer_high": pa.float64(),
        "delta_logprob": pa.float64(),
        "logprob_low": pa.float64(),
        "logprob_high": pa.float64(),
        "label": pa.string(),
        "screen": pa.float64(),
        "push": pa.float64(),
        "kl": pa.float64(),
        "neutral_perplexity_ratio": pa.float64(),
        **dict.fromkeys(COLUMNS, pa.float64()),
        **SIDE_EFFECTS,
    }
)
"""Columns of `intervene/effects.parquet`."""


def effects_of(
    samples: pa.Table,
    clusters: Mapping[str, str],
    *,
    split: str,
    rule: Rule,
    position: Position,
    coefficient: float,
    screen: Mapping[str, float],
    seed: int,
) -> pa.Table:
    """Return one row a feature, in the order of its first sample, with the columns of `EFFECTS`.

    A group of features has one row under its name, without a layer or an index.

    Args:
        samples: exact deltas of one split, see `exact_samples`; where they are those of the task's
            score, see `with_task_deltas`.
        clusters: row id -> what rows that count as one share: the hash of the prompt.
        split: name of the split.
        rule: what was done to each feature.
        position: where.
        coefficient: multiple of the feature's own contribution that was added.
        screen: feature -> its gradient estimate of the delta; null where there is none.
        seed: of the bootstrap draws.
    """
    measured = [column for column in STEMS if column in samples.column_names]
    names = samples.column("feature").unique().to_pylist()
    heavy = {"delta_by_token", "text", "original_text"} & set(samples.column_names)
    light = samples.drop_columns(sorted(heavy))
    tables = [light.filter(pc.equal(light["feature"], name)) for name in names]
    intervals = {column: _intervals(tables, column, clusters, seed) for column in measured}
    rows = []
    for place, (name, own) in enumerate(zip(names, tables, strict=True)):
        found = {column: intervals[column][place] for column in measured}
        rows.append(
            {
                **row_facts(name, own, clusters, seed),
                "split": split,
                "metric": "task_score" if "task_score" in samples.column_names else "logprob",
                "position": position,
                "rule": rule,
                "coefficient": coefficient,
                "n_without_first_5": len(own) - own.column("delta_without_first_5").null_count,
                "n_answer": len(own) - own.column("delta_answer").null_count,
                **{c: value for column in measured for c, value in _columns(column, found[column])},
                "label": label(
                    found["delta"], found["delta_contrast"], found["delta_without_first_5"]
                ),
                "screen": screen.get(name),
            }
        )
    return pa.Table.from_pylist(rows, schema=EFFECTS)


def row_facts(name: str, own: pa.Table, clusters: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Return what a row says of a feature or group by its samples, whatever they were judged on."""
    feature = None if is_group(name) else FeatureId.parse(name)
    return {
        "feature": name,
        "layer": feature and feature.layer,
        "index": feature and feature.index,
        "n": len(own),
        "active": int(np.count_nonzero(own["activation"].to_numpy() > 0)),
        "push": pc.mean(own["push"]).as_py(),
        "kl": pc.mean(own["kl"]).as_py(),
        **side_effects(own, clusters, seed),
    }


def on_likelihood(effect: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an effect with its teacher-forced delta, nats: what controls are measured in."""
    if effect.get("delta_logprob") is None:
        return effect
    ends = {f"delta_{end}": effect[f"logprob_{end}"] for end in ("low", "high")}
    return {**effect, "delta": effect["delta_logprob"], **ends}


def with_evidence(effects: pa.Table, evidence: Mapping[str, Evidence]) -> pa.Table:
    """Return the effects of S3 with the family test's columns filled in."""
    found = [evidence[name] for name in effects["feature"].to_pylist()]
    for name in COLUMNS:
        effects = _filled(effects, name, [getattr(one, name) for one in found])
    return effects


def with_neutral(effects: pa.Table, split: str, ratios: Mapping[str, float]) -> pa.Table:
    """Return the effects with the perplexity ratio of each named feature in its row of a split."""
    keys = zip(*(effects[column].to_pylist() for column in ("feature", "split")), strict=True)
    values = [ratios.get(name) if where == split else None for name, where in keys]
    return _filled(effects, "neutral_perplexity_ratio", values)


def label(delta: Interval, contrast: Interval, without_first_5: Interval) -> str:
    """Return what one split says of a feature.

    harmful: the delta's interval lies below 0. format: the delta is above 0, but not without the
    first 5 response tokens, or not more than on another row's response. helpful: its interval
    lies above 0 and it is no format feature by a contrast that was measured. unclear: the rest.
    Where no response is longer than 5 tokens the contrast judges alone.
    """
    if delta.high < 0:
        return "harmful"
    if delta.mean > 0 and (contrast.mean <= 0 or without_first_5.mean <= 0):
        return "format"
    if delta.low > 0 and contrast.mean > 0:
        return "helpful"
    return "unclear"


def _filled(effects: pa.Table, column: str, values: Sequence[float | None]) -> pa.Table:
    """Return the effects with one column replaced."""
    place = effects.schema.get_field_index(column)
    return effects.set_column(place, EFFECTS.field(column), pa.array(values, pa.float64()))


def _intervals(
    tables: Sequence[pa.Table], column: str, clusters: Mapping[str, str], seed: int
) -> list[Interval]:
    """Return the interval of each feature's values, over the rows that have one.

    Features with values on the same rows, which is all of a split, are drawn together.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    kept = [table.filter(pc.is_valid(table[column])) for table in tables]
    for place, table in enumerate(kept):
        alike.setdefault(tuple(table["row_id"].to_pylist()), []).append(place)
    found = {}
    for rows, places in alike.items():
        values = np.stack([kept[place][column].to_numpy() for place in places])
        ours = paired_bootstraps(values, [clusters[row] for row in rows], seed=seed)
        found |= dict(zip(places, ours, strict=True))
    return [found[place] for place in range(len(tables))]


def _columns(column: str, interval: Interval) -> list[tuple[str, float | None]]:
    """Return the mean, low and high columns; null for what is not a number."""
    stem = STEMS[column]
    names = (column, f"{stem}_low", f"{stem}_high")
    values = (interval.mean, interval.low, interval.high)
    return [(n, or_null(v)) for n, v in zip(names, values, strict=True)]
