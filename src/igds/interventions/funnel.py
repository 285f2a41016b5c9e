"""The funnel: screen and exact on S1, order on S2, measure on S3, choose.

Pure: what runs the model and what writes come in as functions, so the order of steps (the plan is
written before S3 is read) is in one place and can be tested without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from igds.config.schema import Intervene
from igds.features import FeatureId
from igds.interventions.effects import effects_of
from igds.interventions.rules import RULE
from igds.stats.bootstrap import DRAWS
from igds.stats.rank import spearman

ALIKE = 0.7
"""Decoder cosine or activation correlation from which two features count as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """The steps and the facts that decide; functions are called in the order of the fields."""

    settings: Intervene
    """The stage's section of the configuration."""
    mixed_pool: bool
    """Whether a feature must tell task from control prompts (`data.pool_kind: mixed`)."""
    clusters: Mapping[str, str]
    """Row id -> hash of its prompt."""
    specificity_low: Mapping[str, float]
    """Feature -> lower end of its specificity's interval; NaN where it was not measured."""
    direction: Callable[[str], Float[np.ndarray, " d_model"]]
    """Feature -> its decoder row."""
    seed: int
    """Of the bootstrap draws."""
    screen: Callable[[], pa.Table]
    """The gradient screen of all recalled features on S1."""
    exact: Callable[[str, Sequence[str], bool], pa.Table]
    """(split, features, contrast) -> samples."""
    commit_plan: Callable[[dict[str, Any]], None]
    """Writes the plan; called after S2 and before S3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the stage writes."""

    effects: pa.Table
    """`intervene/effects.parquet`."""
    samples: pa.Table
    """`intervene/samples.parquet`."""
    task_features: dict[str, Any]
    """`intervene/task_features.json`."""


@dataclass(slots=True)
class _Measured:
    """Tables of the splits measured so far."""

    effects: list[pa.Table] = field(default_factory=list)
    samples: list[pa.Table] = field(default_factory=list)


def run_funnel(funnel: Funnel) -> Outcome:
    """Return effects, samples and task features after running every step once.

    S1: the screen, then exact deltas of its `screen_keep` best features. S2: exact deltas and
    contrasts of the `exact_keep` best of those; they fix the order. S3: the first `confirm_n`.
    """
    settings, tables = funnel.settings, _Measured()
    screen = mean_screen(funnel.screen())

    def measure(split: str, features: Sequence[str], contrast: bool) -> dict[str, dict[str, Any]]:
        samples = funnel.exact(split, features, contrast)
        effects = effects_of(
            samples,
            funnel.clusters,
            split=split,
            coefficient=settings.coefficient,
            screen=screen,
            seed=funnel.seed,
        )
        place = samples.schema.get_field_index("feature") + 1
        names = pa.array([split] * len(samples), pa.string())
        tables.samples.append(samples.add_column(place, "split", names))
        tables.effects.append(effects)
        return {row["feature"]: row for row in effects.to_pylist()}

    s1 = measure("S1", best(screen, settings.screen_keep), False)
    s2 = measure("S2", best(_deltas(s1), settings.exact_keep), True)
    order = best(_deltas(s2), len(s2))
    family = order[: settings.confirm_n]
    agreement = spearman(*(np.array([s1[f][c] for f in s1]) for c in ("screen", "delta")))
    plan = _plan(funnel, order, family)
    funnel.commit_plan(plan)
    measure("S3", family, True)
    chosen, refused = choose(funnel, family, s2, _activations(tables.samples[1]))
    return Outcome(
        effects=pa.concat_tables(tables.effects),
        samples=pa.concat_tables(tables.samples),
        task_features={
            "outcome": "unconfirmed" if chosen else "none",
            "features": chosen,
            "order": order,
            "reason": _reason(chosen, refused),
            "refused": refused,
            "screen_spearman": None if np.isnan(agreement) else agreement,
        },
    )


def released(found: Mapping[str, Any], allow_unconfirmed: bool) -> dict[str, Any]:
    """Return what `intervene/task_features.json` says: unconfirmed features only when allowed."""
    if allow_unconfirmed or not found["features"]:
        return dict(found)
    return {
        **found,
        "outcome": "none",
        "features": [],
        "reason": f"nothing is confirmed; the best unconfirmed feature is {found['features'][0]}",
    }


