"""Methods by name: what each needs, and the scorer that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from igds.config.schema import USE_FEATURES
from igds.data.seeds import seeded_bits
from igds.features import FeatureId
from igds.methods import dense, resonance, simple
from igds.methods.aggregate import aggregate
from igds.methods.base import MethodSpec, RowScorer
from igds.saes.load import SAESpec, open_sae

SCORERS: Mapping[str, Callable[..., RowScorer]] = {
    "resonance": resonance.ResonanceScorer,
    "cosine": dense.CosineScorer,
    "length": simple.LengthScorer,
    "random": simple.RandomScorer,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """What the stages before scoring found."""

    features: tuple[FeatureId, ...]
    """Task features F_task, in order."""
    saes: Mapping[int, SAESpec]
    """Block -> SAE, on disk."""
    residuals: Path
    """The recall stage's folder of residuals."""
    deltas: Mapping[FeatureId, float]
    """Task feature -> its delta on S2."""
    aggregate: str
    """How several features become one pool score; see `igds.methods.aggregate`."""
    seed: int
    """The run's seed."""


def resolve_method(name: str, given: Ingredients) -> MethodSpec:
    """Return the method with everything its scorer needs.

    igds sums the task features; igds-random as many random features of the same SAEs; cosine is
    read at the first task feature's block, cosine-best at the block that parts held-out prompts
    best.
    """
    match name:
        case "igds":
            return _resonance(name, given.features, given)
        case "igds-random":
            return _resonance(name, random_features(given), given)
        case "cosine":
            return _cosine(name, given.features[0].layer, given)
        case "cosine-best":
            files = {layer: _residual_file(given, layer) for layer in given.saes}
            best = dense.best_layer({layer: load_file(file) for layer, file in files.items()})
            return _cosine(name, best, given)
        case "length" | "prompt-length":
            column = "n_response_tokens" if name == "length" else "n_prompt_tokens"
            return _single(name, "length", column, {"column": column})
        case _:
            return _single(name, "random", "uniform", {"seed": given.seed})


def random_features(given: Ingredients) -> tuple[FeatureId, ...]:
    """Return for each task feature another feature of its SAE, drawn by the seed, none twice."""
    drawn: list[FeatureId] = []
    for rank, feature in enumerate(given.features):
        taken = {f.index for f in (*given.features, *drawn) if f.layer == feature.layer}
        d_sae = open_sae(given.saes[feature.layer]).d_sae
        free = [index for index in range(d_sae) if index not in taken]
        bits = seeded_bits(given.seed, "score/igds-random", str(rank))
        drawn.append(FeatureId(feature.layer, free[bits % len(free)]))
    return tuple(drawn)


def needs_features(name: str) -> bool:
    """Return whether a method is made from the task features or their block."""
    return name in USE_FEATURES


def needs_model(name: str) -> bool:
    """Return whether a method reads residuals, and so needs what recall found."""
    return needs_features(name) or name == "cosine-best"


def _resonance(name: str, features: Sequence[FeatureId], given: Ingredients) -> MethodSpec:
    layers = sorted({feature.layer for feature in features})
    saes = {str(layer): asdict(given.saes[layer]) for layer in layers}
    arguments: dict[str, Any] = {"saes": saes, "features": [str(feature) for feature in features]}
    # A random feature may never vary, so those of igds-random have no z score.
    own = features == given.features
    kind = given.aggregate if own or given.aggregate in ("raw", "folded") else "auto"
    deltas = [given.deltas[feature] for feature in features] if own else []
    weights, offset = aggregate(kind, features, given.saes, given.residuals, deltas)
    return MethodSpec(
        name=name, kind="resonance", weights=weights, offset=offset, arguments=arguments
    )


def _cosine(name: str, layer: int, given: Ingredients) -> MethodSpec:
    arguments = {"residuals": str(_residual_file(given, layer)), "layer": layer}
    return _single(name, "cosine", dense.COLUMN, arguments)


def _single(name: str, kind: str, column: str, arguments: dict[str, Any]) -> MethodSpec:
    return MethodSpec(name=name, kind=kind, weights={column: 1.0}, arguments=arguments)


def _residual_file(given: Ingredients, layer: int) -> Path:
    return given.residuals / f"L{layer}.safetensors"
