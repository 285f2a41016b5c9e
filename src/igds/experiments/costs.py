"""What a selection costs before any training: a bound from counts of tokens, and by the clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from igds.config.load import ConfigFile
from igds.config.scoring import READ_PROMPTS, USE_FEATURES, Score
from igds.models.load import resolve_model
from igds.models.sizes import model_sizes
from igds.planning.costs import forward_equivalents, stage_costs
from igds.planning.table import sae_widths, set_tokens
from igds.runs.folder import RunFolder
from igds.runs.stage import committed_identity, stage_state


def selection_cost(file: ConfigFile, run: Path, methods: Sequence[str]) -> dict[str, float]:
    """Return the forward equivalents of finding features, `identify`, and of `score`.

    Methods that read no model cost 0. `rows` are the pool's, with status ok.

    Args:
        file: of a run with scores.
        run: its folder, whose index is done.
        methods: those that a selection is made from.
    """
    config = file.config
    sizes = model_sizes(resolve_model(config.model, config.runtime.device, file.base))
    widths, sets = sae_widths(file), set_tokens(run / "index")
    cost = {"identify": 0.0, "score": 0.0, "rows": float(sets["pool"].rows)}
    for method in methods:
        own = replace(
            config,
            recall=config.recall if method in READ_PROMPTS else None,
            intervene=config.intervene if method in USE_FEATURES else None,
            score=replace(config.score or Score(), methods=(method,)),
        )
        for step in stage_costs(own, sizes, sets, widths):
            part = "score" if step.step.startswith("score") else "identify"
            cost[part] += forward_equivalents(step, sizes)
    return cost


def selection_seconds(run: Path, methods: Sequence[str]) -> dict[str, float]:
    """Return the seconds of finding features, `identify`, and of scoring the pool, `score`.

    What was not written down is left out. Methods that were scored in one pass over the pool each
    have all of its time, and a stage that was taken from another part of the experiment that of
    making it there.

    Args:
        run: folder of the run with the scores.
        methods: those that a selection is made from.
    """
    used = {"recall": READ_PROMPTS, "intervene": USE_FEATURES}
    parts = {
        "identify": [_stage_seconds(run, name) for name in used if set(methods) & set(used[name])],
        "score": [_method_seconds(run, name) for name in methods],
    }
    known = {part: [one for one in took if one is not None] for part, took in parts.items()}
    return {part: math.fsum(took) for part, took in known.items() if len(took) == len(parts[part])}


def _stage_seconds(run: Path, name: str) -> float | None:
    maker = _maker(run, name)
    stages = RunFolder(maker).manifest().get("stages", {}) if maker else {}
    return stages[name]["seconds"] if name in stages else None


def _method_seconds(run: Path, name: str) -> float | None:
    maker = _maker(run, f"score/{name}")
    events = reversed(RunFolder(maker).events() if maker else [])
    found = (one for one in events if one["event"] == "method_scored" and one["method"] == name)
    return next((one["seconds"] for one in found), None)


def _maker(run: Path, stage: str) -> Path | None:
    """Return the run that made a stage which may have been taken from there; None if it is gone."""
    seen = []
    while (taken := RunFolder(run).manifest().get("taken", {}).get(stage)) is not None:
        seen.append(run)
        place = run.parents[1] / taken
        if stage_state(place) != "done":
            return None
        if committed_identity(place) != committed_identity(run / stage):
            return None
        run = place.parents[stage.count("/")]
        if run in seen:
            return None
    return run
