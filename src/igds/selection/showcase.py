"""Which rows a page shows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from igds.selection.budgets import LEFT_OUT

GROUPS = ("best", "borderline", "worst")


def showcase(selection: pa.Table, rows: int) -> pa.Table:
    """Return row_id and group of the best, borderline and worst rows, `rows` each, none twice.

    Borderline rows are those around the cut: the last by rank that were selected and the first
    that were not. Rows that could not be chosen are left out.

    Args:
        selection: `select/selection.parquet`.
        rows: rows a group.
    """
    scored = selection.filter(pc.is_valid(selection["rank"]))
    left_out = pc.is_in(scored["reason"], value_set=pa.array(LEFT_OUT))
    scored = scored.filter(pc.invert(left_out)).sort_by("rank")
    total = len(scored)
    kept = scored["selected"].to_numpy()
    # With strata the selection does not follow the rank: kept rows stand behind rows left out.
    around = np.concatenate([np.flatnonzero(kept), np.flatnonzero(~kept)])
    start = min(max(int(kept.sum()) - rows // 2 - rows % 2, 0), max(total - rows, 0))
    wanted = {
        "best": range(min(rows, total)),
        "worst": range(max(total - rows, 0), total),
        "borderline": around[start : start + rows].tolist(),
    }
    group_of: dict[int, str] = {}
    for group, places in wanted.items():
        for place in places:
            group_of.setdefault(place, group)
    order = sorted(group_of, key=lambda place: (GROUPS.index(group_of[place]), place))
    picked = scored["row_id"].take(pa.array(order, pa.int64()))
    return pa.table({"row_id": picked, "group": [group_of[place] for place in order]})
