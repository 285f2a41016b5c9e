"""The page's figures: SVG whose text stays text and whose colours are the page's own."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from igds.reporting.summaries import Positive
from igds.reporting.text import visible
from igds.reporting.values import Pool, Recall, Training, Word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from igds.features import FeatureId

SIZE = (4.2, 2.75)
"""Inches; the page scales a figure to its column."""
WIDE = (8.8, 3.4)
"""Inches of a figure that has a row for itself."""
INK, MUTED, LINE, ACCENT, SOFT, PAPER = (f"#0102{n:02x}" for n in range(3, 9))
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    ACCENT: "--accent",
    SOFT: "--soft",
    PAPER: "--paper",
}
"""Colours drawn with -> CSS variables they become, so that one figure serves light and dark."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 0.5,
}
MARKERS = {"S1": ("none", ACCENT), "S2": (SOFT, ACCENT)}
"""Split -> fill and edge of a marker; those of S3, and of generated outputs, are filled."""
LENGTH_GROUPS = 12
"""Groups of equal size, by prompt length, in the figure of score against length."""

WORDS_SHOWN = 12
"""Words in the figure of what an edit makes more frequent."""


def recalled_per_layer(recall: Recall) -> str:
    """Return bars: recalled or drawn features of each block that has an SAE."""
    import matplotlib
    import matplotlib.ticker

    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("Decoder block", "Features" if recall.drawn else "Recalled features")
        layers = list(recall.per_layer)
        bars = axes.bar(
            [str(layer) for layer in layers],
            list(recall.per_layer.values()),
            width=0.7 if len(layers) > 6 else 0.12 * len(layers),
            color=ACCENT,
        )
        if len(layers) <= 16:
            axes.bar_label(bars, padding=2, color=INK)
        else:
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(14, integer=True))
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        axes.margins(x=0.08, y=0.12)
        return _svg(figure, "layers")


def specificity_by_frequency(recall: Recall, named: Sequence[FeatureId]) -> str:
    """Return a scatter of recalled features, the named ones marked and labelled."""
    import matplotlib
    import matplotlib.ticker

    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("Share of task prompts on which it is active", "Specificity (AUROC)")
        rest = [f for key, f in recall.features.items() if key not in named]
        dots = {"s": 14, "linewidths": 0, "rasterized": len(rest) > 4000}
        axes.scatter(
            [f.frequency for f in rest],
            [f.specificity.value for f in rest],
            color=MUTED,
            alpha=0.45,
            **dots,
        )
        axes.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        middle = (min(1.0, *(f.frequency for f in recall.features.values())) + 1.0) / 2
        for key in named:
            _named_point(axes, recall, key, middle)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_ylim(-0.03, 1.03)
        axes.margins(x=0.06)
        return _svg(figure, "specificity")


def positive_features(found: Sequence[Positive], named: Sequence[FeatureId]) -> str:
    """Return a scatter of features with a delta above 0: block, index (log), size by delta."""
    import matplotlib
    import matplotlib.ticker

    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("Decoder block", "Index in the SAE (logarithmic)", size=WIDE)
        largest = max(one.delta for one in found)
        # The smallest last, so that none is hidden; a logarithm has no 0, so 0 stands at 1.
        for one in sorted(found, key=lambda one: -one.delta):
            fill, edge = MARKERS.get(one.measured, (ACCENT, PAPER))
            axes.scatter(
                one.id.layer,
                max(1, one.id.index),
                s=12 + 140 * one.delta / largest,
                facecolors=fill,
                edgecolors=edge,
                linewidths=1,
                zorder=2,
            )
        axes.set_yscale("log")
        axes.set_ylim(0.4 * max(1, min(f.id.index for f in found)), 2.5 * axes.get_ylim()[1])
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(14, integer=True))
        axes.margins(x=0.08)
        for one in (one for one in found if one.id in named):
            _beside(axes, str(one.id), (one.id.layer, max(1, one.id.index)))
        return _svg(figure, "positive")


