"""What `small_results.py` says of the noisy pools: how much noise each arm selected."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence

import numpy as np

from _common import ROOT
from _small_development import met
from igds.config.experiment import ORIGINAL
from igds.experiments.comparison import Arm
from igds.experiments.results import selected_rows
from igds.experiments.state import Finished
from igds.experiments.tables import markdown
from igds.reporting.text import percent

CHANCE = (0.44, 0.56)
PREDICTED = {
    "noise-prompt": {"igds": (0, 0.25), "cosine": (0, 0.25), "length": (0, 0.05), "random": CHANCE},
    "noise-response": {
        "igds": CHANCE, "cosine": CHANCE, "random": CHANCE, "length": CHANCE, "loss": (0, 0.44),
    },
}  # fmt: skip
"""Shares of noise that the protocol predicts, from the first to under the second."""
NOTES = {
    "noise-prompt": (
        "CREAK prompts, other ones, are in the control set too, which cosine's direction and the "
        "specificity of features are made of, so that kind of noise was known to both; dialogues "
        "were not. Answers off the task are short, which is all that length needs."
    ),
    "noise-response": (
        "If all five draws that should be at chance are, all of them stay in the "
        "predicted range with a probability of 0.83; both of random alone with 0.93."
    ),
}
"""What a reader must know of the noisy pools."""


def noise_table(name: str, experiment: Finished, measured: Sequence[Arm]) -> str:
    """Return the share of noise in each arm's selections; labels are read once all are made."""
    if not experiment.complete:
        return "Not looked at before every selection of this pool is made."
    labels = ROOT / "configs" / "small" / "data" / f"{name.replace('-', '_')}_labels.csv.gz"
    with gzip.open(labels, "rt", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    noisy = np.array([row["noise"] == "1" for row in table])
    source = np.array([row["source"] for row in table])
    kinds = [kind for kind in dict.fromkeys(source[noisy]) if kind not in source[~noisy]]
    rows = []
    for arm in measured:
        if arm.arm == ORIGINAL:
            continue
        chosen = [selected_rows(experiment.results[cell]) for cell in arm.cells]
        chosen = list({kept.tobytes(): kept for kept in chosen}.values())
        shares = [noisy[kept].mean() for kept in chosen]
        parts = [np.mean([(source[kept] == kind).mean() for kept in chosen]) for kind in kinds]
        expected = PREDICTED[name].get(arm.arm)
        low, high = expected or (0, 1)
        rows.append(
            (
                arm.arm,
                ", ".join(percent(float(share)) for share in shares),
                *(percent(float(part)) for part in parts),
                f"{percent(low)} to under {percent(high)}" if expected else "-",
                met(all(low <= share < high for share in shares)) if expected else "",
            )
        )
    note = (
        f"Of the pool {percent(float(noisy.mean()))} is noise. A selection that is the same for "
        "all seeds stands once."
    )
    columns = ("arm", "noise, by selection", *(f"of {kind}" for kind in kinds), "predicted", "")
    return f"{markdown(columns, rows)}\n\n{note}"
