"""Which features a selection was made by, and what interventions said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from igds.runs.folder import RunFolder
from igds.runs.stage import stage_state

_EFFECT = ("feature", "split", "metric", "position", "delta", "delta_low", "delta_high")


def identified(run: Path) -> dict[str, Any]:
    """Return a run's `outcome`, and as `identified` its task features, why these, and their deltas.

    Both are None without interventions.

    The deltas, also that of the features together, are those of S2 and S3, or of all rows in the
    paper mode; None where undefined.

    Args:
        run: its folder.
    """
    if stage_state(run / "intervene") != "done":
        return {"outcome": None, "identified": None}
    found = json.loads((run / "intervene" / "task_features.json").read_bytes())
    names = [*found["features"], found.get("group")]
    effects = RunFolder(run).table("intervene/effects.parquet").select(list(_EFFECT)).to_pylist()
    deltas = [
        {name: None if value != value else value for name, value in row.items()}
        for row in effects
        if row["feature"] in names and row["split"] != "S1"
    ]
    known = {"features": found["features"], "reason": found["reason"], "effects": deltas}
    return {"outcome": found["outcome"].upper(), "identified": known}


def ranked_by(run: Path, method: str) -> dict[str, float]:
    """Return the columns whose weighted sum is a method's pool score; features where it reads them.

    Args:
        run: the folder of a run with scores.
        method: one of its methods.
    """
    return json.loads((run / "score" / method / "method.json").read_bytes())["weights"]