def score_distribution(pool: Pool) -> str:
    """Return a histogram of pool scores, selected rows filled, with the cut if there is one."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("Pool score", "Rows")
        scored = ~np.isnan(pool.score)
        edges = np.histogram_bin_edges(pool.score[scored], bins=36)
        axes.hist(
            [pool.score[scored & pool.selected], pool.score[scored & ~pool.selected]],
            bins=edges.tolist(),
            stacked=True,
            color=[ACCENT, SOFT],
            rwidth=0.9,
        )
        if pool.n_selected and not pool.diversity:
            axes.axvline(pool.cut, color=INK, linewidth=1)
            _cut_label(axes, pool.cut)
        axes.margins(x=0.02, y=0.14)
        return _svg(figure, "scores")


def score_by_length(pool: Pool) -> str:
    """Return the pool score's median and quartiles in groups of rows of like prompt length."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("Prompt tokens (median of the group)", "Pool score")
        groups = _length_groups(pool)
        lengths = [np.median(lengths) for lengths, _ in groups]
        low, middle, high = (
            [np.quantile(scores, level) for _, scores in groups] for level in (0.25, 0.5, 0.75)
        )
        axes.fill_between(lengths, low, high, color=SOFT, linewidth=0)
        axes.plot(lengths, middle, color=ACCENT, linewidth=1.6, marker="o", markersize=4)
        axes.set_ylim(bottom=min(0.0, *low))
        return _svg(figure, "length")


def risen_words(words: Sequence[Word], name: str) -> str:
    """Return bars: how much more frequent an edit makes the words that it raises most.

    Args:
        words: most risen first.
        name: of the figure, no other one's.
    """
    import matplotlib

    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x", "ytick.labelcolor": INK}):
        figure, axes = _canvas("Times as frequent (logarithm, base 2)", "")
        shown = words[:WORDS_SHOWN][::-1]
        axes.barh(range(len(shown)), [word.log_ratio for word in shown], 0.7, color=ACCENT)
        axes.set_yticks(range(len(shown)), [visible(word.word) for word in shown])
        axes.margins(y=0.02)
        return _svg(figure, name)


def loss_curve(training: Training) -> str:
    """Return the loss of each update, with its running mean over a tenth of them."""
    import matplotlib
    import matplotlib.ticker

    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("Update", "Loss, nats a response token")
        axes.plot(training.steps, training.loss, color=SOFT, linewidth=1, marker="o", markersize=2)
        width = max(1, len(training.loss) // 10)
        mean = np.convolve(training.loss, np.full(width, 1 / width), mode="valid")
        axes.plot(training.steps[width - 1 :], mean, color=ACCENT, linewidth=1.6)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        return _svg(figure, "loss")


def learning_rates(training: Training) -> str:
    """Return the learning rate of each update."""
    import matplotlib
    import matplotlib.ticker

    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("Update", "Learning rate")
        axes.plot(training.steps, training.learning_rate, color=ACCENT, linewidth=1.6)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        axes.set_ylim(bottom=0)
        return _svg(figure, "rate")


def _length_groups(pool: Pool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (lengths, scores) of groups of nearly equal size, short prompts first."""
    known = ~np.isnan(pool.score) & ~np.isnan(pool.prompt_tokens)
    order = np.argsort(pool.prompt_tokens[known], kind="stable")
    lengths, scores = pool.prompt_tokens[known][order], pool.score[known][order]
    parts = np.array_split(np.arange(order.size), min(LENGTH_GROUPS, order.size))
    return [(lengths[part], scores[part]) for part in parts]


def _named_point(axes: Axes, recall: Recall, key: FeatureId, middle: float) -> None:
    """Mark a feature, its name on the side of its dot that has more room."""
    feature = recall.features[key]
    at = (feature.frequency, feature.specificity.value)
    axes.scatter(*at, s=34, color=ACCENT, edgecolors=PAPER, linewidths=1, zorder=3)
    below, right = feature.specificity.value > 0.85, feature.frequency > middle
    axes.annotate(
        str(key),
        at,
        xytext=(-5 if right else 5, -6 if below else 6),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top" if below else "bottom",
        fontweight="bold",
    )


def _beside(axes: Axes, name: str, at: tuple[int, int]) -> None:
    """Name a marker on the side that has more room."""
    left, right = axes.get_xlim()
    beyond = at[0] > (left + right) / 2
    axes.annotate(
        name,
        at,
        xytext=(-9 if beyond else 9, 0),
        textcoords="offset points",
        ha="right" if beyond else "left",
        va="center",
        fontweight="bold",
    )


def _cut_label(axes: Axes, cut: float) -> None:
    left, right = axes.get_xlim()
    beyond = cut > (left + right) / 2
    axes.annotate(
        "selected from here",
        (cut, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if beyond else 5, -2),
        textcoords="offset points",
        ha="right" if beyond else "left",
        va="top",
    )


def _canvas(x: str, y: str, *, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Return an empty figure; the y label stands above the axis, where it reads unturned."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_title(y, loc="left", fontsize=9, color=MUTED)
    return figure, axes


def svg_text(figure: Figure, name: str, *, transparent: bool = False) -> str:
    """Return the figure as SVG, the same text for the same numbers."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=transparent)
    return buffer.getvalue()


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as an SVG element: page's font and colours, ids of its own, no size."""
    text = svg_text(figure, name, transparent=True)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
