"""The validation rows, split once by seeded hash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from igds.data.index import load_index
from igds.data.seeds import seeded_bits
from igds.errors import RequestError

SPLITS = {"S1": "screen_rows", "S2": "order_rows", "S3": "confirm_rows"}
"""Split -> setting of the section `intervene` that sizes it: screen and exact deltas; order;
confirmation."""


def split_validation(
    keys: Sequence[str], seed: int, sizes: Mapping[str, int]
) -> dict[str, list[int]]:
    """Return split -> positions of its rows, ascending; disjoint, the rest of the rows unused.

    A row's split depends on its key, the seed and the other keys, not on the order of rows. Of
    rows with equal keys only the first is used, so that no prompt stands in two splits.

    Args:
        keys: one a row: its prompt's hash, or its id.
        seed: root of the run's random streams.
        sizes: split, as in `SPLITS`, -> number of rows, in the order in which they are filled.

    Raises:
        RequestError: there are fewer different keys than the sizes ask for.
    """
    first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))
    wanted = sum(sizes.values())
    if len(first) < wanted:
        asked = " + ".join(f"intervene.{SPLITS[name]} {size}" for name, size in sizes.items())
        raise RequestError(
            f"data.validation has {len(first)} different usable rows, but {asked} asks for "
            f"{wanted}: add rows or lower these settings"
        )
    ordered = sorted(first, key=lambda key: (seeded_bits(seed, "splits", key), key))
    splits, start = {}, 0
    for name, size in sizes.items():
        splits[name] = sorted(first[key] for key in ordered[start : start + size])
        start += size
    return splits


def confirmation_rows(validation: Path, seed: int, sizes: Mapping[str, int]) -> pa.Table:
    """Return row_id and content_hash of the rows with a prompt of S3, which nothing reads before.

    Args:
        validation: folder of the index of the validation rows.
        seed: root of the run's random streams.
        sizes: split -> number of rows; without any there is no S3.
    """
    if not sizes:
        return pa.table({name: pa.array([], pa.string()) for name in ("row_id", "content_hash")})
    rows = load_index(validation, ["row_id", "content_hash", "prompt_hash", "status"])
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    keys = rows["prompt_hash"]
    splits = split_validation(keys.to_pylist(), seed, sizes)
    sealed = keys.take(pa.array(splits["S3"], pa.int64())).combine_chunks()
    return rows.filter(pc.is_in(keys, value_set=sealed)).select(["row_id", "content_hash"])
