"""Which rows of an index are equal, by their hashes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int


def first_of_equals(hashes: pa.ChunkedArray) -> Bool[np.ndarray, " rows"]:
    """Return which rows are the first with their hash of 32 hex digits."""
    mask = np.zeros(len(hashes), dtype=bool)
    mask[np.unique(_fixed(hashes), return_index=True)[1]] = True
    return mask


def hash_numbers(hashes: pa.ChunkedArray) -> Int[np.ndarray, " rows"]:
    """Return a number for each row's hash of 32 hex digits, the same for equal ones."""
    return np.unique(_fixed(hashes), return_inverse=True)[1]


def _fixed(column: pa.ChunkedArray) -> np.ndarray:
    """Return hashes of 32 hex digits as fixed-width bytes: half of a hash table's memory."""
    return np.frombuffer(b"".join(map(_text_bytes, column.chunks)), dtype="S32")


def _text_bytes(chunk: pa.StringArray) -> memoryview:
    """Return the bytes of a chunk's texts, one after the other."""
    _, offsets, data = chunk.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[[chunk.offset, chunk.offset + len(chunk)]]
    return memoryview(data)[ends[0] : ends[1]]
