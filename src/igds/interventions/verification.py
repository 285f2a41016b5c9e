"""Named features put to the test on S3: declared first, then judged by the bars of the funnel.

Pure, as the funnel is: what runs the model and what writes come in as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from igds.config.schema import Intervene
from igds.interventions.confirm import (
    ALPHA,
    Evidence,
    bars,
    check_flips,
    family_evidence,
    prompts_needed,
    unconfirmed,
)
from igds.interventions.controls import (
    DOSES,
    MATCHED,
    control_doubt,
    dose,
    percentile_95,
    two_sided,
)
from igds.interventions.effects import effects_of, with_evidence
from igds.interventions.rules import Position
from igds.stats.bootstrap import DRAWS
from igds.stats.null import or_null
from igds.stats.signflip import FLIPS

MEASURED = (
    "n", "active", "delta", "delta_low", "delta_high", "delta_contrast", "contrast_low",
    "contrast_high", "delta_without_first_5", "without_first_5_low", "without_first_5_high",
    "label", "p_family", "push",
)  # fmt: skip
"""Columns of an effect that a verdict repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What is asked and how it is measured; functions are called in the order of the fields."""

    settings: Intervene
    """The section of the configuration: coefficient, bars and controls."""
    features: Sequence[str]
    """The named features, in the order given."""
    positions: Sequence[Position]
    """Where each is edited."""
    clusters: Mapping[str, str]
    """Row id -> hash of its prompt."""
    seed: int
    """Of the sign flips and the bootstrap draws."""
    commit_plan: Callable[[dict[str, Any]], None]
    """Writes the plan, before S3 is read."""
    exact: Callable[[Position], pa.Table]
    """Position -> samples of all features on S3."""
    controls: Callable[[Position, str], pa.Table]
    """(position, feature) -> the effects of its controls on S3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What the stage writes; each table has a column `position`."""

    effects: pa.Table
    samples: pa.Table
    controls: pa.Table
    verdicts: list[dict[str, Any]]
    """One a feature and position, see `_verdict`."""


def run_verification(given: Verification) -> Verified:
    """Return effects, controls and verdicts of all named features at all positions.

    Features times positions are one family: its p values are adjusted for all of them.
    """
    family = [_member(name, at) for name in given.features for at in given.positions]
    check_flips(len(family), top_k=1)
    given.commit_plan(_plan(given))
    samples: dict[Position, pa.Table] = {at: given.exact(at) for at in given.positions}
    # The test knows a member of the family by one name.
    members = pa.concat_tables(_renamed(table, position) for position, table in samples.items())
    evidence = family_evidence(members, family, given.clusters, given.seed)
    effects, controls, verdicts = [], [], []
    for position, table in samples.items():
        own = {name: evidence[_member(name, position)] for name in given.features}
        effects.append(with_evidence(_effects(given, position, table), own))
        for effect in effects[-1].to_pylist():
            name = effect["feature"]
            found = given.controls(position, name)
            controls.append(_at(found, position))
            needed = prompts_needed(
                bars(
                    members, _member(name, position), ALPHA / len(family), given.settings.delta_min
                )
            )
            verdicts.append(_verdict(effect, own[name], found, given.settings, needed))
    order = [(name, at) for name in given.features for at in given.positions]
    return Verified(
        effects=pa.concat_tables(effects),
        samples=pa.concat_tables(_at(table, position) for position, table in samples.items()),
        controls=pa.concat_tables(controls),
        verdicts=sorted(verdicts, key=lambda one: order.index((one["feature"], one["position"]))),
    )


def _effects(given: Verification, position: Position, samples: pa.Table) -> pa.Table:
    """Return the effects of all features at one position."""
    return effects_of(
        samples,
        given.clusters,
        split="S3",
        rule=given.settings.rule,
        position=position,
        coefficient=given.settings.coefficient,
        screen={},
        seed=given.seed,
    )


def _verdict(
    effect: Mapping[str, Any],
    found: Evidence,
    controls: pa.Table,
    settings: Intervene,
    needed: int | None,
) -> dict[str, Any]:
    """Return what S3 says of one feature at one position, in plain values.

    `prompts_needed` is how many prompts would confirm it 9 times in 10 if its means are what they
    seem; null where it is confirmed, where a mean is not above its bar, and where the controls
    are what it does not beat.
    """
    doubt = _doubt(effect, found, controls, settings)
    unsettled = doubt.startswith("not confirmed on S3") and (needed or 0) > effect["n"]
    return {
        "feature": effect["feature"],
        "position": effect["position"],
        "confirmed": not doubt,
        "reason": doubt or "confirmed on S3 by the family-wise test, and beyond its controls",
        "prompts_needed": needed if unsettled else None,
        **{name: effect[name] for name in MEASURED},
        "two_sided": two_sided(effect, controls),
        "ablated": dose(controls, -1.0)["delta"],
        "controls_95": {kind: or_null(percentile_95(controls, kind)) for kind in MATCHED},
        # There is one of each, so that its percentile is its delta.
        "controls_mean": {
            kind: or_null(percentile_95(controls, kind)) for kind in ("mean", "difference")
        },
    }


def _doubt(
    effect: Mapping[str, Any], found: Evidence, controls: pa.Table, settings: Intervene
) -> str:
    """Return why a feature is not confirmed; empty when it is."""
    if not effect["active"] and (settings.rule, effect["position"]) == ("amplify", "read"):
        return "inactive on every prompt of S3: to amplify it changes nothing"
    doubt = unconfirmed(found, effect, settings.delta_min, ALPHA)
    return doubt or control_doubt(effect["delta"], settings.controls, lambda: controls)


def _plan(given: Verification) -> dict[str, Any]:
    """Return what is declared before S3 is read."""
    settings = given.settings
    return {
        "features": list(given.features),
        "positions": list(given.positions),
        "family": len(given.features) * len(given.positions),
        "split": "S3",
        "metric": "logprob",
        "rule": settings.rule,
        "coefficient": settings.coefficient,
        "side": "up",
        "delta_min": settings.delta_min,
        "interval": {"kind": "studentised bootstrap over prompts", "draws": DRAWS, "level": 0.95},
        "test": {"kind": "studentised sign flips, max-T", "flips": FLIPS, "alpha": ALPHA},
        "controls": settings.controls,
        "top_k": 1,  # each feature stands alone
        "doses": list(DOSES),
        "seed": given.seed,
    }


def _member(feature: str, position: str) -> str:
    return f"{feature} {position}"


def _renamed(samples: pa.Table, position: str) -> pa.Table:
    """Return samples whose features carry their position in their name."""
    names = pa.array([_member(name, position) for name in samples["feature"].to_pylist()])
    return samples.set_column(samples.schema.get_field_index("feature"), "feature", names)


def _at(table: pa.Table, position: str) -> pa.Table:
    """Return a table with a column of the position behind that of the feature."""
    place = table.schema.get_field_index("feature") + 1
    return table.add_column(place, "position", pa.array([position] * len(table), pa.string()))
