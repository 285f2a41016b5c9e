"""The funnel: screen and exact on S1, order on S2, test and controls on S3, choose.

Pure: what runs the model and what writes come in as functions, so the order of steps (the plan is
written before S3 is read) is in one place and can be tested without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from igds.config.schema import Intervene
from igds.data.seeds import seeded_bits
from igds.features import FeatureId, group_name
from igds.interventions.choice import Candidates, Choice, choose, objection
from igds.interventions.confirm import (
    JOINT,
    JOINT_FLIPS,
    bars,
    check_flips,
    delta_matrix,
    family_evidence,
    feature_level,
    joint_evidence,
    split_half_spearman,
    top_share,
    unconfirmed,
)
from igds.interventions.controls import CONTROLS
from igds.interventions.effects import effects_of, with_evidence
from igds.stats.bootstrap import DRAWS
from igds.stats.null import or_null
from igds.stats.proportion import wilson
from igds.stats.rank import spearman
from igds.stats.signflip import FLIPS

UNTESTED = Choice(
    outcome="untested",
    features=[],
    confirmed=[],
    refused={},
    reason="features were put in order on S2, and S3 was left unread",
    two_sided={},
    controls=[],
)
"""What a funnel finds that ends at the order."""


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
    metric: str = "logprob"
    """What deltas of S2 and S3 are of: logprob or task_score."""
    confirm: bool = True
    """Whether to go on to S3; without, the order is all there is."""
    screen: Callable[[], pa.Table]
    """The gradient screen of all recalled features on S1."""
    exact: Callable[[str, Sequence[str], bool], pa.Table]
    """(split, features, contrast) -> samples."""
    commit_plan: Callable[[dict[str, Any]], None]
    """Writes the plan; called after S2 and before S3."""
    controls: Callable[[str], pa.Table | None]
    """Feature -> the effects of its controls on S3; None when they do not fit the budget."""
    group: Callable[[Sequence[str]], pa.Table]
    """Samples, contrasts too, of features amplified together on S3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the stage writes."""

    effects: pa.Table
    """`intervene/effects.parquet`."""
    samples: pa.Table
    """`intervene/samples.parquet`."""
    controls: pa.Table
    """`intervene/controls.parquet`."""
    task_features: dict[str, Any]
    """`intervene/task_features.json`."""


@dataclass(slots=True)
class _Measured:
    """The splits measured so far, in order, and last what the task features do together."""

    funnel: Funnel
    screen: Mapping[str, float]
    effects: list[pa.Table] = field(default_factory=list)
    samples: list[pa.Table] = field(default_factory=list)

    def measure(
        self, split: str, features: Sequence[str], *, contrast: bool
    ) -> dict[str, dict[str, Any]]:
        """Measure features on a split; return feature -> its row of effects."""
        return self._add(split, self.funnel.exact(split, features, contrast))

    def joint(self, features: Sequence[str], level: float) -> str:
        """Measure features together on S3; return why that is not confirmed, empty when it is."""
        name, samples = group_name(features), self.funnel.group(features)
        row = self._add("S3", samples)[name]
        found = joint_evidence(samples, self.funnel.clusters, level, self.funnel.seed)
        self.effects[-1] = with_evidence(self.effects[-1], {name: found})
        return unconfirmed(found, row, self.funnel.settings.delta_min, JOINT)

    def _add(self, split: str, samples: pa.Table) -> dict[str, dict[str, Any]]:
        """Keep samples and their effects; return feature -> its row of effects."""
        settings = self.funnel.settings
        effects = effects_of(
            samples,
            self.funnel.clusters,
            split=split,
            rule=settings.rule,
            position=settings.position,
            coefficient=settings.coefficient,
            screen=self.screen,
            seed=self.funnel.seed,
        )
        place = samples.schema.get_field_index("feature") + 1
        names = pa.array([split] * len(samples), pa.string())
        self.samples.append(samples.add_column(place, "split", names))
        self.effects.append(effects)
        return {row["feature"]: row for row in effects.to_pylist()}


def run_funnel(funnel: Funnel) -> Outcome:
    """Return effects, samples and task features after running every step once.

    S1: the screen, then exact deltas of its `screen_keep` best features, and of a few of all other
    ranks to see what it misses. S2: exact deltas and contrasts of the `exact_keep` best of those;
    they fix the order. S3: the first `confirm_n`, tested as one family, then the controls of those
    that could be chosen, and what several chosen ones do together.
    """
    settings, screen = funnel.settings, mean_screen(funnel.screen())
    done = _Measured(funnel=funnel, screen=screen)
    shortlist = best(screen, settings.screen_keep)
    checked = over_ranks(screen, shortlist, settings.screen_check, funnel.seed)
    s1 = done.measure("S1", [*shortlist, *checked], contrast=False)
    s2 = done.measure("S2", best(_deltas(s1), settings.exact_keep), contrast=True)
    order = best(_deltas(s2), len(s2))
    choice = _confirmed(funnel, done, order, s2) if funnel.confirm else UNTESTED
    return Outcome(
        effects=pa.concat_tables(done.effects),
        samples=pa.concat_tables(done.samples, promote_options="default"),
        controls=pa.concat_tables([CONTROLS.empty_table(), *choice.controls]),
        task_features={
            "outcome": choice.outcome,
            "judged_by": "S3" if funnel.confirm else "S2",
            "metric": funnel.metric,
            "features": choice.features,
            "confirmed": choice.confirmed,
            "group": group_name(choice.features) if len(choice.features) > 1 else None,
            "order": order,
            "reason": choice.reason,
            "refused": choice.refused,
            "two_sided": choice.two_sided,
            **_screen_quality(s1, shortlist, checked, settings.exact_keep),
            **_reliability(done.samples[1], order, funnel.seed),
        },
    )


def _confirmed(
    funnel: Funnel,
    done: _Measured,
    order: Sequence[str],
    s2: Mapping[str, Mapping[str, Any]],
) -> Choice:
    """Return what S3 confirms of the first in order, after writing the plan."""
    settings = funnel.settings
    family = order[: settings.confirm_n]
    check_flips(len(family), settings.top_k)
    objections = _objections(funnel, s2, family)
    funnel.commit_plan(_plan(funnel, order, objections))
    s3 = done.measure("S3", family, contrast=True)
    evidence = family_evidence(done.samples[2], family, funnel.clusters, funnel.seed)
    done.effects[2] = with_evidence(done.effects[2], evidence)
    activations, _ = delta_matrix(done.samples[1], family, "activation")
    return choose(
        Candidates(
            settings=settings,
            family=family,
            s3=s3,
            evidence=evidence,
            objections=objections,
            direction=funnel.direction,
            activations=dict(zip(family, activations, strict=True)),
            bars=lambda name: bars(
                done.samples[2],
                name,
                feature_level(settings.top_k) / len(family),
                settings.delta_min,
            ),
            joint=done.joint,
            controls=funnel.controls,
        )
    )


def over_ranks(
    screen: Mapping[str, float], shortlist: Sequence[str], count: int, seed: int
) -> list[str]:
    """Return `count` features that the screen left out, drawn evenly over its ranks."""
    rest = [name for name in best(screen, len(screen)) if name not in set(shortlist)]
    parts = np.array_split(np.array(rest, dtype=object), count) if count else []
    return [
        str(part[seeded_bits(seed, "intervene/screen-check", str(place)) % len(part)])
        for place, part in enumerate(parts)
        if len(part)
    ]


def _screen_quality(
    s1: Mapping[str, Mapping[str, Any]],
    shortlist: Sequence[str],
    checked: Sequence[str],
    exact_keep: int,
) -> dict[str, Any]:
    """Return how the screen agrees with exact deltas on S1, and what it seems to miss.

    `screen_missed` counts the checked features whose exact delta would have gone on to S2.
    """
    agreement = spearman(*(np.array([s1[f][c] for f in s1]) for c in ("screen", "delta")))
    deltas = sorted((s1[name]["delta"] for name in shortlist), reverse=True)
    bar = deltas[min(exact_keep, len(deltas)) - 1]
    missed = sum(s1[name]["delta"] >= bar for name in checked)
    low, high = wilson(missed, len(checked))
    return {
        "screen_spearman": or_null(agreement),
        "screen_checked": len(checked),
        "screen_missed": missed,
        "screen_missed_low": or_null(low),
        "screen_missed_high": or_null(high),
    }


def _reliability(samples: pa.Table, order: Sequence[str], seed: int) -> dict[str, Any]:
    """Return how firm the S2 order is."""
    deltas, _ = delta_matrix(samples, order)
    return {
        "split_half_spearman": or_null(split_half_spearman(deltas, seed)),
        "top_share": top_share(deltas, seed),
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


def _deltas(effects: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return feature -> delta."""
    return {name: row["delta"] for name, row in effects.items()}


