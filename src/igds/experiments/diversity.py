"""How varied the rows of a selection are: their sources and their words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from igds.data.index import load_index


def diversity(index: Path, row_ids: Sequence[str]) -> dict[str, float]:
    """Return how varied some rows of an index are.

    `source_entropy`: entropy of the sources they came from, in bits, 0 with one source.
    `distinct_1` to `distinct_3`: share of the runs of 1 to 3 words of prompts and responses, in
    lower case, that are different ones; it falls with the number of rows, so compare equal ones.
    """
    table = load_index(index, ["row_id", "source", "prompt", "response"], row_ids)
    texts = [
        " ".join(part for part in row if part is not None).lower().split()
        for row in zip(table["prompt"].to_pylist(), table["response"].to_pylist(), strict=True)
    ]
    shares = {f"distinct_{n}": _distinct(texts, n) for n in (1, 2, 3)}
    return {"source_entropy": _entropy(table["source"].to_pylist()), **shares}


def _entropy(names: Sequence[str]) -> float:
    counts = Counter(names).values()
    return -sum(count / len(names) * math.log2(count / len(names)) for count in counts) + 0.0


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    runs = Counter(
        run for words in texts for run in zip(*(words[k:] for k in range(n)), strict=False)
    )
    return len(runs) / runs.total() if runs else 0.0
