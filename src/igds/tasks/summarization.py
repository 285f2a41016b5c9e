"""Summaries of dialogues in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from igds.data.templates import as_text
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
        return f" {references(row)[0].strip()}"

    def score(self, output: str, row: Mapping[str, Any]) -> float:
        """Return the F measure of ROUGE-1, 0-1."""
        return rouge(output, references(row))["1"]


def references(row: Mapping[str, Any]) -> list[str]:
    """Return the summaries of a row: its `summary` is a text or a list of texts.

    Raises:
        ValueError: the list is empty or holds something else.
    """
    value = row["summary"]
    texts = [as_text(item) for item in (value if isinstance(value, list) else [value])]
    if not texts:
        raise ValueError("summary is an empty list")
    return texts
