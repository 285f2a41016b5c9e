"""The page: collected values put into words, tables and figures, every string escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from igds.features import FeatureId
from igds.reporting import figures, summaries
from igds.reporting.cards import CARDS, card_name, write_cards
from igds.reporting.collect import read_run
from igds.reporting.environment import environment
from igds.reporting.strips import ColouredStrip, colour, heat_scale
from igds.reporting.values import Intervene, Run, ShownRow
from igds.selection.showcase import GROUPS

TOKEN_ACTIVATIONS = "token_activations.parquet"
LONGEST_RESPONSE = 2000
"""Characters of a response that are shown."""
COSTS = {
    "driver_peak_rss_mb": "Peak memory of the driver, MB",
    "peak_rss_mb": "Peak memory, MB",
    "workers": "Workers",
    "started": "Started",
}
"""What the manifest records of a stage -> column title."""
ELSEWHERE = ("name", "seed", "versions", "stages")
"""Parts of the manifest that the page shows on their own; the rest are identities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A reservation that stands above everything else."""

    words: str
    """Two or three words in capitals."""
    lines: tuple[str, ...]
    """What they mean; empty lines are not shown."""


def write_report(run_folder: Path, output: Path, rows_folder: Path | None = None) -> None:
    """Write the page of a run, whatever stages it has, as one file that needs no network.

    Beside it, in `cards/`, each task feature gets a card that stands alone.

    Args:
        run_folder: the run.
        output: HTML file to write.
        rows_folder: folder of `token_activations.parquet`, the run's `report` by default; no rows
            are shown when the file is not there.

    Raises:
        RequestError: an artifact of a stage that has run misses, or lacks a column or key.
    """
    run = read_run(run_folder, (rows_folder or run_folder / "report") / TOKEN_ACTIVATIONS)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(render(run).encode())
    write_cards(run, output.parent / CARDS)


def render(run: Run) -> str:
    """Return the page's HTML."""
    named = run.intervene.task_features if run.intervene else ()
    measured = run.intervene.order if run.intervene else ()
    recalled = run.recall.features.values() if run.recall else ()
    template = environment().get_template("report.html.j2")
    return template.render(
        run=run,
        stamps=stamps(run),
        figures=_figures(run, named),
        deltas=_delta_scales(run.intervene),
        positive=summaries.positives(run.intervene) if run.intervene else {},
        cards={feature: f"{CARDS}/{card_name(feature)}" for feature in named},
        others=[feature for feature in measured if feature not in named],
        links=neuronpedia_links(run),
        shared=[feature for feature in recalled if summaries.equally_frequent(feature)],
        groups=_groups(run.rows),
        heat=heat_scale(run.rows),
        statuses=summaries.status_table(run.methods, _pool_statuses(run)),
        longest_response=LONGEST_RESPONSE,
        costs=_costs(run),
        identities={key: run.manifest[key] for key in run.manifest if key not in ELSEWHERE},
    )


def stamps(run: Run) -> list[Stamp]:
    """Return all that a reader must know before any number."""
    found = []
    if run.recall and run.recall.drawn:
        words = (
            "The features of this run are not recalled but drawn at random (recall.candidates: "
            "random). It is a control: what it shows, random features show."
        )
        found.append(Stamp(words="RANDOM CANDIDATES", lines=(words,)))
    if run.intervene and run.intervene.outcome == "unconfirmed":
        words = "The features, pool scores and selection on this page rest on unconfirmed evidence."
        found.append(Stamp(words="UNCONFIRMED", lines=(words, run.intervene.reason)))
    if run.intervene and run.intervene.outcome == "none":
        found.append(Stamp(words="NO TASK FEATURE", lines=(run.intervene.reason,)))
    if run.intervene and run.intervene.reread:
        found.append(Stamp(words="S3 READ AGAIN", lines=(f"{run.intervene.reread}.",)))
    if run.config["data"].get("overlap") == "allow":
        words = "This run goes on although its data sets may share rows or 13-word runs."
        count = len(run.index["overlaps"])
        found.append(
            Stamp(
                words="OVERLAP ALLOWED",
                lines=(words, f"Pairs of sets that do: {count}; they are listed under The run."),
            )
        )
    return found


def neuronpedia_links(run: Run) -> dict[FeatureId, str]:
    """Return the Neuronpedia page of each measured feature whose SAE names one."""
    if run.intervene is None or run.recall is None:
        return {}
    saes = run.recall.quality
    names = {key: saes[key.layer].neuronpedia_id for key, _ in run.intervene.effects}
    return {
        key: f"https://www.neuronpedia.org/{quote(name)}/{key.index}"
        for key, name in names.items()
        if name
    }


def _groups(rows: Sequence[ShownRow]) -> dict[str, list[tuple[ShownRow, list[ColouredStrip]]]]:
    """Return group -> its rows with their coloured strips."""
    scale = heat_scale(rows)
    groups: dict[str, list[tuple[ShownRow, list[ColouredStrip]]]] = {name: [] for name in GROUPS}
    for row in rows:
        groups[row.group].append((row, [colour(s, scale[s.feature]) for s in row.strips]))
    return groups


def _figures(run: Run, named: Sequence[FeatureId]) -> dict[str, Markup]:
    """Return the figures of the stages that have run, by name."""
    drawn = {}
    if run.recall:
        drawn["layers"] = figures.recalled_per_layer(run.recall)
        drawn["specificity"] = figures.specificity_by_frequency(run.recall, named)
    positive = summaries.positives(run.intervene) if run.intervene else {}
    if positive:
        found = [one for features in positive.values() for one in features]
        drawn["positive"] = figures.positive_features(found, named)
    if run.intervene:
        drawn |= _word_figures(run.intervene)
    if run.pool and run.pool.scored:
        drawn["scores"] = figures.score_distribution(run.pool)
        drawn["length"] = figures.score_by_length(run.pool)
    if run.training and len(run.training.steps):
        drawn["loss"] = figures.loss_curve(run.training)
        drawn["rate"] = figures.learning_rates(run.training)
    return {name: Markup(svg) for name, svg in drawn.items()}


def _word_figures(intervene: Intervene) -> dict[str, str]:
    """Return the figures of words for the best feature, one a position where outputs were made."""
    first = (*intervene.task_features, *intervene.order)[:1]
    return {
        f"words-{position}": figures.risen_words(words, f"words-{position}")
        for (feature, position), words in intervene.words.items()
        if feature in first
    }


def _delta_scales(intervene: Intervene | None) -> dict[str, tuple[float, float]]:
    """Return metric -> one axis for every delta of its unit, so that whiskers compare."""
    effects = intervene.effects if intervene else {}
    shown = [effect for (_, split), effect in effects.items() if split != "S1"]
    nats = [x for e in shown for x in (e.likelihood, e.contrast, e.without_first_5, e.answer)]
    scores = [e.delta for e in shown if e.metric == "task_score"]
    return {
        "logprob": summaries.whisker_scale(nats),
        "task_score": summaries.whisker_scale(scores),
    }


def _pool_statuses(run: Run) -> dict[str, int]:
    """Return status -> rows of the pool's index, empty when the run has no pool."""
    pool = run.index["sets"].get("pool")
    return pool["status"] if pool else {}


def _costs(run: Run) -> dict[str, str]:
    """Return what the manifest records of a stage beside its time -> column title."""
    keys: dict[str, None] = {key: None for s in run.manifest["stages"].values() for key in s}
    return {key: COSTS.get(key, key) for key in keys if key != "seconds"}
