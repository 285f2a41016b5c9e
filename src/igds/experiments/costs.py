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
from igds.stages.context import SCORED


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

    What was not written down is left out. A pass over the pool counts once, and whole, whichever
    other methods were scored in it.

    Args:
        run: folder of the run with the scores.
        methods: those that a selection is made from.
    """
    folder = RunFolder(run)
    used = {"recall": READ_PROMPTS, "intervene": USE_FEATURES}
    needed = [name for name, users in used.items() if set(methods) & set(users)]
    stages = folder.manifest().get("stages", {})
    events = {one["method"]: one for one in folder.events() if one["event"] == SCORED}
    found = {}
    if set(needed) <= set(stages):
        found["identify"] = math.fsum(stages[name]["seconds"] for name in needed)
    if set(methods) <= set(events):
        scored = [events[name] for name in methods]
        passes = {
            tuple(one["together"]): one["pass_seconds"] for one in scored if "together" in one
        }
        found["score"] = math.fsum([*(one["seconds"] for one in scored), *passes.values()])
    return found
