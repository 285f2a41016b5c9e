"""What is recorded of a cell beside its items: how it was selected, trained and made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from igds.config.load import ConfigFile
from igds.experiments.cells import Cell
from igds.experiments.costs import selection_cost
from igds.experiments.diversity import diversity
from igds.experiments.features import identified, ranked_by
from igds.experiments.results import as_bits
from igds.runs.files import read_json
from igds.runs.folder import RunFolder
from igds.runs.git import git_state

_VERSIONS = ("igds", "torch", "transformers", "trl")


def cell_facts(cell: Cell, shared: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return what is known of any cell, and which features its run found.

    Args:
        cell: the cell.
        shared: folder of the run that it selects from.
        seconds: stage -> how long it took, with those of making the selection's score.
    """
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "seconds": dict(seconds),
        **identified(shared),
    }


def made_by() -> dict[str, Any]:
    """Return which versions and which commit of the working folder make a cell."""
    return {
        "versions": {name: version(name) for name in _VERSIONS},
        "git": git_state(Path.cwd()),
    }


def training_facts(file: ConfigFile, shared: Path, folder: RunFolder) -> dict[str, Any]:
    """Return what a cell was trained on, and what choosing it cost."""
    rows = folder.table("finetune/rows.parquet")
    row_ids: Sequence[str] = rows.filter(pc.greater(rows["times"], 0))["row_id"].to_pylist()
    summary = read_json(folder.path / "finetune" / "summary.json") or {}
    kept = ("rows", "left_out", "truncated", "steps", "tokens", "response_tokens", "last_loss")
    selection = read_json(folder.path / "select" / "summary.json") or {}
    selected = folder.table("select/selection.parquet")["selected"].to_numpy()
    assert file.config.select is not None, "a cell that trains selects first"
    scored = file.config.select.scored
    return {
        "ranked_by": ranked_by(shared, scored[0]),
        "cost": selection_cost(file, shared, scored),
        "trained": {name: summary[name] for name in kept},
        "selection": {
            **selection,
            **diversity(shared / "index", row_ids),
            "bits": as_bits(selected),
        },
    }
