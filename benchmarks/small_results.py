"""Writes docs/results/small.md from the finished cells of the small experiment.

    python benchmarks/small_results.py

Reads `docs/results/small/<name>/*.parquet`, one file a finished cell of `configs/small/<name>.yaml`
(`igds experiment configs/small/<name>.yaml` makes them), and nothing else but the configurations
and, once every selection of a noisy pool is made, its labels. Figures go beside the cells.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from _common import ROOT
from _small_development import TRIED, TUNED, VARIANTS, met, rates, tokens_a_row, variants
from _small_noise import NOTES, noise_table
from igds.config.experiment import FULL, ORIGINAL
from igds.config.load import load_config
from igds.experiments.cells import Cell
from igds.experiments.comparison import Arm, Tested, adjusted, arms, contrasts, difference
from igds.experiments.figures import figures
from igds.experiments.pages import TITLES
from igds.experiments.state import Finished, finished
from igds.experiments.tables import (
    EXPLORED,
    arm_tables,
    contrast_table,
    interval,
    markdown,
    stamps,
    verdict,
)
from igds.reporting.text import number
from igds.stats.crossed import Crossed

NAMES = ("math", "summarization", "noise-prompt", "noise-response")
TITLES_OF = {
    "math": "Mathematics: GSM8K",
    "summarization": "Summarization: MTS-Dialog",
    "noise-prompt": "Noise in prompts: half of a mathematics pool are other tasks",
    "noise-response": "Noise in responses: half of a mathematics pool has exchanged answers",
}
BUDGET, HALF = "0.2", "0.5"
NULLS = ("igds@untrained", "igds@permuted")
COPIED = (
    "In all test rows the gold solution states the answer before the final answer repeats it, so "
    "the log-probability of the final answer is mostly that of copying, and says nothing of "
    "solving. Part of every gain on the original is the solutions' form, with a last sentence that "
    "is always the same."
)
UNASKED = (
    "No control pushes are made here, so nothing can be confirmed. L9/1839 was confirmed with them "
    "on the same validation rows: [interventions](interventions.md)."
)
LIMITS = (
    "`random-matched` and `igds-matched` have two draws each, where five would bound what a draw "
    "by chance does. No arm has equal tokens or equal steps, though tokens a row differ up to "
    "4.5-fold between arms: in summarization igds has 114, random rows 246, igds-bottom 514."
)
MORE_ROWS = (
    "The paper finds half of a pool, by igds, better than all of it. Here each row is passed once, "
    "so fewer rows are fewer updates."
)
CONFIGS, RESULTS = ROOT / "configs" / "small", ROOT / "docs" / "results"
INTRODUCTION = """# Does training on selected rows help a small model?

Written by `python benchmarks/small_results.py` from the per-item results of every finished cell,
in [small/](small). What was asked, what was declared and what counts as found was written down
before: [protocol](protocol.md). Configurations: [configs/small](../../configs/small/README.md).
Numbers are means over trainings and held-out rows, in nats a token, with 95 % intervals; these are
symmetric, so they may reach beyond a bound. What each training selected, its tokens and updates
among it, is in its own file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool's experiment and what its finished cells show."""

    experiment: Finished
    """Its cells."""
    arms: Sequence[Arm]
    """Those that have a finished cell."""
    leads: Mapping[tuple[str, str], Crossed]
    """Arm and budget -> igds minus that arm on the primary metric, by paired seeds."""


def main() -> int:
    """Write the page and return 0."""
    path = RESULTS / "small.md"
    text, drawn = page(*stored())
    for file, svg in drawn.items():
        (RESULTS / file).write_bytes(svg)
    path.write_text(text, encoding="utf-8")
    print(f"page: {path}")
    return 0


def stored() -> tuple[dict[str, Finished], dict[str, Finished], dict[str, Finished]]:
    """Return the four pools, learning rates and variants on development rows, as far as they are.

    Each by the name of its configuration.
    """
    found, tuned, tried = (
        {name: finished(load_config(CONFIGS / f"{name}.yaml")) for name in names}
        for names in (NAMES, TUNED, VARIANTS)
    )
    return found, tuned, tried


