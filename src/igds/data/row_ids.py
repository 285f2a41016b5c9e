"""Row ids of one set: repeats numbered, ids of the user's own checked."""

from __future__ import annotations

from igds.errors import RequestError
from igds.rows import content_hash

_REST = 14
"""Bytes of a 16-byte hash that are stored; the other two name the bucket."""


class RowIds:
    """Hands out one id a row and remembers all of them in 14 bytes each.

    Where some rows have ids of their own and others have not, it takes twice as much.
    """

    def __init__(self, *, mixed: bool = False) -> None:
        """Start with no row seen.

        Args:
            mixed: whether some rows have ids of their own and others have not.
        """
        self._mixed = mixed
        self.duplicates = 0
        """Rows whose content hash was seen before."""
        self._content = _HashSet()
        self._named = _HashSet()
        self._repeats: dict[str, int] = {}

    def take(self, digest: str, own_id: str | None, place: str) -> str:
        """Return the row's id: its own, or its content hash with `-2`, `-3` for repeats.

        Args:
            digest: content hash of the row.
            own_id: value of the id column; None without one.
            place: where the row stands, for the error.

        Raises:
            RequestError: another row has the id.
        """
        repeat = 1
        if not self._content.add(digest):
            self.duplicates += 1
            repeat = self._repeats[digest] = self._repeats.get(digest, 1) + 1
        name = own_id or (digest if repeat == 1 else f"{digest}-{repeat}")
        checked = own_id is not None or self._mixed
        if checked and not self._named.add(content_hash(name.encode())):
            raise RequestError(
                f"{place}: id {name!r} stands twice; leave id_column out to name rows by content"
            )
        return name


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