def _objections(
    funnel: Funnel, s2: Mapping[str, Mapping[str, Any]], family: Sequence[str]
) -> dict[str, str]:
    """Return feature -> why it cannot be used whatever S3 says; empty when it can."""
    return {
        name: objection(
            s2[name],
            funnel.specificity_low.get(name, np.nan),
            delta_min=funnel.settings.delta_min,
            mixed_pool=funnel.mixed_pool,
        )
        for name in family
    }


def _plan(funnel: Funnel, order: Sequence[str], objections: Mapping[str, str]) -> dict[str, Any]:
    """Return what is declared before S3 is read; features without an objection are usable."""
    settings = funnel.settings
    usable = sum(not why for why in objections.values())
    return {
        "features": list(objections),
        "order": list(order),
        "metric": funnel.metric,
        "generation": _generation(settings) if funnel.metric == "task_score" else None,
        "position": settings.position,
        "rule": settings.rule,
        "coefficient": settings.coefficient,
        "side": "up",
        "delta_min": settings.delta_min,
        "interval": {"kind": "studentised bootstrap over prompts", "draws": DRAWS, "level": 0.95},
        "test": {
            "kind": "studentised sign flips, max-T",
            "flips": FLIPS,
            "alpha": feature_level(settings.top_k),
        },
        "controls": settings.controls,
        "top_k": settings.top_k,
        "group": None if settings.top_k == 1 else _joint_plan(settings, usable),
        "seed": funnel.seed,
    }


def _generation(settings: Intervene) -> dict[str, Any]:
    """Return how outputs are generated, which the task's score of them depends on."""
    names = ("max_new_tokens", "samples", "temperature", "pass_k")
    return {name: getattr(settings, name) for name in names}


def _joint_plan(settings: Intervene, usable: int) -> dict[str, Any]:
    """Return what is declared of the task features' joint delta, where there may be several."""
    return {
        "rule": "the first top_k confirmed features in S2 order, none like one before it",
        "across": settings.across,
        "usable": usable,
        "test": {
            "kind": "studentised sign flips",
            "flips": JOINT_FLIPS,
            "alpha": JOINT,
            "share": "1 / (min(top_k, usable) - 1) / C(usable, members)",
        },
    }
