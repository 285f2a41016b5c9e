"""Worker side of scoring: one forward of the pool serves every method that reads the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from igds.methods.base import MethodSpec
from igds.methods.registry import SCORERS
from igds.reading.work import IndexRows, PromptReader

INDEX_COLUMNS = ("row_id", "status", "prompt_ids", "n_prompt_tokens", "n_response_tokens")


class ScoreWork:
    """Raw columns of several methods for one range of the pool's index."""

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        methods: Sequence[Mapping[str, Any]],
        batch_tokens: int,
        threads: int,
    ) -> None:
        """Build the scorers; the model is loaded only when one of them reads it."""
        torch.set_num_threads(threads)
        specs = [MethodSpec(**method) for method in methods]
        self._scorers = {spec.name: SCORERS[spec.kind](**spec.arguments) for spec in specs}
        layers = frozenset[int]().union(*(scorer.layers for scorer in self._scorers.values()))
        self._reader = PromptReader(model, sorted(layers), batch_tokens) if layers else None
        self._rows = IndexRows(INDEX_COLUMNS)

    def __call__(self, shard: Mapping[str, Any]) -> pa.Table:
        """Return row_id, status and `method:column` of every row; null where there is no value."""
        rows = self._rows.read(shard["file"], shard["start"], shard["stop"])
        ok = pc.equal(rows.column("status"), "ok").combine_chunks()
        scored = rows.filter(ok)
        residuals = {}
        if self._reader is not None and len(scored):
            residuals = self._reader.residuals(scored)
        columns = {
            f"{name}:{column}": pa.array(values, from_pandas=True)
            for name, scorer in self._scorers.items()
            for column, values in _values(scorer, scored, residuals)
        }
        # place[i] is the position of row i among the scored rows, null for a row without status ok
        place = pc.if_else(ok, pc.cumulative_sum(ok.cast("int64")), None)
        place = pc.subtract(place, 1)
        spread = {name: values.take(place) for name, values in columns.items()}
        return pa.table({"row_id": rows["row_id"], "status": rows["status"], **spread})


def _values(scorer: Any, rows: pa.Table, residuals: Mapping[int, torch.Tensor]) -> list[Any]:
    """Return (column, values) pairs; empty arrays when no row of the shard can be scored."""
    if not len(rows):
        return [(column, pa.array([], pa.float64())) for column in scorer.columns]
    return list(scorer.score(rows, residuals).items())
