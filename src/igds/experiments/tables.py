"""The comparison as Markdown: arms, declared contrasts, what was selected and what it cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from igds.config.experiment import FULL, ORIGINAL, split_arm
from igds.config.scoring import RANDOM_MATCHED, selects_by_features
from igds.experiments.comparison import Arm, Tested, contrasts
from igds.experiments.results import selected_rows
from igds.experiments.state import Finished
from igds.reporting.text import count, decoding, duration, number, percent, signed
from igds.stats.crossed import Crossed

ADJUSTED = (
    "Verdicts and p (Holm) are adjusted for all declared contrasts; each interval is of 95 % by "
    "itself."
)
"""Said of declared contrasts."""
EXPLORED = (
    "What follows, but for predictions, was not declared and is not adjusted: among as many "
    "intervals some miss 0 by chance. An interval of one seed, or marked (seeds: 1), is of "
    "held-out items alone; one of two seeds covers other trainings less often than 95 %."
)
"""Said of all other intervals."""
_NAMED = 3
"""Most columns of a score that are named one by one."""
METRICS = {
    "logprob": "log-probability of the gold response, nats a token",
    "logprob_answer": "log-probability of the final answer, nats a token",
    "task_score": "the task's score of generated responses",
    "feature_activation": "activation of the task features at the read position",
}
"""Metric -> what it is; benchmarks go by their names."""


def comparison(finished: Finished, found: Sequence[Arm]) -> str:
    """Return all tables of an experiment as Markdown, headings of level 3.

    Args:
        finished: the experiment.
        found: its arms.
    """
    primary = finished.plan.experiment.primary
    config = finished.plan.config
    parts = [f"Model {config.model.train_id or config.model.id}, task {config.task.name}."]
    parts += _generated(finished)
    if not finished.complete:
        wanted = len(finished.plan.cells)
        parts.append(f"**{finished.done} of {wanted} cells are finished.**")
    parts += stamps(finished)
    parts += ["### Declared contrasts", contrast_table(contrasts(finished), primary)]
    return "\n\n".join([*parts, EXPLORED, *arm_tables(finished, found)]) + "\n"


def _generated(finished: Finished) -> list[str]:
    """Return how responses are generated, a line each for variants that differ in it."""
    lines: dict[str, list[str]] = {}
    for variant, config in finished.plan.variants.items():
        if config.evaluate is not None and config.evaluate.decoding is not None:
            lines.setdefault(decoding(config.evaluate.decoding), []).append(variant or "")
    of = {words: "" if "" in names else f" of {', '.join(names)}" for words, names in lines.items()}
    return [f"Generated responses{of[words]}: {words}." for words in lines]


def stamps(finished: Finished) -> list[str]:
    """Return what the reader must know first: unconfirmed features, and sets that may overlap."""
    doubtful = dict.fromkeys(
        cell.arm
        for cell, result in finished.results.items()
        if selects_by_features(split_arm(cell.arm)[0]) and result.facts["outcome"] == "UNCONFIRMED"
    )
    found = []
    if doubtful:
        found.append(f"**UNCONFIRMED**: no feature is confirmed behind {', '.join(doubtful)}.")
    for reason in dict.fromkeys(finished.unselected.values()):
        cells = ", ".join(cell.name for cell, why in finished.unselected.items() if why == reason)
        found.append(f"**No selection**: {cells}, as {reason}.")
    if finished.plan.config.data.overlap == "allow":
        found.append("**OVERLAP ALLOWED**: sets may share rows, the held-out ones too.")
    return found


def arm_tables(finished: Finished, found: Sequence[Arm]) -> list[str]:
    """Return the tables of arms, one a metric, and that of selections and costs, with headings."""
    primary, parts = finished.plan.experiment.primary, []
    measured = list(dict.fromkeys(metric for arm in found for metric in arm.means))
    measured.sort(key=lambda metric: metric != primary)
    for metric in measured:
        words = METRICS.get(metric, metric)
        title = f"### {words[0].upper()}{words[1:]}"
        own = [arm for arm in found if metric in arm.means]
        parts += [title, arm_table(own, metric, published=metric == primary)]
    parts += ["### What was selected, and what it cost", cost_table(finished, found)]
    parts += break_even(finished, found)
    features = feature_table(finished, found)
    if features:
        parts += ["### By which features", features]
    return [*parts, provenance(finished)] if found else parts


def contrast_table(found: Sequence[Tested], primary: str) -> str:
    """Return the declared contrasts, one a row, and what each says in words."""
    if not found:
        return "None is measured yet."
    columns = (
        "contrast", "budget", "seeds", "items", f"difference in {primary}", "seed deviation", "p",
        "p (Holm)", f"smallest detectable at {0.05 / found[0].declared:.2g}", "in words",
    )  # fmt: skip
    rows = [
        (
            f"{one.arm} - {one.against}",
            one.budget,
            seeds(one.difference.seeds, one.wanted),
            one.difference.items,
            interval(one.difference, sign=True),
            number(one.difference.seed_deviation, 4),
            *(_tests(one) if one.judged else ("", "", "")),
            verdict(one),
        )
        for one in found
    ]
    return f"{markdown(columns, rows)}\n\n{ADJUSTED}"


def _tests(one: Tested) -> tuple[str, str, str]:
    return chance(one.difference.p), chance(one.adjusted), number(one.detectable, 4)


def verdict(one: Tested) -> str:
    """Return what a contrast says, at 0.05 after Holm, once all of its seeds are finished."""
    if one.difference.seeds < one.wanted:
        return f"{one.difference.seeds} of {one.wanted} seeds: not judged yet"
    if one.difference.seeds < 2:
        return "one seed: nothing is said"
    if math.isnan(one.difference.p):
        return "not measured"
    if not one.adjusted < 0.05:
        return "no difference found"
    return f"{one.arm} is {'better' if one.difference.interval.mean > 0 else 'worse'}"


def arm_table(found: Sequence[Arm], metric: str, *, published: bool = False) -> str:
    """Return one metric of every arm, with its differences to the original and to random rows.

    Args:
        found: the arms.
        metric: one that all of them have.
        published: show what a paper reports, where the grid says so.
    """
    published = published and any(arm.published is not None for arm in found)
    columns = (
        "arm", "budget", "seeds", "mean [95 %]", "seed deviation", "gain on original",
        "relative", "minus random", *(["published"] if published else []),
    )  # fmt: skip
    rows = []
    for arm in found:
        mean, gain = arm.means[metric], arm.gain.get(metric)
        rows.append(
            (
                arm.arm,
                arm.budget,
                seeds(len(arm.cells), arm.wanted),
                interval(mean),
                number(mean.seed_deviation, 4),
                _against(gain, arm) if gain else "",
                _relative(gain, mean) if gain else "",
                _against(arm.over_random[metric], arm) if metric in arm.over_random else "",
                *(["" if arm.published is None else f"{arm.published:g}"] if published else []),
            )
        )
    return markdown(columns, rows)


def cost_table(finished: Finished, found: Sequence[Arm]) -> str:
    """Return what each arm selected and what that took, means over its seeds."""
    shown = [
        (arm, [finished.results[cell].facts for cell in arm.cells])
        for arm in found
        if arm.arm != ORIGINAL
    ]
    known = {name for _, facts in shown for one in facts for name in one["seconds"]}
    timed = bool(known & {"identify", "score"})
    columns = (
        "arm", "budget", "rows", "tokens", "updates", "source entropy", "distinct 2-grams",
        "no score", "score 0", "shared with igds", "to find features", "to score",
        *(("finding took", "scoring took", "both took") if timed else ()), "training",
    )  # fmt: skip
    rows = []
    for arm, facts in shown:
        chosen = split_arm(arm.arm)[0] != FULL
        rows.append(
            (
                arm.arm,
                arm.budget,
                _whole(facts, "trained", "rows"),
                _whole(facts, "trained", "tokens"),
                _whole(facts, "trained", "steps"),
                number(_mean(facts, "selection", "source_entropy"), 2),
                number(_mean(facts, "selection", "distinct_2"), 3),
                count(_unscored(facts[0]["selection"])) if chosen else "",
                number(_mean(facts, "selection", "share_zero"), 2) if chosen else "",
                percent(_overlap(finished, found, arm)),
                _whole(facts, "cost", "identify"),
                _whole(facts, "cost", "score"),
                *(_took(facts) if timed else ()),
                _time(_mean(facts, "seconds", "finetune")),
            )
        )
    note = (
        "To find features and to score are upper bounds in forward equivalents, tokens through the "
        "whole model that finds features, for sampled rows of mean length, and as if a model that "
        "scores were of its size; updates and times, those of a clock whatever else the machine "
        "did, are those of one cell. distinct 2-grams falls with the number of rows; no score is "
        "how many rows of the pool the method gives none, so that they cannot be selected; score 0 "
        "is the share of the pool whose score is exactly 0, shared with igds that of an arm's rows "
        "which igds takes too at this budget and seed."
    )
    if timed:
        note += (
            " Finding took the time of recall and interventions, paid once for all that is "
            "selected by their features, scoring that of the method's pass over the pool, loading "
            "included; methods that were scored in one pass each show all of it."
        )
    return f"{markdown(columns, rows)}\n\n{note}"


def feature_table(finished: Finished, found: Sequence[Arm]) -> str:
    """Return what each arm's score adds up, and its run's task features; empty without arms."""
    rows = []
    for arm in found:
        facts = [finished.results[cell].facts for cell in arm.cells]
        facts = [one for one in facts if "ranked_by" in one]
        if not facts or split_arm(arm.arm)[0] == FULL:
            continue
        known = facts[0]["identified"]
        effects = known["effects"] if known and selects_by_features(split_arm(arm.arm)[0]) else []
        deltas = ", ".join(
            f"{one['feature']} on {one['split']}{_measured_as(one)} {signed(one['delta'], 4)} "
            f"[{signed(one['delta_low'], 4)}, {signed(one['delta_high'], 4)}]"
            for one in effects
        )
        scores = dict.fromkeys(_score_text(one["ranked_by"]) for one in facts)
        like = "rows like those of " if split_arm(arm.arm)[0] in RANDOM_MATCHED else ""
        rows.append((arm.arm, arm.budget, like + " / ".join(scores), deltas))
    columns = ("arm", "budget", "score made of, / by seed", "task features: deltas [95 %]")
    return markdown(columns, rows) if rows else ""


def _score_text(weights: Mapping[str, float]) -> str:
    return ", ".join(weights) if len(weights) <= _NAMED else f"{len(weights)} features"


def _measured_as(effect: Mapping[str, Any]) -> str:
    """Return what is unusual of an effect: the task's score, and another position than read."""
    words = ["task score"] if effect.get("metric") == "task_score" else []
    words += [effect["position"]] if effect["position"] != "read" else []
    return f" ({', '.join(words)})" if words else ""


