"""ROUGE with stemming, against the best of several references."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from igds.tasks.base import need_package

_NAMES = {"rouge1": "1", "rouge2": "2", "rougeL": "L"}


def rouge(output: str, references: Sequence[str]) -> dict[str, float]:
    """Return the F measures of ROUGE-1, 2 and L under `1`, `2` and `L`, 0-1.

    Each is taken over the reference that suits it best. Words are runs of a-z and 0-9.

    Raises:
        RequestError: rouge-score is not installed.
    """
    scores = [_scorer().score(reference, output) for reference in references]
    return {short: max(s[name].fmeasure for s in scores) for name, short in _NAMES.items()}


@cache
def _scorer() -> Any:
    need_package("rouge_score")
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_NAMES), use_stemmer=True)
