"""What a selection costs before any training, as a bound from counts of tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from igds.config.load import ConfigFile
from igds.config.scoring import READ_PROMPTS, USE_FEATURES, Score
from igds.models.load import resolve_model
from igds.models.sizes import model_sizes
from igds.planning.costs import forward_equivalents, stage_costs
from igds.planning.table import sae_widths, set_tokens


def selection_costs(file: ConfigFile, run: Path) -> dict[str, dict[str, float]]:
    """Return method -> forward equivalents of finding its features and of scoring the pool.

    Methods that read no model cost 0. `rows` are the pool's, with status ok.

    Args:
        file: of a run with scores.
        run: its folder, whose index is done.
    """
    config = file.config
    sizes = model_sizes(resolve_model(config.model, config.runtime.device, file.base))
    widths, sets = sae_widths(file), set_tokens(run / "index")
    given = config.score or Score()
    found = {}
    for method in given.methods:
        own = replace(
            config,
            recall=config.recall if method in READ_PROMPTS else None,
            intervene=config.intervene if method in USE_FEATURES else None,
            score=replace(given, methods=(method,)),
        )
        cost = {"identify": 0.0, "score": 0.0, "rows": float(sets["pool"].rows)}
        for step in stage_costs(own, sizes, sets, widths):
            part = "score" if step.step.startswith("score") else "identify"
            cost[part] += forward_equivalents(step, sizes)
        found[method] = cost
    return found
