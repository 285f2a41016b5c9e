"""Methods by name: what each needs, and the scorer that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from igds.config.scoring import DRAWN, DRAWS, Score
from igds.data.seeds import seeded_bits
from igds.errors import NoStandIn
from igds.features import FeatureId
from igds.methods import dense, likelihood, probe, rds, resonance, simple
from igds.methods.aggregate import aggregate
from igds.methods.base import ORDER, MethodSpec, RowScorer
from igds.methods.matched import Match
from igds.saes.load import SAESpec, open_sae

SCORERS: Mapping[str, Callable[..., RowScorer]] = {
    "resonance": resonance.ResonanceScorer,
    "resonance-sum": resonance.SummedScorer,
    "cosine": dense.CosineScorer,
    "probe": probe.ProbeScorer,
    "loss": likelihood.LossScorer,
    "ratio": likelihood.RatioScorer,
    "embedding": rds.EmbeddingScorer,
    "length": simple.LengthScorer,
    "random": simple.RandomScorer,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """What the stages before scoring found, and what the configuration says."""

    features: tuple[FeatureId, ...] = ()
    """Task features F_task, in order."""
    saes: Mapping[int, SAESpec] = field(default_factory=dict)
    """Block -> SAE, on disk."""
    residuals: Path
    """The recall stage's folder of residuals."""
    deltas: Mapping[FeatureId, float] = field(default_factory=dict)
    """Task feature -> its delta on S2."""
    recalled: tuple[FeatureId, ...] = ()
    """Recalled features, the most frequent first."""
    matched: Sequence[Sequence[Match]] = ()
    """Stand-ins of the task features, one set a draw."""
    models: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Method that reads responses -> fields of its model's `ModelSpec`."""
    settings: Score
    """The configuration's section."""
    seed: int
    """The run's seed."""


def resolve_method(name: str, given: Ingredients) -> MethodSpec:
    """Return the method with everything its scorer or ranker needs.

    igds sums the task features; igds-bottom turns their order round; igds-random takes as many
    random features of the same SAEs, igds-matched those that resemble them; igds-frequency is the
    most frequent recalled feature, igds-nofilter the sum of all. cosine and probe are read at the
    first task feature's block, cosine-best at the block that parts held-out prompts best.
    """
    base, _ = split_draw(name)
    return METHODS[base](name, given)


def split_draw(name: str) -> tuple[str, int]:
    """Return a method's name without its draw, and the number of the draw, from 1."""
    base, _, number = name.rpartition("-")
    if base and number.isdigit() and int(number) <= DRAWS:
        return base, int(number)
    return name, 1


def random_features(given: Ingredients, draw: int = 1) -> tuple[FeatureId, ...]:
    """Return for each task feature another feature of its SAE, drawn by the seed, none twice."""
    drawn: list[FeatureId] = []
    for rank, feature in enumerate(given.features):
        taken = {f.index for f in (*given.features, *drawn) if f.layer == feature.layer}
        d_sae = open_sae(given.saes[feature.layer]).d_sae
        free = [index for index in range(d_sae) if index not in taken]
        bits = seeded_bits(given.seed, _stream("score/igds-random", draw), str(rank))
        drawn.append(FeatureId(feature.layer, free[bits % len(free)]))
    return tuple(drawn)


def has_chance(name: str) -> bool:
    """Return whether a method depends on the seed; rankers order equal rows by it."""
    base, _ = split_draw(name)
    return base in DRAWN or name in ("zip", "rds")


def _stream(name: str, draw: int) -> str:
    return name if draw == 1 else f"{name}/{draw}"


def _resonance(
    name: str, features: Sequence[FeatureId], given: Ingredients, sign: float = 1.0, **facts: Any
) -> MethodSpec:
    saes = _saes(features, given)
    arguments: dict[str, Any] = {"saes": saes, "features": [str(feature) for feature in features]}
    # Other features than the task's may never vary, so they have no z score.
    own = features == given.features
    deltas = [given.deltas[feature] for feature in features] if own else []
    weights, offset = aggregate(_kind(given, own), features, given.saes, given.residuals, deltas)
    return MethodSpec(
        name=name,
        kind="resonance",
        weights={column: sign * weight for column, weight in weights.items()},
        offset=sign * offset,
        arguments=arguments,
        facts=facts,
    )


def _matched(name: str, given: Ingredients) -> MethodSpec:
    """Return the method of one draw of stand-ins.

    Raises:
        NoStandIn: there are fewer draws.
    """
    _, draw = split_draw(name)
    if draw > len(given.matched):
        raise NoStandIn(
            f"{name}: only {len(given.matched)} sets of features resemble the task features on the "
            "pool; leave the further draws out of score.methods",
            len(given.matched),
        )
    matches = given.matched[draw - 1]
    features = tuple(match.feature for match in matches)
    facts = [
        {**asdict(match), "feature": str(match.feature), "task_feature": str(match.task_feature)}
        for match in matches
    ]
    return _resonance(name, features, given, matched=facts, draws=len(given.matched))


