"""Translation of a text; into Chinese unless `prompts.template` names another language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from igds.tasks.base import texts
from igds.tasks.machine_translation import chrf


class TranslationTask:
    """Translate; an output is judged by chrF against the best of its references."""

    template = "Please translate the following text into Chinese.\nText: {source}\nTranslation:"
    paraphrases = (
        "Translate this text into Chinese.\nText: {source}\nChinese:",
        "Text: {source}\nSay the same in Chinese.\nIn Chinese:",
        "Below is a text to be put into Chinese.\nOriginal: {source}\nChinese version:",
    )
    fields = ("target",)

    def response(self, row: Mapping[str, Any]) -> str:
        """Return the first reference."""
        return f" {texts(row, 'target')[0].strip()}"

    def score(self, output: str, row: Mapping[str, Any]) -> float:
        """Return chrF, 0-1."""
        return chrf(output.strip(), texts(row, "target"))
