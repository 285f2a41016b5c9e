"""The published procedure (eq. 3-5): each recalled feature, generated outputs, the task's score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from igds.features import FeatureId
from igds.interventions.effects import EFFECTS, row_facts
from igds.interventions.rules import Rule
from igds.stats.bootstrap import paired_bootstrap
from igds.stats.null import or_null

SPLIT = "all"
"""The procedure has one split: what chooses a feature also says how good it is."""
POSITIONS = ("read", "generated")
"""Where the state is edited; the paper names none, so both are measured."""


def paper_effects(
    samples: pa.Table, clusters: Mapping[str, str], *, rule: Rule, coefficient: float, seed: int
) -> pa.Table:
    """Return one row a feature and position with the columns of `EFFECTS`, best first.

    Best is the largest delta; of ablated features the smallest, as the task misses those most.

    Args:
        samples: see `SCORED`.
        clusters: row id -> hash of its prompt.
        rule: what was done to each feature.
        coefficient: multiple of the feature's own contribution that was added.
        seed: of the bootstrap draws.
    """
    rows = []
    keys = samples.group_by(["position", "feature"], use_threads=False).aggregate([]).to_pylist()
    for key in keys:
        position, name = key["position"], key["feature"]
        own = samples.filter((pc.field("position") == position) & (pc.field("feature") == name))
        names = [clusters[row] for row in own["row_id"].to_pylist()]
        found = paired_bootstrap(own["delta"].to_numpy(), names, seed=seed)
        low, high = map(or_null, (found.low, found.high))
        rows.append(
            {
                **row_facts(name, own, clusters, seed),
                "split": SPLIT,
                "metric": "task_score",
                "position": position,
                "rule": rule,
                "coefficient": coefficient,
                "delta": found.mean,
                "delta_low": low,
                "delta_high": high,
                "label": _label(low, high),
            }
        )
    sign = 1 if rule == "ablate" else -1
    rows.sort(
        key=lambda row: (row["position"], sign * row["delta"], FeatureId.parse(row["feature"]))
    )
    return pa.Table.from_pylist(rows, schema=EFFECTS)


def paper_choice(
    effects: pa.Table, pilot: Mapping[str, Any], *, position: str, top_k: int
) -> dict[str, Any]:
    """Return what `intervene/task_features.json` says: the top K by mean delta, unconfirmed."""
    here = effects.filter(pc.field("position") == position).to_pylist()
    ranked = [row["feature"] for row in here]
    reason = (
        "the published procedure chooses and judges on the same rows, so nothing is confirmed; the "
        f"unedited model's task score is {here[0]['original_score']:.3f}"
    )
    if pilot["reason"]:
        reason += f"; the pilot says that the metric does not inform: {pilot['reason']}"
    return {
        "outcome": "unconfirmed",
        "judged_by": position,
        "metric": "task_score",
        "judged_on": "task score",
        "features": ranked[:top_k],
        "order": ranked,
        "reason": reason,
        "refused": {},
        "two_sided": {},
        "screen_spearman": None,
        "screen_checked": 0,
        "screen_missed": 0,
        "screen_missed_low": None,
        "screen_missed_high": None,
        "split_half_spearman": None,
        "top_share": None,
    }


def _label(low: float | None, high: float | None) -> str:
    """Return helpful or harmful where the interval is on one side of 0."""
    if low is not None and low > 0:
        return "helpful"
    return "harmful" if high is not None and high < 0 else "unclear"
