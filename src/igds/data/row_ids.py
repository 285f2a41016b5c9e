"""Row ids of one set: repeats numbered, ids of the user's own checked."""

from __future__ import annotations

from igds.errors import RequestError
from igds.rows import content_hash

_REST = 14
"""Bytes of a 16-byte hash that are stored; the other two name the bucket."""


class RowIds:
    """Hands out one id a row and remembers all of them in 14 bytes each."""

    def __init__(self) -> None:
        """Start with no row seen."""
        self.duplicates = 0
        """Rows whose content hash was seen before."""
        self._content = _HashSet()
        self._own = _HashSet()
        self._repeats: dict[str, int] = {}

    def take(self, digest: str, own_id: str | None, place: str) -> str:
        """Return the row's id: its own, or its content hash with `-2`, `-3` for repeats.

        Args:
            digest: content hash of the row.
            own_id: value of the id column; None without one.
            place: where the row stands, for the error.

        Raises:
            RequestError: the row's own id was taken before.
        """
        repeat = 1
        if not self._content.add(digest):
            self.duplicates += 1
            repeat = self._repeats[digest] = self._repeats.get(digest, 1) + 1
        if own_id is None:
            return digest if repeat == 1 else f"{digest}-{repeat}"
        if not self._own.add(content_hash(own_id.encode())):
            raise RequestError(
                f"{place}: id {own_id!r} stands twice; leave id_column out to name rows by content"
            )
        return own_id


class _HashSet:
    """A set of 128-bit hashes in a tenth of the memory of a Python set."""

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(1 << 16)]

    def add(self, digest: str) -> bool:
        """Add a hash of 32 hex digits; return whether it is new."""
        key = bytes.fromhex(digest)
        bucket, rest = self._buckets[int.from_bytes(key[:2], "big")], key[2:]
        at = bucket.find(rest)
        while at % _REST and at >= 0:  # the bytes of two neighbours
            at = bucket.find(rest, at + 1)
        if at < 0:
            bucket += rest
        return at < 0
