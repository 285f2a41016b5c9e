"""What the finished cells show together: means of arms, declared contrasts, further differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from igds.config.experiment import FULL, ORIGINAL, Experiment, Grid, split_arm
from igds.experiments.cells import Cell, budget_label
from igds.experiments.results import CellResult
from igds.experiments.state import Finished
from igds.stats.crossed import Crossed, crossed_mean, holm

ACTIVATION = "feature_activation"
"""Metric of a run's own task features: nothing is told by a difference between two runs."""
REFERENCE = "random"
"""Arm that every other one at its budget is compared with, declared or not."""

Results = Mapping[Cell, CellResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One arm at one budget, over its finished seeds."""

    arm: str
    """As the grid names it."""
    budget: str
    """As `budget_label`; empty for `original` and `full`."""
    cells: tuple[Cell, ...]
    """Its finished cells, by seed."""
    wanted: int
    """Cells that the grid asks for."""
    published: float | None
    """What a paper reports of it."""
    means: Mapping[str, Crossed]
    """Metric -> mean over trainings and items."""
    gain: Mapping[str, Crossed]
    """Metric -> difference to the model as it was; empty before that is measured."""
    over_random: Mapping[str, Crossed]
    """Metric -> difference to random rows at this budget, of the same variant where the grid has
    them; empty where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A declared contrast, on the primary metric."""

    arm: str
    """The arm that should be better."""
    against: str
    """The arm it is compared with."""
    budget: str
    """Of both."""
    difference: Crossed
    """Arm minus the other, over the seeds that both have finished."""
    wanted: int
    """Seeds that the grid asks for."""
    adjusted: float
    """p by Holm over all declared contrasts; of those that are not judged yet it is taken as 1."""
    declared: int
    """How many contrasts were declared."""

    @property
    def judged(self) -> bool:
        """Return whether all seeds are finished, and are more than one."""
        return self.difference.seeds == self.wanted > 1

    @property
    def detectable(self) -> float:
        """Return the smallest effect found with a power of 0.8 at Holm's strictest step."""
        return self.difference.detectable(0.05 / self.declared)


def arms(finished: Finished) -> list[Arm]:
    """Return every arm of the grid that has a finished cell, in the grid's order."""
    found = []
    for part, arm in _entries(finished.plan.experiment):
        own = _cells(finished, part, arm)
        done = [cell for cell in dict.fromkeys(own) if cell in finished.results]
        if not done or any(done[0] in other.cells for other in found):
            continue
        original = _cells(finished, part, ORIGINAL)
        apart = split_arm(arm)[0] not in (REFERENCE, ORIGINAL, FULL)
        drawn = _cells(finished, part, counterpart(part, REFERENCE, arm)) if apart else []
        found.append(
            Arm(
                arm=arm,
                budget="" if done[0].budget is None else budget_label(done[0].budget),
                cells=tuple(done),
                wanted=len(set(own)),
                published=part.published.get(arm),
                means=_means(finished.results, done),
                gain=differences(finished, own, original) if arm != ORIGINAL else {},
                over_random=differences(finished, own, drawn),
            )
        )
    return found


def contrasts(finished: Finished) -> list[Tested]:
    """Return the declared contrasts of which any seed is finished on both sides."""
    settings = finished.plan.experiment
    found, declared = [], 0
    for part in settings.grid:
        for contrast in dict.fromkeys(part.contrasts):
            declared += 1
            ours, theirs = (
                _cells(finished, part, side) for side in (contrast.arm, contrast.against)
            )
            measured = difference(finished, ours, theirs, settings.primary)
            if measured is not None:
                found.append(
                    Tested(
                        arm=contrast.arm,
                        against=contrast.against,
                        budget=budget_label(part.budget),
                        difference=measured,
                        wanted=part.seeds,
                        adjusted=1.0,
                        declared=declared,
                    )
                )
    return adjusted(found, declared)


def adjusted(tested: Sequence[Tested], declared: int) -> list[Tested]:
    """Return the contrasts with p by Holm over all that were declared, judged or not.

    Args:
        tested: those that are measured.
        declared: how many there are in all.
    """
    p = [
        one.difference.p if one.judged and not math.isnan(one.difference.p) else 1.0
        for one in tested
    ]
    found = holm([*p, *[1.0] * (declared - len(p))])
    return [
        replace(one, adjusted=q, declared=declared) for one, q in zip(tested, found, strict=False)
    ]


def differences(
    finished: Finished, ours: Sequence[Cell], theirs: Sequence[Cell]
) -> dict[str, Crossed]:
    """Return `difference` on every metric that has one."""
    known = next((finished.results[cell].values for cell in ours if cell in finished.results), {})
    found = {metric: difference(finished, ours, theirs, metric) for metric in known}
    return {metric: one for metric, one in found.items() if one is not None}


def difference(
    finished: Finished, ours: Sequence[Cell], theirs: Sequence[Cell], metric: str
) -> Crossed | None:
    """Return the mean difference over paired cells, on the items that all of them have.

    None where no pair is finished, the cells have no item in common, or the metric does not mean
    the same in all of them: activations are compared where both arms have the same task features.

    Args:
        finished: the experiment.
        ours: cells of one arm, by seed.
        theirs: as many of another; pairs of which one is not finished are left out.
        metric: what is compared.
    """
    if metric == ACTIVATION:
        runs = {finished.plan.cell_config(cell).name for cell in (*ours, *theirs)}
        if len(runs) > 1:
            return None
    results = finished.results
    pairs = [
        (results[a], results[b])
        for a, b in zip(ours, theirs, strict=False)
        if a in results and b in results
    ]
    names = _common([one for pair in pairs for one in pair], metric)
    if not names:
        return None
    left, right = (
        np.stack([_values(pair[side], metric, names) for pair in pairs]) for side in (0, 1)
    )
    return crossed_mean(left - right, _clusters(pairs[0][0], names))


def counterpart(part: Grid, method: str, arm: str) -> str:
    """Return a method under an arm's variant, where the part has it, else the plain method."""
    _, variant = split_arm(arm)
    under = f"{method}@{variant}"
    return under if variant is not None and under in part.arms else method


def _means(results: Results, done: Sequence[Cell]) -> dict[str, Crossed]:
    kept = [results[cell] for cell in done]
    found = {}
    for metric in kept[0].values:
        names = _common(kept, metric)
        if names:
            values = np.stack([_values(one, metric, names) for one in kept])
            found[metric] = crossed_mean(values, _clusters(kept[0], names))
    return found


def _entries(settings: Experiment) -> Iterable[tuple[Grid, str]]:
    return ((part, arm) for part in settings.grid for arm in part.arms)


def _cells(finished: Finished, part: Grid, arm: str) -> list[Cell]:
    """Return an arm's cells at a part's budget, finished or not, by seed.

    The model as it was has one, which stands beside every seed of the others.
    """
    found = [
        cell
        for cell in finished.plan.cells
        if cell.arm == arm and cell.budget in (None, part.budget)
    ]
    return found * part.seeds if arm == ORIGINAL else found


def _common(results: Sequence[CellResult], metric: str) -> list[str]:
    """Return the items that all cells have, in the first one's order."""
    sets = [result.values.get(metric, {}) for result in results]
    return [name for name in sets[0] if all(name in other for other in sets)] if sets else []


def _values(result: CellResult, metric: str, names: Sequence[str]) -> Float[np.ndarray, " items"]:
    return np.array([result.values[metric][name] for name in names])


def _clusters(result: CellResult, names: Sequence[str]) -> list[str]:
    return [result.clusters[name] for name in names]
