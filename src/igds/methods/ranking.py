"""Methods that rank the pool: from index rows to a ranker, and from its order to a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int

from igds.data.columns import column_values
from igds.data.equals import first_of_equals
from igds.data.index import iter_index, load_index
from igds.data.seeds import seeded_bits
from igds.errors import RequestError
from igds.methods.base import ORDER, STATUS, MethodSpec, PoolRanker
from igds.methods.rds import COLUMN, RdsRanker
from igds.methods.simple import BalancedRanker
from igds.methods.zip import ZipRanker
from igds.reading.work import as_matrix
from igds.rows import NoScore, Status
from igds.runs.files import shard_files

EMBEDDINGS = "embeddings"
"""Folder of the shards that a ranker starts from: the pool's, and the prior prompts'."""
QUERIES = "prior"

State = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """A ranker and the rows that it ranks."""

    ranker: PoolRanker
    """Its places count among `rows`."""
    rows: Int[np.ndarray, " ranked"]
    """Places in the pool; by a seeded hash, so that rows are in no order of the pool's."""
    copies: Int[np.ndarray, " copies"]
    """Places of rows that equal an earlier one: they come behind all others."""
    limit: int | None
    """Rows to put in order; None for all."""
    row_ids: pa.ChunkedArray
    """Of the whole pool."""
    status: list[str]
    """Of the whole pool: the index's, or why the method cannot rank the row."""

    def run(self, state: State | None, save: Callable[[dict[str, np.ndarray]], None]) -> pa.Table:
        """Return row_id, status and order of every pool row.

        Args:
            state: where an earlier run stopped, as given to `save`.
            save: called with the state after each round.
        """
        order = np.array([], dtype=np.int64) if state is None else state[ORDER]
        for current in self.ranker.rounds(state):
            save(current)
            order = current[ORDER]
        # A row that the order names again stands where it was named first.
        named, first = np.unique(self.rows[order], return_index=True)
        ranked = named[np.argsort(first)]
        if len(ranked) == len(self.rows):
            room = None if self.limit is None else max(0, self.limit - len(ranked))
            ranked = np.concatenate([ranked, self.copies[:room]])
        places = np.zeros(len(self.row_ids), dtype=np.int64)
        places[ranked] = np.arange(1, len(ranked) + 1)
        reached = places > 0
        status = np.array(self.status, dtype=object)
        status[~reached & (status == Status.OK)] = NoScore.NOT_REACHED
        return pa.table(
            {
                "row_id": self.row_ids,
                STATUS: status.tolist(),
                ORDER: pa.array(places, mask=~reached),
            }
        )


def make_ranking(
    spec: MethodSpec, *, index: Path, folder: Path, seed: int, threads: int
) -> Ranking:
    """Return a method's ranker over the rows of an index.

    Args:
        spec: a method with a ranker.
        index: folder of the pool's index.
        folder: the method's own, with its embeddings.
        seed: the run's, by which rows that are ranked alike are ordered.
        threads: the ranker may use.

    Raises:
        RequestError: no row can be ranked, or see the rankers.
    """
    found = load_index(index, ["row_id", "status", "content_hash"])
    status = found["status"].to_pylist()
    if spec.ranker == "rds":
        status = pq.read_table(_shards(folder, "shard"), columns=[STATUS])[STATUS].to_pylist()
    usable = np.array(status, dtype=object) == Status.OK
    first = first_of_equals(found["content_hash"])
    rows, copies = (_shuffled(found["row_id"], usable & one, seed) for one in (first, ~first))
    if spec.ranking.get("mode") == "authors":  # whose code ranks copies as it does all rows
        rows, copies = np.concatenate([rows, copies]), copies[:0]
    if not len(rows):
        raise RequestError(f"{spec.name}: no row of the pool can be ranked")
    given = _Given(ranking=spec.ranking, index=index, folder=folder, rows=rows, threads=threads)
    ranker = RANKERS[spec.ranker](given)
    return Ranking(
        ranker=ranker,
        rows=rows,
        copies=copies,
        limit=spec.ranking.get("rows"),
        row_ids=found["row_id"],
        status=status,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What a ranker is made from."""

    ranking: Mapping[str, Any]
    index: Path
    folder: Path
    rows: Int[np.ndarray, " ranked"]
    threads: int


def _shuffled(row_ids: pa.ChunkedArray, usable: np.ndarray, seed: int) -> np.ndarray:
    """Return the places of usable rows in the order of a seeded hash of their names."""
    ids = row_ids.to_pylist()
    places = [place for place, use in enumerate(usable) if use]
    places.sort(key=lambda place: seeded_bits(seed, "score/tie", ids[place]))
    return np.array(places, dtype=np.int64)


def _zip(given: _Given) -> ZipRanker:
    authors = given.ranking["mode"] == "authors"
    columns = ["original"] if authors else ["prompt", "response"]
    wanted = set(given.rows.tolist())
    text_of: dict[int, bytes] = {}
    place = 0
    # Row by row: pyarrow takes no rows out of a text column of over 2 GB.
    for batch in iter_index(given.index, columns):
        for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if place in wanted:
                text = repr(json.loads(cells[0])) if authors else "".join(filter(None, cells))
                text_of[place] = text.encode()
            place += 1
    texts = [text_of.pop(row) for row in given.rows.tolist()]
    limit = given.ranking["rows"] or len(texts)
    return ZipRanker(texts, **{**given.ranking, "rows": limit}, threads=given.threads)


def _rds(given: _Given) -> RdsRanker:
    queries = as_matrix(_embeddings(given.folder, QUERIES).drop_null())
    queries = queries[~np.isnan(queries).any(axis=1)]
    if not len(queries):
        raise RequestError("rds: no prior prompt fits into score.max_length")
    rows = as_matrix(_embeddings(given.folder, "shard").take(pa.array(given.rows)))
    return RdsRanker(queries, rows)


def _balanced(given: _Given) -> BalancedRanker:
    groups = column_values(given.index, given.ranking["column"])
    ids = load_index(given.index, ["row_id"])["row_id"].to_pylist()
    return BalancedRanker(
        [groups[row] for row in given.rows],
        [ids[row] for row in given.rows],
        given.ranking["seed"],
        given.ranking["stream"],
    )


def unit_vectors(folder: Path, places: Int[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows d"]:
    """Return the vectors of some rows of the pool, of length 1; NaN for a row without one.

    Args:
        folder: `score/rds`.
        places: of the rows.
    """
    column = _embeddings(folder, "shard").take(pa.array(places))
    found = np.full((len(places), column.type.list_size), np.nan, dtype=np.float32)
    found[column.is_valid().to_numpy()] = as_matrix(column.drop_null())
    return found


def _embeddings(folder: Path, kind: str) -> pa.ChunkedArray:
    """Return the vectors of all shards; null for rows without status ok."""
    columns = [pq.read_table(file, columns=[COLUMN])[COLUMN] for file in _shards(folder, kind)]
    # A shard without a single ok row does not know how long its vectors would be.
    known = [column.type for column in columns if pa.types.is_fixed_size_list(column.type)]
    chunks = [
        chunk if chunk.type == known[0] else pa.nulls(len(chunk), known[0])
        for column in columns
        for chunk in column.chunks
    ]
    return pa.chunked_array(chunks, known[0])


def _shards(folder: Path, kind: str) -> Sequence[Path]:
    return shard_files(folder / EMBEDDINGS, kind)


RANKERS: Mapping[str, Callable[[_Given], PoolRanker]] = {
    "zip": _zip,
    "rds": _rds,
    "random-balanced": _balanced,
}
"""Method, without its draw -> what makes its ranker."""
