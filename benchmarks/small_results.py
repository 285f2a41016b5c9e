"""Writes docs/results/small.md from the finished cells of the small experiment.

    python benchmarks/small_results.py

Reads `docs/results/small/<name>/*.parquet`, one file a finished cell of `configs/small/<name>.yaml`
(`igds experiment configs/small/<name>.yaml` makes them), and nothing else but the configurations
and, once every selection of a noisy pool is made, its labels. Figures go beside the cells.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from _common import ROOT
from igds.config.load import load_config
from igds.experiments.comparison import Arm, Tested, adjusted, arms, contrasts
from igds.experiments.figures import figures
from igds.experiments.pages import TITLES
from igds.experiments.results import selected_rows
from igds.experiments.run import Finished, finished
from igds.experiments.tables import arm_tables, contrast_table, markdown, stamps
from igds.reporting.text import percent

NAMES = ("math", "summarization", "noise-prompt", "noise-response")
TITLES_OF = {
    "math": "Mathematics: GSM8K",
    "summarization": "Summarization: MTS-Dialog",
    "noise-prompt": "Noise in prompts: half of a mathematics pool are other tasks",
    "noise-response": "Noise in responses: half of a mathematics pool has exchanged answers",
}
CONFIGS, RESULTS = ROOT / "configs" / "small", ROOT / "docs" / "results"
INTRODUCTION = """# Does training on selected rows help a small model?

Written by `python benchmarks/small_results.py` from the per-item results of every finished cell,
in [small/](small). What was asked, what was declared and what counts as found was written down
before: [protocol](protocol.md). Configurations: [configs/small](../../configs/small/README.md).
Numbers are means over trainings and held-out rows, with 95 % intervals that would cover others of
both."""


def main() -> int:
    """Write the page and return 0."""
    found = {name: finished(load_config(CONFIGS / f"{name}.yaml")) for name in NAMES}
    path = RESULTS / "small.md"
    text, drawn = page(found)
    for file, svg in drawn.items():
        (RESULTS / file).write_bytes(svg)
    path.write_text(text, encoding="utf-8")
    print(f"page: {path}")
    return 0


def page(found: Mapping[str, Finished]) -> tuple[str, dict[str, bytes]]:
    """Return the page, and its figures: path from the page's folder -> SVG."""
    drawn = {}
    parts = [INTRODUCTION, "## How far it has come", progress(found)]
    tested = all_contrasts(found)
    primary = next(iter(found.values())).plan.experiment.primary
    parts += ["## The declared contrasts", contrast_table(tested, primary)]
    parts.append("Holm's procedure is over all six, measured or not.")
    for name, experiment in found.items():
        if not experiment.results:
            continue
        measured = arms(experiment)
        parts += [f"## {TITLES_OF[name]}", *stamps(experiment)]
        parts += arm_tables(experiment, measured)
        for file, svg in figures(experiment, measured).items():
            drawn[f"small/{name}/{file}"] = svg
            parts.append(f"![{TITLES[file]}](small/{name}/{file})")
        if name.startswith("noise"):
            parts += ["### Noise in the selections", noise_table(name, experiment, measured)]
    return "\n\n".join(parts) + "\n", drawn


def progress(found: Mapping[str, Finished]) -> str:
    """Return how many cells of each pool are finished."""
    rows = [(name, len(one.results), len(one.plan.cells)) for name, one in found.items()]
    total = ("all", *(sum(int(row[k]) for row in rows) for k in (1, 2)))
    return markdown(("pool", "finished cells", "cells"), [*rows, total])


def all_contrasts(found: Mapping[str, Finished]) -> list[Tested]:
    """Return the declared contrasts of all pools as one family; unmeasured ones count in it."""
    declared = sum(
        len(part.contrasts) for one in found.values() for part in one.plan.experiment.grid
    )
    tested = [
        replace(test, arm=f"{name}: {test.arm}")
        for name, one in found.items()
        for test in contrasts(one)
    ]
    return adjusted(tested, declared)


def noise_table(name: str, experiment: Finished, measured: Sequence[Arm]) -> str:
    """Return the share of noise in each arm's selections; labels are read once all are made."""
    if len(experiment.results) < len(experiment.plan.cells):
        return "Not looked at before every selection of this pool is made."
    labels = CONFIGS / "data" / f"{name.replace('-', '_')}_labels.csv.gz"
    with gzip.open(labels, "rt", encoding="utf-8", newline="") as file:
        noisy = np.array([row["noise"] == "1" for row in csv.DictReader(file)])
    rows = []
    for arm in measured:
        if arm.arm == "original":
            continue
        shares = [noisy[selected_rows(experiment.results[c])].mean() for c in arm.cells]
        rows.append((arm.arm, arm.budget, ", ".join(percent(float(share)) for share in shares)))
    note = f"Of the pool {percent(float(noisy.mean()))} is noise."
    return f"{markdown(('arm', 'budget', 'noise, by seed'), rows)}\n\n{note}"


if __name__ == "__main__":
    sys.exit(main())
