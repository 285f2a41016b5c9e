"""Between score shards, selections and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from jaxtyping import Bool, Float, Int, UInt64

from igds.config.identity import to_plain
from igds.config.scoring import RANDOM_MATCHED, Select
from igds.data.equals import first_of_equals, hash_numbers
from igds.data.seeds import seeded_bits
from igds.runs.files import shard_files
from igds.selection.budgets import Selection
from igds.stats.rank import spearman


def read_pool_scores(folder: Path) -> Float[np.ndarray, " rows"]:
    """Return a method's pool score of each row in pool order, NaN where it has none.

    The pool score is the weighted sum of the method's raw columns (eq. 6) plus an offset, both
    from its `method.json`.
    """
    method = json.loads((folder / "method.json").read_text())
    weights = method["weights"]
    table = ds.dataset(shard_files(folder)).to_table(columns=list(weights))
    columns = {name: table[name].to_numpy() for name in weights}
    total = np.full(len(table), method["offset"])
    for name, weight in weights.items():
        total += weight * columns[name]
    return total


def tie_breaks(row_ids: pa.ChunkedArray, seed: int) -> UInt64[np.ndarray, " rows"]:
    """Return hash(seed, row_id): the order of rows with equal pool scores."""
    # Chunk by chunk: a million ids as Python text at once would be 100 MB.
    ids = (row_id for chunk in row_ids.chunks for row_id in chunk.to_pylist())
    bits = (seeded_bits(seed, "select/tie", row_id) for row_id in ids)
    return np.fromiter(bits, dtype=np.uint64, count=len(row_ids))


def unique_mask(rows: pa.Table, unique: str) -> Bool[np.ndarray, " rows"]:
    """Return which rows may be chosen: all, or with `row` the first of equal content."""
    if unique == "none":
        return np.ones(len(rows), dtype=bool)
    return first_of_equals(rows["content_hash"])


def prompt_numbers(rows: pa.Table) -> Int[np.ndarray, " rows"]:
    """Return a number for each row's prompt, the same for equal prompts."""
    return hash_numbers(rows["prompt_hash"].fill_null("0" * 32))


def selection_table(
    row_ids: pa.ChunkedArray, scores: Float[np.ndarray, " rows"], selection: Selection
) -> pa.Table:
    """Return `select/selection.parquet`: one row a pool row, in pool order."""
    scored = selection.rank > 0
    return pa.table(
        {
            "row_id": row_ids,
            "pool_score": pa.array(scores, from_pandas=True),
            "rank": pa.array(selection.rank, mask=~scored),
            "selected": selection.selected,
            "reason": selection.reason,
        }
    )


def selection_summary(
    rows: pa.Table, scores: Float[np.ndarray, " rows"], selection: Selection, settings: Select
) -> dict[str, Any]:
    """Return `select/summary.json`: counts, the cut and its ties, and what scores follow."""
    scored = ~np.isnan(scores)
    reasons = pc.value_counts(pa.array(selection.reason)).to_pylist()
    # Random rows that resemble a diverse selection are not chosen for diversity themselves.
    diversity = None if settings.method in RANDOM_MATCHED else settings.diversity
    return {
        "method": settings.method,
        "budget": to_plain(settings.budget),
        "stratify": settings.stratify,
        "diversity": to_plain(diversity),
        "rows": len(rows),
        "ok": int(pc.sum(pc.equal(rows["status"], "ok")).as_py()),
        "scored": int(scored.sum()),
        "selected": int(selection.selected.sum()),
        "selected_tokens": int(
            rows["n_train_tokens"].fill_null(0).to_numpy()[selection.selected].sum()
        ),
        "reasons": {entry["values"]: entry["counts"] for entry in reasons},
        "cut": selection.cut,
        "tied_at_cut": int(selection.at_cut.sum()),
        "tied_at_cut_selected": int((selection.at_cut & selection.selected).sum()),
        "share_zero": float((scores[scored] == 0).mean()),
        "share_tied": _share_tied(scores[scored]),
        "spearman_prompt_length": _length_correlation(rows, scores, scored),
    }


def _share_tied(scores: Float[np.ndarray, " scored"]) -> float:
    """Return the share of scores that some other row has too."""
    _, counts = np.unique(scores, return_counts=True)
    return float(counts[counts > 1].sum() / len(scores))


def _length_correlation(
    rows: pa.Table, scores: Float[np.ndarray, " rows"], scored: Bool[np.ndarray, " rows"]
) -> float | None:
    """Return Spearman's correlation of pool score and prompt tokens; None when one is constant."""
    lengths = rows["n_prompt_tokens"].fill_null(0).to_numpy()[scored]
    if len(np.unique(lengths)) < 2 or len(np.unique(scores[scored])) < 2:
        return None
    return float(spearman(scores[scored], lengths))
