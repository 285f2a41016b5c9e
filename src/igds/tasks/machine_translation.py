"""chrF and BLEU of one translation by sacrebleu, against one or several references."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from igds.tasks.base import need_package


def chrf(output: str, references: Sequence[str]) -> float:
    """Return chrF, 0-1: the F measure of character runs, over the reference that suits best.

    Raises:
        RequestError: sacrebleu is not installed.
    """
    return _metric("chrf").sentence_score(output, list(references)).score / 100


def bleu(output: str, references: Sequence[str]) -> float:
    """Return BLEU of one sentence, 0-1, over runs as long as the sentence has, at most four.

    Tokens are words and marks, and each Chinese character is a token of its own.

    Raises:
        RequestError: sacrebleu is not installed.
    """
    return _metric("bleu").sentence_score(output, list(references)).score / 100


@cache
def _metric(name: str) -> Any:
    need_package("sacrebleu")
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return CHRF() if name == "chrf" else BLEU(tokenize="zh", effective_order=True)