def mean_screen(screen: pa.Table) -> dict[str, float]:
    """Return feature -> mean of its estimates over the examples."""
    means = screen.group_by("feature").aggregate([("screen", "mean")])
    return dict(
        zip(*(means.column(c).to_pylist() for c in ("feature", "screen_mean")), strict=True)
    )


def best(values: Mapping[str, float], keep: int) -> list[str]:
    """Return the `keep` features with the largest values, largest first; ties by name's numbers."""
    return sorted(values, key=lambda name: (-values[name], FeatureId.parse(name)))[:keep]


def choose(
    funnel: Funnel,
    family: Sequence[str],
    s2: Mapping[str, Mapping[str, Any]],
    activations: Mapping[str, Float[np.ndarray, " prompts"]],
) -> tuple[list[str], dict[str, str]]:
    """Return the first `top_k` usable features in S2 order, and why each other one is not used.

    Usable: not a format feature, S2 delta above `delta_min`, specific where the pool is mixed,
    and not like a feature that was chosen before it.
    """
    chosen: list[str] = []
    refused: dict[str, str] = {}
    for name in family:
        if len(chosen) == funnel.settings.top_k:
            break
        why = _objection(funnel, name, s2[name]) or _likeness(funnel, name, chosen, activations)
        if why:
            refused[name] = why
        else:
            chosen.append(name)
    return chosen, refused


def _objection(funnel: Funnel, name: str, effect: Mapping[str, Any]) -> str:
    """Return why a feature cannot be used whatever else is chosen; empty when it can."""
    if effect["label"] == "format":
        return "moves the first tokens or any response alike (format)"
    if effect["delta_contrast"] is None:
        return "no other response in S2 to contrast it with"
    if not effect["delta"] > funnel.settings.delta_min:
        return f"S2 delta {effect['delta']:.4g} is not above {funnel.settings.delta_min:g}"
    low = funnel.specificity_low.get(name, np.nan)
    if funnel.mixed_pool and not low > 0.5:
        return f"not specific: the lower end of its AUROC is {low:.2f}, not above 0.5"
    return ""


def _likeness(
    funnel: Funnel,
    name: str,
    chosen: Sequence[str],
    activations: Mapping[str, Float[np.ndarray, " prompts"]],
) -> str:
    """Return which chosen feature this one repeats; empty when none."""
    for other in chosen:
        cosine = _cosine(funnel.direction(name), funnel.direction(other))
        a, b = activations[name], activations[other]
        correlation = _cosine(a - a.mean(), b - b.mean())
        if max(cosine, correlation) > ALIKE:
            return (
                f"like {other}: decoder cosine {cosine:.2f}, activation correlation "
                f"{correlation:.2f}"
            )
    return ""


def _cosine(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Return the cosine of two vectors, 0 when either is zero."""
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale > 0 else 0.0


def _deltas(effects: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return feature -> delta."""
    return {name: row["delta"] for name, row in effects.items()}


def _activations(samples: pa.Table) -> dict[str, Float[np.ndarray, " prompts"]]:
    """Return feature -> activations, rows in one order for all features."""
    found = {}
    for name in samples.column("feature").unique().to_pylist():
        own = samples.filter(pc.equal(samples.column("feature"), name)).sort_by("row_id")
        found[name] = own.column("activation").to_numpy()
    return found


def _plan(funnel: Funnel, order: Sequence[str], family: Sequence[str]) -> dict[str, Any]:
    """Return what is declared before S3 is read."""
    settings = funnel.settings
    return {
        "features": list(family),
        "order": list(order),
        "metric": "logprob",
        "position": settings.position,
        "rule": RULE,
        "coefficient": settings.coefficient,
        "side": "up",
        "delta_min": settings.delta_min,
        "interval": {"kind": "studentised bootstrap over prompts", "draws": DRAWS, "level": 0.95},
        "test": None,
        "seed": funnel.seed,
    }


def _reason(chosen: Sequence[str], refused: Mapping[str, str]) -> str:
    """Return the outcome in words."""
    if chosen:
        return (
            "first in S2 order among usable features; the family-wise test on S3 is not built "
            "yet, so nothing is confirmed"
        )
    first = next(iter(refused), None)
    if first is None:
        return "no feature was measured"
    return (
        f"none of the first {len(refused)} features in S2 order is usable; the best, {first}: "
        + (refused[first])
    )
