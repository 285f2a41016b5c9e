"""`igds plan`: what a run will cost, before it is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tyro.conf import Positional

from igds.cli.command import print_table

if TYPE_CHECKING:
    from igds.config.load import ConfigFile
    from igds.planning.training import Trainings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Show tokens, arithmetic, memory and time of each stage; the pool is indexed first.

    Of an experiment, training and evaluation of its missing cells is counted, and once what they
    have in common, as if none of that were made; of all cells when none is missing. Times are those
    of this machine, from a short measurement. Once interventions have run, also how many
    confirmation prompts a delta needs at the deviation that they measured. Any setting can follow
    the config.
    """

    overridable: ClassVar[bool] = True

    config: Positional[Path]
    """YAML file with the settings."""
    delta: tuple[float, ...] = ()
    """Deltas, nats per response token or of the task's score where that is the metric, whose number
    of prompts is asked for."""
    minutes: float | None = None
    """Time to express in forward equivalents, as intervene.budget takes them."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Index the rows, measure the model's throughput, and print the tables."""
        from igds.config.load import load_config
        from igds.planning.prompts import prompts_table
        from igds.planning.table import plan_table

        counted, run, trainings, notes = _indexed(load_config(self.config, overrides))
        columns, rows, more = plan_table(counted, run, trainings, self.minutes)
        print_table(columns, rows)
        notes += more
        if counted.config.intervene and counted.config.intervene.mode == "rigorous":
            columns, needed, note = prompts_table(run, self.delta)
            if needed:
                print_table(columns, needed)
            notes.append(note)
        print("\n".join([*notes, f"run: {run}"]))


def _indexed(file: ConfigFile) -> tuple[ConfigFile, Path, Trainings, list[str]]:
    """Index the rows; return what is counted, its run folder, the trainings, and notes."""
    from igds import pipeline
    from igds.planning.training import of_run
    from igds.progress import make_progress

    if file.config.experiment is not None:
        return _experiment_indexed(file)
    run = pipeline.run(file, until="index", progress=make_progress())
    pipeline.check_splits(file)
    return file, run.folder.path, of_run(file.config), []


def _experiment_indexed(file: ConfigFile) -> tuple[ConfigFile, Path, Trainings, list[str]]:
    """Index the rows of the first run that missing cells have in common; return as `_indexed`."""
    from igds import pipeline
    from igds.config.experiment import ORIGINAL
    from igds.experiments.state import missing_cells
    from igds.planning.training import Trainings
    from igds.runs.lock import RunLock

    work, missing = missing_cells(file)
    config, plan = file.config, work.plan
    listed = missing or plan.cells
    first, *others = dict.fromkeys(plan.run_of(cell) for cell in listed)
    shared = work.file_of(plan.shared[first])
    with RunLock(work.folder):  # the experiment waits, if it comes now
        run = pipeline.run_part(
            shared, work.folder.parent, until="index", overwrite=False, progress=work.progress
        )
    pipeline.check_splits(shared)
    of = f" of {len(plan.cells)}" if len(listed) < len(plan.cells) else ""
    trainings = Trainings(
        budgets=tuple(cell.budget for cell in listed if cell.arm != ORIGINAL),
        evaluated=len(listed),
        words=f", {len(listed)}{of} cells",
    )
    part = plan.shared_for(first, listed)
    counted = replace(part, finetune=config.finetune, evaluate=config.evaluate)
    notes = []
    if not missing:
        notes.append("all cells are finished, nothing is left to run: this is what all would cost")
    if others:
        notes.append(
            f"{len(others)} variant(s) with other SAEs, rows or settings make anew what these "
            "change of what stands above finetune, which is counted once"
        )
    return replace(file, config=counted), run.folder.path, trainings, notes