def _sum(name: str, given: Ingredients) -> MethodSpec:
    kind = _kind(given, own=False)
    weights, _ = aggregate(kind, given.recalled, given.saes, given.residuals, [])
    arguments = {"saes": _saes(given.recalled, given), "weights": weights}
    return _single(name, "resonance-sum", "sum", arguments, features=len(weights))


def _kind(given: Ingredients, own: bool) -> str:
    """Return how features are summed: as configured, but without z scores unless they vary."""
    kind = given.settings.aggregate
    return kind if own or kind in ("raw", "folded") else "auto"


def _saes(features: Sequence[FeatureId], given: Ingredients) -> dict[str, dict[str, Any]]:
    layers = sorted({feature.layer for feature in features})
    return {str(layer): asdict(given.saes[layer]) for layer in layers}


def _dense(name: str, kind: str, layer: int, given: Ingredients) -> MethodSpec:
    column = dense.COLUMN if kind == "cosine" else probe.COLUMN
    arguments = {"residuals": str(_residual_file(given, layer)), "layer": layer}
    return _single(name, kind, column, arguments)


def _igds(name: str, given: Ingredients) -> MethodSpec:
    return _resonance(name, given.features, given)


def _bottom(name: str, given: Ingredients) -> MethodSpec:
    return _resonance(name, given.features, given, sign=-1.0)


def _random_features(name: str, given: Ingredients) -> MethodSpec:
    return _resonance(name, random_features(given, split_draw(name)[1]), given)


def _frequency(name: str, given: Ingredients) -> MethodSpec:
    return _resonance(name, given.recalled[:1], given)


def _at_task_block(name: str, given: Ingredients) -> MethodSpec:
    return _dense(name, name, given.features[0].layer, given)


def _cosine_best(name: str, given: Ingredients) -> MethodSpec:
    files = {layer: _residual_file(given, layer) for layer in given.saes}
    best = dense.best_layer({layer: load_file(file) for layer, file in files.items()})
    return _dense(name, "cosine", best, given)


def _length(name: str, _given: Ingredients) -> MethodSpec:
    column = "n_response_tokens" if name == "length" else "n_prompt_tokens"
    return _single(name, "length", column, {"column": column})


def _random(name: str, given: Ingredients) -> MethodSpec:
    arguments = {"seed": given.seed, "stream": _stream("score/random", split_draw(name)[1])}
    return _single(name, "random", "uniform", arguments)


def _loss(name: str, given: Ingredients) -> MethodSpec:
    return _single(name, "loss", "loss", {}, weight=-1.0, model=given.models[name])


def _ratio(name: str, given: Ingredients) -> MethodSpec:
    return _single(name, "ratio", name, {"column": name}, model=given.models[name])


def _rds(name: str, given: Ingredients) -> MethodSpec:
    return _ranked(name, kind="embedding", model=given.models[name])


def _zip(name: str, given: Ingredients) -> MethodSpec:
    return _ranked(name, ranking=asdict(given.settings.zip))


def _balanced(name: str, given: Ingredients) -> MethodSpec:
    stream = _stream("score/random-balanced", split_draw(name)[1])
    ranking = {"column": given.settings.balance, "seed": given.seed, "stream": stream}
    return _ranked(name, ranking=ranking)


def _ranked(name: str, *, kind: str = "", **parts: Any) -> MethodSpec:
    """Return a method that orders the pool; its pool score falls with the place."""
    ranker, _ = split_draw(name)
    return MethodSpec(
        name=name, kind=kind, weights={ORDER: -1.0}, arguments={}, ranker=ranker, **parts
    )


def _single(
    name: str,
    kind: str,
    column: str,
    arguments: dict[str, Any],
    *,
    weight: float = 1.0,
    model: dict[str, Any] | None = None,
    **facts: Any,
) -> MethodSpec:
    return MethodSpec(
        name=name,
        kind=kind,
        weights={column: weight},
        arguments=arguments,
        model=model,
        facts=facts,
    )


def _residual_file(given: Ingredients, layer: int) -> Path:
    return given.residuals / f"L{layer}.safetensors"


METHODS: Mapping[str, Callable[[str, Ingredients], MethodSpec]] = {
    "igds": _igds,
    "igds-bottom": _bottom,
    "igds-matched": _matched,
    "igds-random": _random_features,
    "igds-frequency": _frequency,
    "igds-nofilter": _sum,
    "cosine": _at_task_block,
    "cosine-best": _cosine_best,
    "probe": _at_task_block,
    "loss": _loss,
    "ifd": _ratio,
    "superfilter": _ratio,
    "rds": _rds,
    "zip": _zip,
    "length": _length,
    "prompt-length": _length,
    "random": _random,
    "random-balanced": _balanced,
}
"""Method, without its draw -> what resolves it, given its whole name and the ingredients."""