def provenance(finished: Finished) -> str:
    """Return which commits and versions began the cells, most of them first."""
    made = Counter(_made_by(result.facts) for result in finished.results.values())
    return "Cells by what began them: " + "; ".join(f"{n} by {by}" for by, n in made.most_common())


def _made_by(facts: Mapping[str, Any]) -> str:
    git = facts.get("git") or {}
    commit = f"commit {git['sha'][:7]}{' and changes' if git['dirty'] else ''}" if git else "no git"
    return ", ".join([commit, *(f"{name} {v}" for name, v in facts["versions"].items())])


def break_even(finished: Finished, found: Sequence[Arm]) -> list[str]:
    """Return for igds, and its variants, a pool size from which it costs less than `loss`.

    That method finds no features, but reads every response too. The size is a bound from above, as
    the costs of igds are, unless `loss` is by a smaller model or cuts rows.
    """
    costs = {arm.arm: finished.results[arm.cells[0]].facts.get("cost") for arm in found}
    plain = costs.get("loss")
    if plain is None:
        return []
    score = finished.plan.config.score
    less = score is not None and (score.model is not None or score.max_length is not None)
    bound = "about" if less else "at most"
    lines = []
    for name, cost in costs.items():
        if cost is None or split_arm(name)[0] != "igds":
            continue
        saved = plain["score"] / plain["rows"] - cost["score"] / cost["rows"]
        if saved > 0:
            size = count(math.ceil(cost["identify"] / saved))
            lines.append(f"- {name} costs less than loss from {bound} {size} rows on.")
        else:
            lines.append(f"- {name}: by these bounds it costs less than loss at no pool size.")
    settings = finished.plan.config.intervene
    if lines and settings is not None and settings.controls == 0:
        lines.append(
            "\nControls, which confirm a feature and take most of the time, are not in it."
        )
    return ["\n".join(lines)] if lines else []


