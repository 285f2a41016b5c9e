"""The plan of a run as a table for people."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from igds.config.load import ConfigFile
from igds.data.index import load_index
from igds.executors.make import worker_threads
from igds.models.load import describe, resolve_model
from igds.models.sizes import model_sizes
from igds.planning.costs import forward_equivalents, stage_costs
from igds.planning.measure import multiply_adds_a_second
from igds.planning.sets import Cost, SetTokens
from igds.planning.training import Trainings, training_costs
from igds.saes.load import locate_saes, open_sae

COLUMNS = ("step", "tokens", "forward equivalents", "TFLOP", "weights MB", "time")
SETS = ("prior", "validation", "control", "control_other", "task_other", "test")


Row = tuple[str, int | None, int, float, int, str]


def plan_table(
    file: ConfigFile, run: Path, trainings: Trainings, minutes: float | None = None
) -> tuple[tuple[str, ...], list[Row], list[str]]:
    """Return columns, a row a step, and notes in words.

    Args:
        file: what `igds.load_config` returns.
        run: the run folder, whose index is done.
        trainings: how often a model is trained and measured.
        minutes: time to express as a budget of interventions.
    """
    config = file.config
    spec = resolve_model(config.model, config.runtime.device, file.base)
    sizes, widths = model_sizes(spec), sae_widths(file)
    sets = set_tokens(run / "index")
    costs = stage_costs(config, sizes, sets, widths)
    costs += training_costs(config, sizes, sets, trainings)
    speed = multiply_adds_a_second(
        spec, sizes, config.runtime.batch_tokens, worker_threads(config.runtime)
    )
    speed *= config.runtime.workers

    def row(cost: Cost) -> Row:
        equivalents = round(forward_equivalents(cost, sizes))
        time = in_words(cost.multiply_adds / speed)
        flop = 2 * cost.multiply_adds / 1e12
        return cost.step, cost.tokens, equivalents, flop, cost.memory >> 20, time

    total = sum(cost.multiply_adds for cost in costs)
    notes = [
        f"all together about {in_words(total / speed)} with {config.runtime.workers} worker(s) on "
        f"{spec.device}, at {2 * speed / 1e9:.0f} GFLOP/s as just measured with "
        f"{worker_threads(config.runtime)} thread(s) each: a busy machine makes this look long",
        "a forward equivalent is one token through the whole model; outputs in the paper mode are "
        "those of one feature, controls those of intervene.top_k; features are taken to be active "
        f"everywhere and to sit at block {min(widths)}, the first with an SAE, and the pool to be "
        f"read up to block {max(widths)}, the last; a model to be trained is counted as this one, "
        "without padding or the optimizer, and outputs at their longest",
    ]
    if minutes is not None:
        equivalents = int(60 * minutes * speed / sizes.forward)
        notes.append(
            f"{minutes:g} minutes here are about {equivalents:,} forward equivalents: to hold "
            f"interventions to that, set intervene.budget to {equivalents}"
        )
    return COLUMNS, [row(cost) for cost in costs], notes


def in_words(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def sae_widths(file: ConfigFile) -> dict[int, int]:
    """Return block -> features of its SAE."""
    config = file.config
    shape = describe(resolve_model(config.model, config.runtime.device, file.base))
    saes = locate_saes(config.saes, file.base, shape.d_model, shape.n_blocks)
    return {layer: open_sae(sae).d_sae for layer, sae in saes.items()}


def set_tokens(index: Path) -> dict[str, SetTokens]:
    """Return set -> rows and tokens with status ok; sets that the run lacks are left out."""
    folders = {"pool": index, **{name: index / name for name in SETS}}
    return {name: _tokens(folder) for name, folder in folders.items() if any(folder.glob("rows-*"))}


def _tokens(folder: Path) -> SetTokens:
    table = load_index(folder, ["status", "n_prompt_tokens", "n_response_tokens"])
    table = table.filter(pc.equal(table["status"], "ok"))
    prompt, response = (
        pc.sum(table[column]).as_py() or 0 for column in ("n_prompt_tokens", "n_response_tokens")
    )
    return SetTokens(rows=len(table), prompt=prompt, response=response)