def page(
    found: Mapping[str, Finished], tuned: Mapping[str, Finished], tried: Mapping[str, Finished]
) -> tuple[str, dict[str, bytes]]:
    """Return the page, and its figures: path from the page's folder -> SVG.

    Args:
        found: the four pools.
        tuned: learning rates on development rows.
        tried: variants of igds on development rows.
    """
    drawn = {}
    pools = {name: measure(experiment) for name, experiment in found.items()}
    tested = all_contrasts(found)
    parts = [INTRODUCTION, "## In short", in_short(pools, tested)]
    parts += ["## How far it has come", progress(found)]
    primary = next(iter(found.values())).plan.experiment.primary
    named = [replace(one, arm=f"{name}: {one.arm}") for name, own in tested.items() for one in own]
    parts += ["## The declared contrasts", contrast_table(named, primary)]
    parts.append("Holm's procedure is over all six, measured or not.")
    parts += ["## What was done otherwise than declared"]
    parts.append((RESULTS / "small" / "deviations.md").read_text(encoding="utf-8").rstrip())
    parts += ["## Limits of what was declared", LIMITS, EXPLORED]
    for name, pool in pools.items():
        experiment, measured = pool.experiment, pool.arms
        if not measured:
            continue
        parts += [f"## {TITLES_OF[name]}", *stamps(experiment)]
        if name != "summarization":
            parts += [UNASKED, COPIED]
        declared = {one.against for one in tested[name] if one.arm == "igds"}
        rivals = {
            (arm, budget): gap
            for (arm, budget), gap in pool.leads.items()
            if budget != BUDGET or arm not in declared
        }
        if rivals:
            parts += ["### igds minus other arms", difference_table(rivals)]
        if parted := minus_full(experiment, measured):
            table = difference_table(parted, "minus full")
            parts += ["### A share of the pool minus all of it", MORE_ROWS, table]
        parts += arm_tables(experiment, measured)
        for file, svg in figures(experiment, measured).items():
            drawn[f"small/{name}/{file}"] = svg
            parts.append(f"![{TITLES[file]}](small/{name}/{file})")
        if name.startswith("noise"):
            parts += ["### Noise in the selections", noise_table(name, experiment, measured)]
            parts.append(NOTES[name])
    parts += ["## Are random directions and permuted answers no better than random rows?"]
    parts += ["Predicted: their intervals do not lie above 0.", null_predictions(pools)]
    parts += ["## Learning rates, on development rows"]
    for name, experiment in tuned.items():
        parts += [f"### Of {TUNED[name]}", *rates(experiment)]
    parts += ["## Variants of igds, on development rows", TRIED]
    for name, experiment in tried.items():
        pool = measure(experiment)
        parts += [f"### On {VARIANTS[name]}", *variants(experiment, pool.arms, pool.leads)]
    return "\n\n".join(parts) + "\n", drawn


def measure(experiment: Finished) -> Pool:
    """Return an experiment with its arms, and igds beside each of them."""
    found = arms(experiment)
    return Pool(experiment=experiment, arms=found, leads=igds_minus(experiment, found))


def progress(found: Mapping[str, Finished]) -> str:
    """Return how many cells of each pool are finished."""
    rows = [(name, one.done, len(one.plan.cells)) for name, one in found.items()]
    total = ("all", *(sum(int(row[k]) for row in rows) for k in (1, 2)))
    return markdown(("pool", "finished cells", "cells"), [*rows, total])


def in_short(pools: Mapping[str, Pool], tested: Mapping[str, Sequence[Tested]]) -> str:
    """Return lines a pool: the declared contrasts, then which arms lie beside which, at 20 %.

    Args:
        pools: all of them.
        tested: the declared contrasts of each.
    """
    lines = []
    for name, pool in pools.items():
        primary = pool.experiment.plan.experiment.primary
        pairs = {(one.arm, one.against): verdict(one) for one in tested[name]}
        over = {
            arm.arm: arm.over_random[primary]
            for arm in pool.arms
            if arm.budget == BUDGET
            and primary in arm.over_random
            and (arm.arm, "random") not in pairs
        }
        rivals = {
            arm: gap
            for (arm, budget), gap in pool.leads.items()
            if budget == BUDGET and ("igds", arm) not in pairs and arm != "random"
        }
        if not over and not pairs:
            continue
        short = "" if pool.experiment.complete else " (not all cells yet)"
        lines.append(f"- **{name}**{short}.")
        lines += [f"  - Declared, {a} - {b}: {said}." for (a, b), said in pairs.items()]
        lines += [f"  - {said}" for one in tested[name] for said in empty_score(pool, one)]
        beside = sides(over, ("better", "worse", "no difference seen", "diverged"))
        lines.append(f"  - Compared with random rows, not declared: {beside}.")
        others = sides(rivals, ("better than", "worse than", "no difference seen from", "diverged"))
        lines.append(f"  - igds compared with other arms, not declared: {others}.")
        halves = {
            arm: gap
            for (arm, budget), gap in minus_full(pool.experiment, pool.arms).items()
            if budget == HALF
        }
        if halves:
            said = sides(halves, ("better", "worse", "no difference seen", "diverged"))
            lines.append(f"  - Half of the pool compared with all of it, not declared: {said}.")
    note = (
        "What was not declared is said by the 95 % interval of each pair, at 20 % if no other "
        "share is named, not adjusted for their number; those of two seeds cover less often. Pairs "
        "of one seed are not named."
    )
    return "\n".join([*lines, "", note]) if lines else "Nothing is measured yet."


def empty_score(pool: Pool, one: Tested) -> list[str]:
    """Return what it means that igds is not better than its own lowest rows, where that is so."""
    said = verdict(one)
    if (one.arm, one.against) != ("igds", "igds-bottom") or not one.judged:
        return []
    if said not in ("no difference found", "igds is worse"):
        return []
    rows = {
        arm.arm: tokens_a_row(pool.experiment, arm) for arm in pool.arms if arm.budget == one.budget
    }
    how = "better than" if said == "igds is worse" else "as well as"
    return [
        f"The score may be empty here: as far as these trainings show, its lowest rows do {how} "
        f"its highest. Equal rows are not equal tokens: {rows['igds']:.0f} a row for igds, "
        f"{rows['igds-bottom']:.0f} for igds-bottom."
    ]


def sides(gaps: Mapping[str, Crossed], words: tuple[str, str, str, str]) -> str:
    """Return which differences lie above 0, below it, across it, and nowhere, in these words."""
    above, below, across, nowhere = words
    found: dict[str, list[str]] = {word: [] for word in words}
    for arm, gap in gaps.items():
        if math.isnan(gap.interval.mean):
            found[nowhere].append(arm)
        elif gap.seeds > 1:
            over, under = gap.interval.low > 0, gap.interval.high < 0
            found[above if over else below if under else across].append(arm)
    said = [f"{side} {', '.join(names)}" for side, names in found.items() if names]
    return "; ".join(said) or "nothing can be said yet"


def igds_minus(experiment: Finished, measured: Sequence[Arm]) -> dict[tuple[str, str], Crossed]:
    """Return arm and budget -> igds minus that arm on the primary metric, by paired seeds."""
    own = {arm.budget: arm.cells for arm in measured if arm.arm == "igds"}
    found = {
        (arm.arm, arm.budget): by_seed(experiment, own.get(arm.budget, ()), arm.cells)
        for arm in measured
        if arm.arm not in ("igds", ORIGINAL, FULL)
    }
    return {pair: gap for pair, gap in found.items() if gap is not None}


def minus_full(experiment: Finished, measured: Sequence[Arm]) -> dict[tuple[str, str], Crossed]:
    """Return arm and budget -> igds or random rows minus the whole pool, by paired seeds."""
    whole = [cell for arm in measured if arm.arm == FULL for cell in arm.cells]
    found = {
        (arm.arm, arm.budget): by_seed(experiment, arm.cells, whole)
        for arm in measured
        if arm.arm in ("igds", "random")
    }
    return {pair: gap for pair, gap in found.items() if gap is not None}


def by_seed(experiment: Finished, ours: Sequence[Cell], theirs: Sequence[Cell]) -> Crossed | None:
    """Return cells minus others on the primary metric, by seeds of both; None where none is."""
    others = {cell.seed: cell for cell in theirs}
    ours = [cell for cell in ours if cell.seed in others]
    paired = [others[cell.seed] for cell in ours]
    return difference(experiment, ours, paired, experiment.plan.experiment.primary)


def difference_table(found: Mapping[tuple[str, str], Crossed], named: str = "igds minus it") -> str:
    """Return a row an arm and budget: seeds, difference, what could have been seen."""
    rows = [
        (arm, budget, gap.seeds, interval(gap, sign=True), number(gap.detectable(), 4))
        for (arm, budget), gap in found.items()
    ]
    return markdown(("arm", "budget", "seeds", named, "smallest detectable"), rows)


def all_contrasts(found: Mapping[str, Finished]) -> dict[str, list[Tested]]:
    """Return each pool's declared contrasts, all one family; unmeasured ones count in it."""
    declared = sum(
        len(part.contrasts) for one in found.values() for part in one.plan.experiment.grid
    )
    tested = {name: contrasts(one) for name, one in found.items()}
    together = iter(adjusted([one for own in tested.values() for one in own], declared))
    return {name: [next(together) for _ in own] for name, own in tested.items()}


def null_predictions(pools: Mapping[str, Pool]) -> str:
    """Return whether untrained directions and permuted answers are not better than random rows."""
    rows = []
    for name in ("math", "summarization"):
        pool = pools[name]
        primary = pool.experiment.plan.experiment.primary
        shown = {arm.arm: arm for arm in pool.arms if arm.budget == BUDGET}
        none = {cell.arm for cell in pool.experiment.unselected}
        rows += [(name, arm, "", "", "met: no usable feature", "") for arm in NULLS if arm in none]
        for arm in (shown[one] for one in NULLS if one in shown):
            gain = arm.over_random.get(primary)
            if gain is None:
                continue
            judged = gain.seeds == arm.wanted > 1 and not math.isnan(gain.interval.low)
            said = met(gain.interval.low <= 0, "not contradicted") if judged else ""
            lead = pool.leads.get((arm.arm, BUDGET))
            rows.append(
                (
                    name,
                    arm.arm,
                    gain.seeds,
                    interval(gain, sign=True),
                    f"{said}; {number(gain.detectable(), 4)} is seen with a power of 0.8"
                    if said
                    else "",
                    interval(lead, sign=True) if lead else "",
                )
            )
    columns = ("pool", "arm", "seeds", "minus random", "", "igds minus it")
    return markdown(columns, rows) if rows else "Not measured yet."


if __name__ == "__main__":
    sys.exit(main())