def seeds(done: int, wanted: int) -> str:
    """Return how many seeds are finished, as 5, or 2/5."""
    return f"{done}" if done == wanted else f"{done}/{wanted}"


def interval(value: Crossed, *, sign: bool = False) -> str:
    """Return a mean with its interval, as 0.1230 [0.1010, 0.1450]."""
    show = signed if sign else number
    found = value.interval
    if math.isnan(found.mean):
        return "diverged"
    return f"{show(found.mean, 4)} [{show(found.low, 4)}, {show(found.high, 4)}]"


def chance(p: float) -> str:
    """Return a p-value, one that three digits cannot show as a bound."""
    return "<0.001" if p < 0.001 else number(p)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; bars and line ends in cells cannot break it."""
    lines = [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Iterable[object]) -> str:
    shown = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(shown)} |"


def _whole(facts: Sequence[Mapping[str, Any]], section: str, key: str) -> str:
    mean = _mean(facts, section, key)
    return count(None if mean is None else round(mean))


def _time(seconds: float | None) -> str:
    """Return a time; n/a where a cell was stopped before it was written down."""
    return "n/a" if seconds is None else duration(seconds)


def _took(facts: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Return how long it took to find features, to score the pool, and both."""
    finding, scoring = (_mean(facts, "seconds", name) for name in ("identify", "score"))
    both = None if finding is None or scoring is None else finding + scoring
    return _time(finding), _time(scoring), _time(both)


