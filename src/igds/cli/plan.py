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

    Of an experiment, what cells have in common is counted once, training and evaluation for every
    cell that is not finished. Times are those of this machine, from a short measurement. Once
    interventions have run, also how many confirmation prompts a delta needs at the deviation that
    they measured. Any setting can follow the config.
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

        planned = _indexed(load_config(self.config, overrides))
        if planned is None:
            print("all cells are finished: nothing is left to run")
            return
        counted, run, trainings, notes = planned
        columns, rows, more = plan_table(counted, run, trainings, self.minutes)
        print_table(columns, rows)
        notes += more
        if counted.config.intervene and counted.config.intervene.mode == "rigorous":
            columns, needed, note = prompts_table(run, self.delta)
            if needed:
                print_table(columns, needed)
            notes.append(note)
        print("\n".join([*notes, f"run: {run}"]))


def _indexed(file: ConfigFile) -> tuple[ConfigFile, Path, Trainings, list[str]] | None:
    """Index the rows; return what is counted, its run folder, the trainings, and notes.

    None of an experiment all of whose cells are finished.
    """
    from igds import pipeline
    from igds.planning.training import of_run
    from igds.progress import make_progress

    if file.config.experiment is not None:
        return _indexed_experiment(file)
    run = pipeline.run(file, until="index", progress=make_progress())
    pipeline.check_splits(file)
    return file, run.folder.path, of_run(file.config), []


def _indexed_experiment(file: ConfigFile) -> tuple[ConfigFile, Path, Trainings, list[str]] | None:
    """Index what the missing cells of an experiment have in common; None when there are none."""
    from igds import pipeline
    from igds.config.experiment import ORIGINAL, split_arm
    from igds.experiments.run import finished
    from igds.planning.training import Trainings
    from igds.progress import make_progress

    config, found = file.config, finished(file)
    plan, missing = found.plan, found.missing
    if not missing:
        return None
    first, *others = dict.fromkeys(plan.shared_of[split_arm(cell.arm)[1]] for cell in missing)
    part = plan.shared_for(first, missing)
    shared = replace(file, config=part)
    run = pipeline.run_part(
        shared,
        file.base / config.runs_dir,
        until="index",
        overwrite=False,
        progress=make_progress(),
    )
    pipeline.check_splits(shared)
    of = f" of {len(plan.cells)}" if found.done else ""
    trainings = Trainings(
        budgets=tuple(cell.budget for cell in missing if cell.arm != ORIGINAL),
        evaluated=len(missing),
        words=f", {len(missing)}{of} cells",
    )
    counted = replace(part, finetune=config.finetune, evaluate=config.evaluate)
    notes = (
        [
            f"{len(others)} variant(s) with other SAEs, rows or settings make anew what these "
            "change of what stands above finetune, which is counted once"
        ]
        if others
        else []
    )
    return replace(file, config=counted), run.folder.path, trainings, notes
