"""The card of a task feature: what it is, what it does and how sure that is, on its own.

The page of a card shows the values of its YAML file, so the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from igds.config.identity import yaml_text
from igds.features import FeatureId, FeatureRef
from igds.interventions.controls import MATCHED
from igds.reporting.environment import environment
from igds.reporting.summaries import control_bars, doses, edit_words
from igds.reporting.values import Control, Effect, Interval, Outputs, Run
from igds.stats.null import or_null

NATS = "nats a response token"
CARDS = "cards"
"""Folder of the cards, beside the page."""


def card_name(feature: FeatureId) -> str:
    """Return the name of a feature's files, without their ending: `L14-11575`."""
    return str(feature).replace("/", "-")


def write_cards(run: Run, folder: Path) -> None:
    """Write `<feature>.yaml` and `<feature>.html` for each task feature of a run."""
    for feature in run.intervene.task_features if run.intervene else ():
        folder.mkdir(parents=True, exist_ok=True)
        values = card(run, feature)
        page = environment().get_template("card.html.j2").render(card=values)
        name = card_name(feature)
        (folder / f"{name}.yaml").write_text(yaml_text(values), encoding="utf-8")
        (folder / f"{name}.html").write_bytes(page.encode())


def card(run: Run, feature: FeatureId) -> dict[str, Any]:
    """Return a task feature's card in plain values; null for what was not measured."""
    intervene, recall = run.intervene, run.recall
    assert intervene is not None and recall is not None, "a task feature has both behind it"
    effect, sae = intervene.effects[feature, intervene.judged_by], recall.quality[feature.layer]
    ref = FeatureRef(
        release=sae.release, revision=sae.revision, layer=feature.layer, index=feature.index
    )
    recalled = recall.features[feature]
    controls = intervene.controls.get(feature, ())
    return {
        "feature": str(feature),
        "outcome": intervene.outcome.upper(),
        "reason": intervene.reason,
        "reread": intervene.reread or None,
        "candidates": recall.candidates,
        "feature_ref": asdict(ref),
        "neuronpedia_id": sae.neuronpedia_id,
        "model": {name: run.manifest["model"].get(name) for name in ("id", "revision")},
        "task": run.config["task"]["name"],
        "template": {"text": run.index["template"], "rendering": run.index["rendering_hash"]},
        "edit": {
            **{name: getattr(effect, name) for name in ("position", "rule", "coefficient")},
            "words": edit_words(effect),
        },
        "effect": _effect(effect, intervene.judged_by),
        "controls": _controls(controls),
        "doses": _doses(controls, effect),
        "two_sided": intervene.two_sided.get(feature),
        "reliability": {
            "split_half_spearman": or_null(intervene.split_half_spearman),
            "top_share": or_null(intervene.top_share),
        },
        "frequency": or_null(recalled.frequency),
        "control_frequency": or_null(recalled.control_frequency),
        "specificity": _interval(recalled.specificity),
        "template_specificity": or_null(recalled.template_specificity),
        "transfer": _transfer(run, feature),
        "promoted": [
            {"token": token, "logit": or_null(logit)}
            for token, logit in intervene.promoted.get(feature, ())
        ],
        "seed": run.manifest["seed"],
        "igds": run.manifest["versions"]["igds"],
    }


def _effect(effect: Effect, judged_by: str) -> dict[str, Any]:
    """Return the delta that is quoted, with all that it was tested for."""
    return {
        "measured_on": "S3" if judged_by == "S3" else "all validation rows",
        "metric": effect.metric,
        "unit": NATS if effect.metric == "logprob" else "task score, 0-1",
        "likelihood_unit": NATS,
        "prompts": effect.n,
        "active": effect.active if judged_by == "S3" else None,
        "label": effect.label,
        "delta": _interval(effect.delta),
        "p_family": or_null(effect.p_family),
        "q": or_null(effect.q),
        "logprob": _interval(effect.logprob),
        "contrast": _interval(effect.contrast),
        "without_first_5": _interval(effect.without_first_5),
        "answer": _interval(effect.answer),
        "push": or_null(effect.push),
        "kl": or_null(effect.kl),
        "neutral_perplexity_ratio": or_null(effect.neutral_perplexity_ratio),
        "outputs": _outputs(effect.outputs) if effect.outputs else None,
    }


def _outputs(outputs: Outputs) -> dict[str, Any]:
    """Return what else the edit did to generated outputs."""
    return {**asdict(outputs), "pass_k": _interval(outputs.pass_k)}


def _controls(controls: Sequence[Control]) -> dict[str, Any]:
    """Return the 95th percentile of each kind that is drawn, and the delta of the two means."""
    bars = control_bars(controls)
    return {
        "unit": NATS,
        "draws": sum(one.kind == MATCHED[0] for one in controls),
        **{f"{kind}_95": bars.get(kind) for kind in MATCHED},
        **{kind: bars.get(kind) for kind in ("mean", "difference")},
    }


def _doses(controls: Sequence[Control], own: Effect) -> dict[str, Any]:
    """Return the delta at each multiple of the feature's own contribution."""
    found = [{"coefficient": c, **(_interval(delta) or {})} for c, delta in doses(controls, own)]
    return {"unit": NATS, "deltas": found}


def _transfer(run: Run, feature: FeatureId) -> dict[str, Any] | None:
    """Return the feature in the model that will be trained; None when that is the same model."""
    if run.transfer is None:
        return None
    found = run.transfer.features.get(feature)
    return {
        "model": run.transfer.model,
        "reason": run.transfer.reason or None,
        "frequency": or_null(found.frequency) if found else None,
        "control_frequency": or_null(found.control_frequency) if found else None,
        "specificity": _interval(found.specificity) if found else None,
    }


def _interval(interval: Interval) -> dict[str, float | None] | None:
    """Return an estimate with its ends; None where it was not measured."""
    if not isfinite(interval.value):
        return None
    ends = {"low": or_null(interval.low), "high": or_null(interval.high)}
    return {"value": interval.value, **ends}
