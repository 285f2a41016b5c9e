"""Summaries of dialogues in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from igds.tasks.base import texts
from igds.tasks.rouge import rouge


class SummarizationTask:
    """Summarize; an output is judged by ROUGE-1 against the best of its references."""

    template = "Use a sentence to summarize this following text:\n{dialogue}\nSummarization:"
    paraphrases = (
        "Say in one sentence what this text is about:\n{dialogue}\nSummary:",
        "Write a short summary, one sentence long, of the text below:\n{dialogue}\nIn short:",
        "Read this and sum it up in a single sentence:\n{dialogue}\nOne-sentence summary:",
    )
    fields = ("summary",)

    def response(self, row: Mapping[str, Any]) -> str:
        """Return the first reference."""
        return f" {texts(row, 'summary')[0].strip()}"

    def score(self, output: str, row: Mapping[str, Any]) -> float:
        """Return the F measure of ROUGE-1, 0-1."""
        return rouge(output, texts(row, "summary"))["1"]
