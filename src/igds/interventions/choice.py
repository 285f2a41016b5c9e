"""Which features become task features, and why each other one does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from igds.config.schema import Intervene
from igds.interventions.confirm import Bar, Evidence, prompts_needed, unconfirmed
from igds.interventions.controls import beaten_by, two_sided

ALIKE = 0.7
"""Decoder cosine or activation correlation from which two features count as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The declared family, and all that is known of it."""

    settings: Intervene
    """The stage's section of the configuration."""
    mixed_pool: bool
    """Whether a feature must tell task from control prompts."""
    family: Sequence[str]
    """Features measured on S3, in S2 order."""
    s2: Mapping[str, Mapping[str, Any]]
    """Feature -> its effect on S2."""
    s3: Mapping[str, Mapping[str, Any]]
    """Feature -> its effect on S3."""
    evidence: Mapping[str, Evidence]
    """Feature -> its place in the family test."""
    specificity_low: Mapping[str, float]
    """Feature -> lower end of its specificity's interval; NaN where it was not measured."""
    direction: Callable[[str], Float[np.ndarray, " d_model"]]
    """Feature -> its decoder row."""
    activations: Mapping[str, Float[np.ndarray, " prompts"]]
    """Feature -> its activations on S2."""
    bars: Callable[[str], list[Bar]]
    """Feature -> all that S3 must show of it."""
    controls: Callable[[str], pa.Table]
    """Feature -> the effects of its controls on S3; called once for each that could be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The task features, or why there are none."""

    outcome: str
    """confirmed, unconfirmed or none."""
    features: list[str]
    """F_task."""
    refused: dict[str, str]
    """Features passed over before the choice was made -> why."""
    reason: str
    """The outcome in words."""
    two_sided: dict[str, bool]
    """Task feature -> whether amplification helps and ablation harms."""
    controls: list[pa.Table]
    """Effects of the controls that were measured."""


def choose(given: Candidates) -> Choice:
    """Return the first `top_k` confirmed features in S2 order; unconfirmed ones only if allowed.

    Confirmed: not a format feature, S2 delta above `delta_min`, specific where the pool is mixed,
    not like a feature chosen before, confirmed by the family test on S3, and beyond its controls.
    """
    top_k = given.settings.top_k
    controls: dict[str, pa.Table] = {}
    confirmed, refused = _pick(given, top_k, lambda name: _doubt(given, name, controls))
    usable, unusable = _pick(given, top_k, lambda _name: "")
    if len(confirmed) == 1:
        features, outcome = confirmed, "confirmed"
        reason = "confirmed on S3 by the family-wise test, and beyond its controls"
    elif confirmed and given.settings.allow_unconfirmed:
        features, outcome = confirmed, "unconfirmed"
        reason = f"each of {', '.join(confirmed)} is confirmed on S3, but not what they do together"
    elif usable and given.settings.allow_unconfirmed:
        features, outcome, refused = usable, "unconfirmed", unusable
        why = _why(given, usable[0], controls)
        reason = f"{usable[0]} is the first usable feature in S2 order, but {why}"
    else:
        features, outcome = [], "none"
        reason = _nothing(given, confirmed, usable, refused, controls)
    sides = {f: two_sided(given.s3[f], _controls(given, f, controls)) for f in features}
    return Choice(
        outcome=outcome,
        features=features,
        refused=refused,
        reason=reason,
        two_sided=sides,
        controls=list(controls.values()),
    )


def _pick(
    given: Candidates, top_k: int, doubt: Callable[[str], str]
) -> tuple[list[str], dict[str, str]]:
    """Return the first features without an objection, and the objections to those before."""
    chosen: list[str] = []
    refused: dict[str, str] = {}
    for name in given.family:
        if len(chosen) == top_k:
            break
        why = _objection(given, name) or _likeness(given, name, chosen) or doubt(name)
        if why:
            refused[name] = why
        else:
            chosen.append(name)
    return chosen, refused


def _objection(given: Candidates, name: str) -> str:
    """Return why a feature cannot be used whatever else is chosen; empty when it can."""
    effect = given.s2[name]
    if effect["label"] == "format":
        return "moves the first tokens or any response alike (format)"
    if effect["delta_contrast"] is None:
        return "no other response in S2 to contrast it with"
    if not effect["delta"] > given.settings.delta_min:
        return f"S2 delta {effect['delta']:.4g} is not above {given.settings.delta_min:g}"
    low = given.specificity_low.get(name, np.nan)
    if given.mixed_pool and not low > 0.5:
        return f"not specific: the lower end of its AUROC is {low:.2f}, not above 0.5"
    return ""


def _likeness(given: Candidates, name: str, chosen: Sequence[str]) -> str:
    """Return which chosen feature this one repeats; empty when none."""
    for other in chosen:
        cosine = _cosine(given.direction(name), given.direction(other))
        a, b = given.activations[name], given.activations[other]
        correlation = _cosine(a - a.mean(), b - b.mean())
        if max(cosine, correlation) > ALIKE:
            return (
                f"like {other}: decoder cosine {cosine:.2f}, activation correlation "
                f"{correlation:.2f}"
            )
    return ""


def _doubt(given: Candidates, name: str, controls: dict[str, pa.Table]) -> str:
    """Return why S3 does not confirm a feature, by the test and then by its controls."""
    effect = given.s3[name]
    doubt = unconfirmed(given.evidence[name], effect, given.settings.delta_min)
    if doubt:
        return doubt
    if not given.settings.controls:
        return "not confirmed: no controls were drawn (intervene.controls is 0)"
    beaten = beaten_by(effect["delta"], _controls(given, name, controls))
    return f"no better than its controls: {beaten}" if beaten else ""


def _controls(given: Candidates, name: str, known: dict[str, pa.Table]) -> pa.Table:
    """Return the effects of a feature's controls, measured at the first call."""
    if name not in known:
        known[name] = given.controls(name)
    return known[name]


def _why(given: Candidates, name: str, controls: dict[str, pa.Table]) -> str:
    """Return why a usable feature is unconfirmed, and what would settle it."""
    doubt = _doubt(given, name, controls)
    if not doubt.startswith("not confirmed on S3"):
        return doubt
    found = given.bars(name)
    needed = prompts_needed(found)
    if needed is None or needed <= len(found[0].values):
        return doubt
    return f"{doubt}; about {needed} new prompts in S3 (intervene.confirm_rows) would settle it"


def _nothing(
    given: Candidates,
    confirmed: Sequence[str],
    usable: Sequence[str],
    refused: Mapping[str, str],
    controls: dict[str, pa.Table],
) -> str:
    """Return why there is no task feature."""
    if confirmed:
        return (
            f"each of {', '.join(confirmed)} is confirmed on S3, but not what they do together: "
            "set intervene.top_k to 1"
        )
    if usable:
        why = _why(given, usable[0], controls)
        return f"nothing is confirmed; the best unconfirmed feature is {usable[0]}: {why}"
    first = next(iter(refused), None)
    if first is None:
        return "no feature was measured"
    return (
        f"none of the first {len(refused)} features in S2 order is usable; the best, {first}: "
        + refused[first]
    )


def _cosine(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Return the cosine of two vectors, 0 when either is zero."""
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale > 0 else 0.0
