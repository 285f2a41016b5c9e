"""ZIP (arXiv 2407.06645): a subset that compresses badly, built greedily in rounds."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from jaxtyping import Float, Int

from igds.errors import RequestError
from igds.methods.base import ORDER

LEVEL = 9
STORED = "stored"
"""Part of the state: each row's compression ratio as last measured."""
SPENT = 1_000_000.0
"""What the authors' code stores for a row that has been in a round's last choice."""
_CHUNK = 64
"""Candidates a thread measures at once."""


class Growing:
    """A text that grows, and its compression ratio with each of some candidates at its end.

    One compressor is fed once with the text; each candidate goes into a copy of it. Deflate does
    not see how its input is cut, so the sizes are those of compressing text and candidate anew.
    """

    def __init__(self) -> None:
        """Begin with no text."""
        self._compressor = zlib.compressobj(LEVEL)
        self._raw = self._written = 0

    def add(self, piece: bytes) -> None:
        """Append to the text."""
        self._raw += len(piece)
        self._written += len(self._compressor.compress(piece))

    def ratio(self, piece: bytes) -> float:
        """Return raw bytes over compressed bytes of the text with a piece at its end."""
        copy = self._compressor.copy()
        size = self._written + len(copy.compress(piece)) + len(copy.flush())
        return (self._raw + len(piece)) / size

    def ratios(self, pieces: Sequence[bytes], pool: ThreadPoolExecutor) -> Float[np.ndarray, " n"]:
        """Return the ratio with each piece; zlib works outside Python's lock, so threads help."""
        chunks = (pieces[start : start + _CHUNK] for start in range(0, len(pieces), _CHUNK))
        found = pool.map(lambda chunk: [self.ratio(piece) for piece in chunk], chunks)
        return np.fromiter(chain.from_iterable(found), dtype=np.float64, count=len(pieces))


class ZipRanker:
    """Each round re-scores the K1 rows of lowest stored ratio, keeps K2, and adds K3 of them.

    fixed: a row that was added is gone, the others return to the pool; K1 is what is left when
    that is less; ends when `rows` are in order.

    authors: as in the code that was published: all K2 rows are set aside, those that were not
    added too; once fewer than K1 are left, rows set aside come back, also those already added;
    ends after a whole round. Ratios are float32 and ties go by place in both modes.
    """

    def __init__(
        self,
        texts: Sequence[bytes],
        *,
        mode: str,
        k1: int,
        k2: int,
        k3: int,
        rows: int,
        threads: int = 1,
    ) -> None:
        """Keep the rows.

        Args:
            texts: in the mode fixed each row's text; in the mode authors its Python literal, as
                it stands in a printed list.
            mode: fixed or authors.
            k1: rows re-scored a round.
            k2: of those, the rows kept.
            k3: of those, the rows added.
            rows: rows to put in order.
            threads: that measure ratios; they do not change a result.

        Raises:
            RequestError: the mode authors has fewer rows than K1, where the published code ends
                in an error.
        """
        if mode == "authors" and k1 > len(texts):
            raise RequestError(
                f"score.zip.k1 is {k1}, but only {len(texts)} rows can be ranked: the mode authors "
                "needs as many; lower it, or take the mode fixed"
            )
        self._texts, self._as_list = texts, mode == "authors"
        # What is stored for a row that is set aside.
        self._gone = SPENT if self._as_list else np.inf
        self._k1, self._k2, self._k3 = k1, k2, k3
        self._rows = rows if self._as_list else min(rows, len(texts))
        self._threads = threads

    def rounds(self, state: Mapping[str, np.ndarray] | None) -> Iterator[dict[str, np.ndarray]]:
        """Yield the rows in order so far and the stored ratios, after each round."""
        with ThreadPoolExecutor(self._threads) as pool:
            chosen = Growing()
            order: list[int] = []
            if state is None:
                stored = chosen.ratios(
                    [self._piece(row, []) for row in range(len(self._texts))], pool
                )
                stored = stored.astype(np.float32)
            else:
                stored = state[STORED].copy()
            for row in [] if state is None else state[ORDER].tolist():
                chosen.add(self._joined(row, order))
                order.append(row)
            while len(order) < self._rows:
                kept = self._rescore(chosen, order, stored, pool)
                wanted = self._k3 if self._as_list else min(self._k3, self._rows - len(order))
                added = self._diverse(kept, wanted, pool)
                stored[kept if self._as_list else added] = self._gone
                for row in added:
                    chosen.add(self._joined(row, order))
                    order.append(row)
                yield {ORDER: np.array(order, dtype=np.int64), STORED: stored.copy()}

    def _rescore(
        self,
        chosen: Growing,
        order: Sequence[int],
        stored: Float[np.ndarray, " rows"],
        pool: ThreadPoolExecutor,
    ) -> list[int]:
        """Return the K2 rows of lowest ratio with the chosen ones, and store what was measured."""
        candidates = np.argsort(stored, kind="stable")[: self._k1]
        candidates = candidates[np.isfinite(stored[candidates])]
        pieces = [self._piece(row, order) for row in candidates.tolist()]
        stored[candidates] = chosen.ratios(pieces, pool)
        return _lowest(stored[candidates], candidates)[: self._k2].tolist()

    def _diverse(self, rows: Sequence[int], wanted: int, pool: ThreadPoolExecutor) -> list[int]:
        """Return `wanted` of the rows: each time the one of lowest ratio with those before it."""
        subset, order = Growing(), list[int]()
        left = np.array(rows)
        for _ in range(min(wanted, len(rows))):
            pieces = [self._piece(row, order) for row in left.tolist()]
            ratios = subset.ratios(pieces, pool).astype(np.float32)
            best = int(np.argmin(ratios))
            row = int(left[best])
            subset.add(self._joined(row, order))
            order.append(row)
            left = np.delete(left, best)
        return order

    def _joined(self, row: int, before: Sequence[int]) -> bytes:
        """Return what a row adds to the text behind the rows before it."""
        if self._as_list:
            return (b", " if before else b"[") + self._texts[row]
        return self._texts[row] + b"\n"

    def _piece(self, row: int, before: Sequence[int]) -> bytes:
        """Return the same of a candidate, with what ends the text."""
        return self._joined(row, before) + (b"]" if self._as_list else b"")


def _lowest(
    ratios: Float[np.ndarray, " rows"], rows: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """Return the rows by rising ratio, equal ones as they stood."""
    return rows[np.argsort(ratios, kind="stable")]
