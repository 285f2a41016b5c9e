"""What `small_results.py` says of the runs on development rows: learning rates and variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from igds.config.experiment import FULL, ORIGINAL, split_arm
from igds.experiments.comparison import Arm, arms
from igds.experiments.state import Finished
from igds.experiments.tables import (
    arm_table,
    feature_table,
    interval,
    markdown,
    provenance,
    stamps,
)
from igds.reporting.text import number, signed
from igds.stats.crossed import Crossed

TUNED = {"math-dev": "math and the noisy pools", "summarization-dev": "summarization"}
VARIANTS = {"summarization-variants": "summarization", "math-variants": "math"}
ENOUGH = 5
"""Deviations of random rows by which training all rows must beat the model as it was."""
TRIED = (
    "All that was tried, as igds beats random rows and cosine in no declared contrast. Test rows "
    "are not read here, each arm has two trainings, and the best of several looks better than it "
    "is: a new default must hold on the pool that it was not chosen on."
)


def rates(tuning: Finished) -> list[str]:
    """Return every rate that was tried, and how far training all rows goes beyond chance."""
    primary = tuning.plan.experiment.primary
    measured = arms(tuning)
    if len(measured) < 2:
        return ["None is measured yet."]
    spread = [
        arm.means[primary].seed_deviation
        for arm in measured
        if split_arm(arm.arm)[0] == "random" and len(arm.cells) > 1
    ]
    parts = [arm_table(measured, primary)]
    for arm in measured:
        if split_arm(arm.arm)[0] != FULL:
            continue
        gain = arm.gain[primary].interval.mean
        said = f"{arm.arm} is {signed(gain, 4)} from the model as it was"
        if not spread:
            parts.append(f"{said}: not judged, as no rate has two seeds of random rows yet.")
            continue
        pooled = float(np.sqrt(np.mean(np.square(spread))))
        parts.append(
            f"{said}: {number(gain / pooled, 1)} deviations of random rows over seeds "
            f"({number(pooled, 4)}, pooled over {len(spread)} rates). At least {ENOUGH} are asked "
            f"for: {met(gain >= ENOUGH * pooled)}."
        )
    return parts


def variants(
    experiment: Finished, found: Sequence[Arm], leads: Mapping[tuple[str, str], Crossed]
) -> list[str]:
    """Return every variant that was tried: its settings, features and rows, and what they give.

    Args:
        experiment: the run.
        found: its arms.
        leads: arm and budget -> igds minus that arm.
    """
    if not found:
        return ["None is measured yet."]
    plan, shown = experiment.plan, []
    for arm in found:
        if arm.arm == ORIGINAL:
            continue
        lead = leads.get((arm.arm, arm.budget))
        words = plan.experiment.variants.get(split_arm(arm.arm)[1] or "", "")
        lead_shown = interval(lead, sign=True) if lead else ""
        tokens = tokens_a_row(experiment, arm)
        shown.append((arm.arm, f"`{words}`" if words else "", f"{tokens:.0f}", lead_shown))
    return [
        *stamps(experiment),
        markdown(("arm", "other settings", "tokens a row", "igds minus it"), shown),
        arm_table(found, plan.experiment.primary),
        feature_table(experiment, found),
        provenance(experiment),
    ]


def tokens_a_row(experiment: Finished, arm: Arm) -> float:
    """Return the mean tokens of the rows that an arm's trainings went over."""
    trained = [experiment.results[cell].facts["trained"] for cell in arm.cells]
    return sum(one["tokens"] for one in trained) / sum(one["rows"] for one in trained)


def met(true: bool, words: str = "met") -> str:
    """Return what is said of a prediction."""
    return words if true else "**not met**"
