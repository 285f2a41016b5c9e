"""Words that an edit makes more frequent in generated outputs (the paper's Fig. 6)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import regex

from igds.data.words import SIGNS

SMOOTHING = 5.0
"""Occurrences added to both sides, so that a rare word must rise by more to come first."""
LEAST = 5
"""Outputs, of both sides together, that must contain a word."""
SHOWN = 30
"""Words kept of each feature and position."""
_LETTERS = rf"[\p{{L}}\p{{M}}--[{SIGNS}]]+"
WORD = regex.compile(rf"(?V1)[{SIGNS}]|{_LETTERS}(?:['’]{_LETTERS})*")
"""A run of letters with their combining marks, apostrophes within; each Chinese character or
Japanese sign is a word."""

WORDS = pa.schema(
    {
        "feature": pa.string(),
        "position": pa.string(),
        "word": pa.string(),
        "frequency": pa.float64(),
        "original_frequency": pa.float64(),
        "log_ratio": pa.float64(),
        "outputs": pa.int32(),
        "original_outputs": pa.int32(),
        "n": pa.int32(),
    }
)
"""Columns of `intervene/words.parquet`: frequencies are shares of all words of the feature's
outputs, 0-1; `outputs` counts those that contain the word, of `n`."""


def risen_words(outputs: pa.Table) -> pa.Table:
    """Return the words that each feature's edit makes more frequent, most risen first.

    `log_ratio` is the base-2 logarithm of edited over unedited occurrences, each with `SMOOTHING`
    more, beyond that of all words together: 1 is twice as frequent.

    Args:
        outputs: see `OUTPUTS`; each edited output stands beside its unedited one.
    """
    pairs: dict[tuple[str, str], list[tuple[list[str], list[str]]]] = {}
    columns = ("feature", "position", "text", "original")
    for row in outputs.select(columns).to_pylist():
        found = (words(row["text"]), words(row["original"]))
        pairs.setdefault((row["feature"], row["position"]), []).append(found)
    rows: list[dict[str, Any]] = []
    for (feature, position), own in pairs.items():
        edited, original = ([pair[side] for pair in own] for side in (0, 1))
        best = sorted(_risen(edited, original), key=lambda row: (-row["log_ratio"], row["word"]))
        rows += [{"feature": feature, "position": position, **row} for row in best[:SHOWN]]
    return pa.Table.from_pylist(rows, schema=WORDS)


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case (see `WORD`)."""
    return [word.lower() for word in WORD.findall(text)]


def _risen(edited: list[list[str]], original: list[list[str]]) -> Iterator[dict[str, Any]]:
    """Yield the words that are more frequent in edited outputs and in enough of them."""
    counts, held = zip(*(_counts(side) for side in (edited, original)), strict=True)
    totals = [counter.total() for counter in counts]
    whole = math.log2((totals[0] + SMOOTHING) / (totals[1] + SMOOTHING))
    for word in counts[0]:
        containing = [counter[word] for counter in held]
        occurring = [counter[word] for counter in counts]
        ratio = math.log2((occurring[0] + SMOOTHING) / (occurring[1] + SMOOTHING)) - whole
        if ratio > 0 and sum(containing) >= LEAST:
            yield {
                "word": word,
                "frequency": occurring[0] / totals[0],
                "original_frequency": occurring[1] / totals[1] if totals[1] else 0.0,
                "log_ratio": ratio,
                "outputs": containing[0],
                "original_outputs": containing[1],
                "n": len(edited),
            }


def _counts(texts: list[list[str]]) -> tuple[Counter[str], Counter[str]]:
    """Return how often each word occurs, and in how many texts."""
    occurring = Counter(word for text in texts for word in text)
    containing = Counter(word for text in texts for word in set(text))
    return occurring, containing
