"""The chosen rows of an index, in pool order or best first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from igds.data.index import iter_index
from igds.errors import RequestError
from igds.runs.files import read_json

_LARGE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The selected rows of an index and the order they are written in."""

    index: Path
    """The index's folder."""
    selected: Bool[np.ndarray, " rows"]
    """Which rows, in index order."""
    rank: Int[np.ndarray, " rows"] | None = None
    """Ranks that order the rows, 1 first; None keeps index order."""
    bos: str | None = None
    """Text of the token that the trainer puts before a prompt; taken off prompts that bring it."""
    around: tuple[str, str] = ("", "")
    """BOS and EOS as text, for a trainer that adds neither: before a raw prompt, behind its
    response."""

    @classmethod
    def for_trainer(
        cls,
        index: Path,
        selected: Bool[np.ndarray, " rows"],
        trainer: str,
        rank: Int[np.ndarray, " rows"] | None = None,
    ) -> Chosen:
        """Return rows that a trainer, or a format, gives the BOS and EOS that igds trains on.

        Raises:
            RequestError: a trainer that adds no EOS would learn without one.
        """
        known = read_json(index / "summary.json") or {}
        if trainer != "llamafactory":
            return cls(index, selected, rank, bos=known.get("added_bos"))
        if known.get("eos") is None:
            raise RequestError(
                f"{index} names no EOS of the model to be trained, which LLaMA-Factory does not "
                "add: set eos_token in its tokenizer, and make the index again with --overwrite"
            )
        # Its template `empty` adds neither; in text that stands in the rows it sees both.
        return cls(index, selected, rank, around=(known.get("raw_bos") or "", known["eos"]))

    @property
    def places(self) -> Int[np.ndarray, " chosen"]:
        """Return the places of the rows in the index, in the order they are written."""
        return np.flatnonzero(self.selected)[self._order()]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some index columns of the rows.

        Index order streams; by rank, these columns of all chosen rows are held in memory.
        """
        if self.rank is None:
            yield from self._in_order(columns)
            return
        table = pa.Table.from_batches(self._in_order(columns))
        # The texts of many rows are over the 2 GB that offsets of 32 bits reach.
        wide = pa.schema(
            [field.with_type(_LARGE.get(field.type, field.type)) for field in table.schema]
        )
        yield from table.cast(wide).take(pa.array(self._order())).to_batches(max_chunksize=1024)

    def _order(self) -> Int[np.ndarray, " chosen"]:
        if self.rank is None:
            return np.arange(self.selected.sum())
        return np.argsort(self.rank[self.selected], kind="stable")

    def _in_order(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in iter_index(self.index, columns):
            mask = self.selected[start : start + len(batch)]
            start += len(batch)
            yield self._without_bos(batch.filter(pa.array(mask)))
        rows = len(self.selected)
        assert start == rows, f"{start} rows in the index, {rows} in the mask"

    def _without_bos(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        place = batch.schema.get_field_index("prompt")
        if self.bos is None or place < 0:
            return batch
        prompts = batch.column(place)
        bare = pc.utf8_slice_codeunits(prompts, len(self.bos))
        prompts = pc.if_else(pc.starts_with(prompts, self.bos), bare, prompts)
        return batch.set_column(place, "prompt", prompts)
