"""How far two identifications agree: in what they recalled, measured and put first."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igds.stats.null import or_null
from igds.stats.rank import spearman

AGREEMENTS = ("recalled_jaccard", "top_jaccard", "delta_spearman")
"""Numbers that `compare` gives of a pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """What recall and interventions found from one prior set with one seed."""

    prior: str
    """Label of the prior set."""
    seed: int
    recalled: frozenset[str]
    """Recalled features."""
    order: tuple[str, ...]
    """Measured features, best first: by delta on S2, in the paper mode by the task's score."""
    deltas: Mapping[str, float]
    """Feature -> delta where most features were measured: on S1, in the paper mode on all rows."""
    outcome: str
    features: tuple[str, ...]
    """F_task."""

    @property
    def name(self) -> str:
        """Return the name of its run folder."""
        return f"{self.prior}-s{self.seed}"


def jaccard(a: Collection[str], b: Collection[str]) -> float:
    """Return the share of two sets' union that is in both, 0-1; NaN when both are empty."""
    union = set(a) | set(b)
    return len(set(a) & set(b)) / len(union) if union else float("nan")


def compare(a: Identification, b: Identification, top: int) -> dict[str, Any]:
    """Return how two identifications agree; null where there is nothing to compare.

    Args:
        a: one.
        b: the other.
        top: features, first in order, that count as the best.
    """
    shared = sorted(a.deltas.keys() & b.deltas.keys())
    ranks = [np.array([one.deltas[name] for name in shared]) for one in (a, b)]
    return {
        "a": a.name,
        "b": b.name,
        "priors": [a.prior, b.prior],
        "recalled_jaccard": or_null(jaccard(a.recalled, b.recalled)),
        "top_jaccard": or_null(jaccard(a.order[:top], b.order[:top])),
        "shared": len(shared),
        "delta_spearman": or_null(spearman(*ranks)) if shared else None,
    }


def agreement(found: Sequence[Identification], top: int) -> dict[str, Any]:
    """Return every pair, their means by pair of prior sets, and who is how often among the best."""
    pairs = [compare(a, b, top) for a, b in itertools.combinations(found, 2)]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for pair in pairs:
        groups.setdefault((pair["priors"][0], pair["priors"][1]), []).append(pair)
    counts = Counter(name for one in found for name in one.order[:top])
    return {
        "top": top,
        "identifications": [_described(one, top) for one in found],
        "pairs": pairs,
        "between": [
            {"a": a, "b": b, "pairs": len(own)}
            | {key: _mean(pair[key] for pair in own) for key in AGREEMENTS}
            for (a, b), own in groups.items()
        ],
        "top_counts": [{"feature": name, "runs": n} for name, n in counts.most_common()],
    }


def _described(one: Identification, top: int) -> dict[str, Any]:
    return {
        "run": one.name,
        "prior": one.prior,
        "seed": one.seed,
        "recalled": len(one.recalled),
        "measured": len(one.deltas),
        "outcome": one.outcome,
        "features": list(one.features),
        "best": list(one.order[:top]),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
