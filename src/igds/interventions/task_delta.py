"""Deltas of the task's score in place of those of the likelihood, for the rigorous mode.

What tells a task feature from one of format (the contrast, the later tokens) stays teacher-forced.
"""

from __future__ import annotations

import pyarrow as pa

from igds.interventions.scored import AT_READ

MOVED = "delta_logprob"
"""Where the teacher-forced delta goes."""


def with_task_deltas(exact: pa.Table, scored: pa.Table) -> pa.Table:
    """Return exact samples whose `delta` is the task score's, with the columns of `SCORED`.

    Args:
        exact: teacher-forced samples, one row a feature and prompt, see `SAMPLES`.
        scored: generated outputs of the same features and prompts at one position.

    Raises:
        ValueError: they are not of the same features and prompts.
    """
    keys = ["feature", "row_id"]
    order = {
        tuple(row.values()): place for place, row in enumerate(scored.select(keys).to_pylist())
    }
    places = [order.get(tuple(row.values())) for row in exact.select(keys).to_pylist()]
    if None in places or len(order) != len(exact):
        raise ValueError("exact samples and generated outputs are not of the same rows")
    found = scored.take(pa.array(places)).drop_columns([*keys, "position", *AT_READ])
    table = exact.rename_columns(
        [MOVED if name == "delta" else name for name in exact.column_names]
    )
    for name in found.column_names:
        table = table.append_column(found.schema.field(name), found[name])
    return table
