"""Picks fine-tuning rows from a mixed pool with a small real model, and shows why.

    python benchmarks/quickstart.py            what `make quickstart` runs

The labels of the pool's rows are read after everything is scored and selected, to say how well
the pool score parts GSM8K from the other sources beside three simpler scores.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

import igds
from _common import QUICKSTART, ROOT
from igds.errors import RequestError, WorkError
from igds.pipeline import Run
from igds.progress import make_progress
from igds.runs.stage import StageMismatch
from igds.selection.tables import read_pool_scores
from igds.stats.auroc import auroc

CONFIG = QUICKSTART / "igds.yaml"
LABELS = QUICKSTART / "data" / "pool_labels.csv.gz"
SCORES = {  # as the last lines name them -> method
    "pool_score": "igds",
    "prompt length": "prompt-length",
    "a random feature": "igds-random",
    "the dense cosine": "cosine",
}
TABLE_WIDTH = 132


def main() -> int:
    """Run the quickstart; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="Hub name or folder in place of the packaged model file")
    arguments = parser.parse_args()
    try:
        run = igds.run(
            igds.load_config(CONFIG, overrides(arguments.model)), progress=make_progress()
        )
    except StageMismatch as error:
        print(f"error: {error.found}\n{advice(arguments.model)}", file=sys.stderr)
        return 2
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except WorkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # A pipe or a log has no width of its own.
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(features_table(run))
    labels = read_labels()
    for line in (chosen(run, labels), *separation(run, labels)):
        print(line)
    print(f"report: {run.report.resolve()}")
    return 0


def overrides(model: str | None) -> list[str]:
    """Return what another model changes: its name, and a run folder of its own."""
    if model is None:
        return []
    return ["--model.id", model, "--name", f"quickstart-{Path(model).name}"]


def advice(model: str | None) -> str:
    """Return how to go on when the run folder holds the work of other settings."""
    words = overrides(model)
    config = CONFIG.relative_to(ROOT)
    again = " ".join([".venv/bin/igds run", str(config), *words, "--overwrite"])
    return (
        f"Delete runs/{words[-1] if words else 'quickstart'}, or set another `name` in {config}, "
        f"and run again; or make these stages again by `{again}`."
    )


def features_table(run: Run) -> Table:
    """Return the features that were measured on S3, best on S2 first, the task features marked."""
    outcome = json.loads((run.folder.path / "intervene" / "task_features.json").read_text())
    chosen = set(outcome["features"])
    recalled = _by_feature(run.features)
    measured = _by_feature(run.effects.filter(pc.equal(run.effects["split"], "S3")))
    refused = [f"{name}: {why}" for name, why in outcome["refused"].items()]
    table = Table(
        title="Features measured on the confirmation rows (* used to score the pool)",
        caption="\n".join(["Passed over:", *refused]) if refused else None,
        caption_justify="left",
    )
    headings = ("feature", "frequency", "control", "specificity", "delta", "p", "label", "status")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for name in (name for name in outcome["order"] if name in measured):
        fact, effect = recalled[name], measured[name]
        table.add_row(
            f"{name}{' *' if name in chosen else ''}",
            f"{fact['frequency']:.2f}",
            f"{fact['control_frequency']:.2f}",
            _interval(fact, "specificity", ".2f"),
            _interval(effect, "delta", "+.4f"),
            f"{effect['p_family']:.2g}",
            effect["label"],
            outcome["outcome"].upper() if name in chosen else "",
        )
    return table


def chosen(run: Run, labels: list[str]) -> str:
    """Return how many rows of each source were selected, in words."""
    selected = run.selection["selected"].to_numpy()
    counts = {
        source: int(selected[np.array(labels) == source].sum()) for source in sorted({*labels})
    }
    parts = (f"{n} of {labels.count(source)} {source}" for source, n in counts.items())
    return f"rows selected: {', '.join(parts)}"


def separation(run: Run, labels: list[str]) -> list[str]:
    """Return one line a score and comparison: AUROC of GSM8K rows against other rows."""
    source = np.array(labels)
    others = {
        "non-math": np.isin(source, ["strategyqa", "mts-dialog"]),
        "TAL-SCQ5K": source == "tal-scq5k",
    }
    lines = []
    for other, rows in others.items():
        for score, method in SCORES.items():
            values = read_pool_scores(run.folder.path / "score" / method)
            kept = ~np.isnan(values)
            value = auroc(values[(source == "gsm8k") & kept], values[rows & kept])
            line = f"AUROC of {score}, GSM8K against {other} rows: {value:.3f}"
            if method == "igds-random":
                # Ties count half: a feature that is 0 on nearly all rows cannot part them.
                line += f" ({(values[kept] == 0).mean():.0%} of its scores are 0)"
            lines.append(line)
    return lines


def read_labels() -> list[str]:
    """Return the source of each pool row, in pool order."""
    text = gzip.decompress(LABELS.read_bytes()).decode()
    return [row["source"] for row in csv.DictReader(text.splitlines())]


def _by_feature(table: pa.Table) -> dict[str, dict]:
    return {f"L{row['layer']}/{row['index']}": row for row in table.to_pylist()}


def _interval(row: Mapping[str, float], name: str, form: str) -> str:
    values = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    shown, low, high = ("n/a" if value is None else f"{value:{form}}" for value in values)
    return f"{shown} [{low}, {high}]"


if __name__ == "__main__":
    sys.exit(main())
