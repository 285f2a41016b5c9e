"""From per-item values to means, intervals over items, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from igds.stats.bootstrap import paired_bootstrap
from igds.stats.null import or_null
from igds.stats.passk import pass_at_k

TUNED, ORIGINAL = "tuned", "original"
"""Names of the models in `items.parquet`."""


def summarise(items: pa.Table, pass_at: Sequence[int], seed: int) -> dict[str, Any]:
    """Return model -> metric -> mean, low, high, n; and the differences tuned minus original.

    An item's value is the mean over its samples. Intervals are bootstraps over clusters: rows with
    one prompt count as one. pass@k is added where `task_score` is 0 or 1 throughout.

    Args:
        items: with the columns of `ITEMS`.
        pass_at: each k of pass@k.
        seed: of the bootstrap.
    """
    values = {
        (model, metric): by_item
        for model in pc.unique(items["model"]).to_pylist()
        for metric, by_item in item_values(
            items.filter(pc.equal(items["model"], model)), pass_at
        ).items()
    }
    clusters = item_clusters(items)
    models: dict[str, dict[str, Any]] = {}
    for (model, metric), by_item in values.items():
        models.setdefault(model, {})[metric] = _interval(by_item, clusters, seed)
    differences = {
        metric: _interval(_paired(by_item, values[ORIGINAL, metric]), clusters, seed)
        for (model, metric), by_item in values.items()
        if model == TUNED and (ORIGINAL, metric) in values
    }
    return {"models": models, "differences": differences}


def judges_by_0_and_1(items: pa.Table) -> bool:
    """Return whether every task score is 0 or 1, so that samples can be right or wrong."""
    scores = items.filter(pc.equal(items["metric"], "task_score"))["value"].to_numpy()
    return bool(np.isin(scores, (0.0, 1.0)).all())


def item_values(items: pa.Table, pass_at: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return metric -> item -> mean over samples of one model's items; then each pass@k."""
    means = items.group_by(["metric", "item"], use_threads=False).aggregate([("value", "mean")])
    found: dict[str, dict[str, float]] = {}
    for row in means.to_pylist():
        found.setdefault(row["metric"], {})[row["item"]] = row["value_mean"]
    for k in pass_at:
        found[f"pass@{k}"] = _pass_at(items, k)
    return found


def item_clusters(items: pa.Table) -> dict[str, str]:
    """Return item -> its cluster."""
    return dict(zip(items["item"].to_pylist(), items["cluster"].to_pylist(), strict=True))


def _pass_at(items: pa.Table, k: int) -> dict[str, float]:
    """Return item -> its estimate of pass@k."""
    scores = items.filter(pc.equal(items["metric"], "task_score"))
    counted = scores.group_by("item", use_threads=False).aggregate(
        [("value", "sum"), ("value", "count")]
    )
    return {
        row["item"]: float(pass_at_k(np.array([round(row["value_sum"])]), row["value_count"], k)[0])
        for row in counted.to_pylist()
    }


def _paired(tuned: Mapping[str, float], original: Mapping[str, float]) -> dict[str, float]:
    """Return item -> difference, over the items that both have."""
    return {item: tuned[item] - original[item] for item in tuned if item in original}


def _interval(
    by_item: Mapping[str, float], clusters: Mapping[str, str], seed: int
) -> dict[str, Any]:
    """Return the mean over items with its 95 % interval; null where nothing bounds it."""
    values = np.array(list(by_item.values()))
    interval = paired_bootstrap(values, [clusters[item] for item in by_item], seed=seed)
    ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    plain = {name: or_null(end) for name, end in ends.items()}
    return {**plain, "n": len(values)}
