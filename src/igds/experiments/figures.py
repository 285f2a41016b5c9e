"""The comparison as pictures: SVG files that stand alone, on white."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from igds.config.experiment import FULL, ORIGINAL, split_arm
from igds.experiments.cells import budget_label
from igds.experiments.comparison import ACTIVATION, Arm
from igds.experiments.state import Finished
from igds.reporting.figures import svg_text
from igds.reporting.text import percent
from igds.stats.rank import spearman

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}
_SIZE = (7.2, 3.8)
_TICKS = 10
"""Most shares of the pool that are ticked one by one."""
_DRAWS, _ARMS = 4000, 8


def figures(finished: Finished, found: Sequence[Arm]) -> dict[str, bytes]:
    """Return file name -> SVG; a figure without anything to show is left out.

    Args:
        finished: the experiment.
        found: its arms.
    """
    primary = finished.plan.experiment.primary
    drawn = {
        "ratio.svg": by_ratio(finished, found, primary),
        "activation.svg": by_activation(finished, primary),
    }
    return {name: svg for name, svg in drawn.items() if svg is not None}


def by_ratio(finished: Finished, found: Sequence[Arm], metric: str) -> bytes | None:
    """Return the metric of each arm by the share of the pool it keeps (the paper's Fig. 4)."""
    import matplotlib

    found = [arm for arm in found if metric in arm.means]
    points = [arm for arm in found if arm.arm != ORIGINAL]
    if not points:
        return None
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas("Share of the pool", f"{metric}, held out")
        for arm in found:
            if arm.arm in (ORIGINAL, FULL):
                mean = arm.means[metric].interval.mean
                dashes = (0, (1, 2)) if arm.arm == FULL else (0, (4, 3))
                axes.axhline(mean, color="#555555", linewidth=1, linestyle=dashes, label=arm.arm)
        names = list(dict.fromkeys(arm.arm for arm in points if arm.arm != FULL))
        shares = sorted({round(_share(finished, arm), 3) for arm in points if arm.arm != FULL})
        step = min(0.01, 0.8 * min(np.diff(shares), default=1) / max(len(names), 1))
        for place, name in enumerate(names):
            own = [arm for arm in points if arm.arm == name]
            aside = float(step) * (place - (len(names) - 1) / 2)
            _line(axes, finished, own, metric, place, aside=aside)
        if len(shares) <= _TICKS:
            axes.set_xticks(shares, [percent(share) for share in shares])
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        return svg_text(figure, "ratio").encode()


def by_activation(finished: Finished, metric: str) -> bytes | None:
    """Return each cell's metric by its model's feature activation (the paper's Fig. 3).

    Arms under a variant may have other task features and are left out. The correlation is that of
    the budget with most cells: more updates move both. Trainings that diverged are left out too.
    """
    import matplotlib

    cells = [
        (cell, result)
        for cell, result in finished.results.items()
        if split_arm(cell.arm)[1] is None and {ACTIVATION, metric} <= result.values.keys()
    ]
    points = {
        cell: tuple(
            float(np.mean(list(result.values[name].values()))) for name in (ACTIVATION, metric)
        )
        for cell, result in cells
        if cell.arm != ORIGINAL
    }
    trained = [cell for cell, point in points.items() if np.isfinite(point).all()]
    if len(trained) < 3:
        return None
    x, y = np.array([points[cell] for cell in trained]).T
    budgets = ["" if cell.budget is None else budget_label(cell.budget) for cell in trained]
    ((most, _),) = Counter(budgets).most_common(1)
    alike = np.array([budget == most for budget in budgets])
    selections = [cell.arm for cell, kept in zip(trained, alike, strict=True) if kept]
    said = correlation_text(x[alike], y[alike], selections)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _canvas(
            "Mean activation of the task features, held out", f"{metric}, held out"
        )
        names = list(dict.fromkeys(cell.arm for cell in trained))
        for place, name in enumerate(names):
            own = [cell.arm == name for cell in trained]
            axes.scatter(x[own], y[own], s=18, color=_colour(place), label=name)
        axes.set_title(f"{most or 'all rows'}: {said}", loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        return svg_text(figure, "activation").encode()


def correlation_text(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], selections: Sequence[Hashable]
) -> str:
    """Return Spearman's correlation, its bootstrap interval, and how many models it is of.

    Arms are drawn, not models: trainings on one selection are much alike. Of fewer than 8 arms
    there is no interval, as draws of so few say little of others.

    Args:
        x: one value a fine-tuned model.
        y: the same.
        selections: the arm of each.
    """
    known = list(dict.fromkeys(selections))
    models = f"n = {len(x)} fine-tuned models of {len(known)} selections"
    if len(x) < 3:
        return f"Spearman: not defined (under 3 models), {models}"
    if len(set(x.tolist())) < 2 or len(set(y.tolist())) < 2:
        return f"Spearman: not defined (a constant), {models}"
    found = f"Spearman {spearman(x, y):.2f}"
    if len(known) < _ARMS:
        return f"{found} (too few selections for an interval), {models}"
    own = [np.flatnonzero([one == selection for one in selections]) for selection in known]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(_DRAWS):
        rows = np.concatenate([own[place] for place in rng.integers(0, len(own), len(own))])
        if len(np.unique(x[rows])) > 1 and len(np.unique(y[rows])) > 1:
            draws.append(spearman(x[rows], y[rows]))
    low, high = np.percentile(draws, (2.5, 97.5))
    return f"{found} [{low:.2f}, {high:.2f}], {models}"


def _line(
    axes: Axes, finished: Finished, own: Sequence[Arm], metric: str, place: int, *, aside: float
) -> None:
    """Draw one arm over its budgets, its points a little aside of their share."""
    values = [arm.means[metric].interval for arm in own]
    x = np.array([_share(finished, arm) for arm in own]) + aside
    y = np.array([value.mean for value in values])
    below = y - np.array([value.low for value in values])
    above = np.array([value.high for value in values]) - y
    axes.errorbar(
        x, y, yerr=np.stack([below, above]), marker="o", markersize=4, linewidth=1, capsize=2,
        color=_colour(place), label=own[0].arm,
    )  # fmt: skip


def _share(finished: Finished, arm: Arm) -> float:
    """Return the share of the pool's rows that an arm keeps."""
    facts = finished.results[arm.cells[0]].facts["selection"]
    return facts["selected"] / facts["ok"]


def _colour(place: int) -> str:
    """Return a colour for each of 20 arms, and on from the first."""
    import matplotlib
    from matplotlib.colors import to_hex

    return to_hex(matplotlib.color_sequences["tab20"][place % 20])


def _canvas(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes
