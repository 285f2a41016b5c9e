"""Random streams that derive from (seed, stage, item), never from order or worker."""

from __future__ import annotations

import hashlib


def seeded_bits(seed: int, stage: str, item: str) -> int:
    """Return 64 random bits as an integer, the same for the same three arguments anywhere."""
    # The item comes last and the other two hold no NUL, so no two triples share their bytes.
    text = f"{seed}\0{stage}\0{item}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def seeded_unit(seed: int, stage: str, item: str) -> float:
    """Return a uniform number from 0 to under 1, the same for the same three arguments anywhere."""
    return (seeded_bits(seed, stage, item) >> 11) * 2.0**-53