def _overlap(finished: Finished, found: Sequence[Arm], arm: Arm) -> float | None:
    """Return the share of an arm's rows that igds at its budget and seed takes too."""
    igds = [one for one in found if (one.arm, one.budget) == ("igds", arm.budget)]
    if not igds or arm is igds[0]:
        return None
    theirs = {cell.seed: finished.results[cell] for cell in igds[0].cells}
    shares = []
    for cell in arm.cells:
        pair = [finished.results[cell], theirs.get(cell.seed)]
        if (
            pair[1] is None
            or pair[0].identity["contents"]["pool"] != pair[1].identity["contents"]["pool"]
        ):
            continue
        rows, others = map(selected_rows, pair)
        shares.append(float((rows & others).sum() / rows.sum()))
    return sum(shares) / len(shares) if shares else None


def _unscored(selection: Mapping[str, Any]) -> int:
    return selection["ok"] - selection["scored"]


def _against(difference: Crossed, arm: Arm) -> str:
    """Return a difference, with its seeds where they are not all of the arm's, or one alone."""
    shown, own = interval(difference, sign=True), difference.seeds
    return shown if own == arm.wanted > 1 else f"{shown} (seeds: {own})"


def _relative(gain: Crossed, mean: Crossed) -> str:
    """Return a gain as a share of the original's absolute value."""
    original = mean.interval.mean - gain.interval.mean
    return f"{signed(100 * gain.interval.mean / abs(original), 1)} %" if original else "n/a"


def _mean(facts: Sequence[Mapping[str, Any]], section: str, key: str) -> float | None:
    known = [one[section][key] for one in facts if one[section].get(key) is not None]
    return sum(known) / len(known) if known else None
