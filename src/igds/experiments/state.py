"""How far an experiment has come: its cells, and the results that count for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from igds.config.identity import digest, to_plain
from igds.config.load import ConfigFile
from igds.config.schema import Config
from igds.errors import RequestError
from igds.experiments.cells import INPUTS, Cell, Plan, cell_identity, comparable, plan_cells
from igds.experiments.results import (
    NO_SELECTION,
    CellResult,
    other_settings,
    read_result,
    result_file,
)
from igds.progress import Progress, make_progress

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An experiment as far as it has come."""

    plan: Plan
    """Its cells."""
    folder: Path
    """`<runs_dir>/<name>`."""
    results: Mapping[Cell, CellResult]
    """The cells that were measured."""
    unselected: Mapping[Cell, str] = field(default_factory=dict)
    """Cells that have no selection, for want of a feature, and why: finished too."""

    @property
    def done(self) -> int:
        """Return how many cells are finished."""
        return len(self.results) + len(self.unselected)

    @property
    def missing(self) -> list[Cell]:
        """Return the cells that are not finished."""
        known = {*self.results, *self.unselected}
        return [cell for cell in self.plan.cells if cell not in known]

    @property
    def complete(self) -> bool:
        """Return whether all cells are finished."""
        return not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenExperiment:
    """An experiment that is being run or looked at."""

    file: ConfigFile
    """Its configuration."""
    plan: Plan
    """Its cells."""
    folder: Path
    """`<runs_dir>/<name>`."""
    results: Path
    """Folder of finished cells."""
    overwrite: bool
    """Whether cells of other settings are missing; they are refused otherwise."""
    progress: Progress
    """Where progress goes."""

    def file_of(self, config: Config) -> ConfigFile:
        """Return another configuration, with paths from the experiment's file."""
        return replace(self.file, config=config)

    def identity(self, cell: Cell, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a cell depends on; without inputs, the settings alone."""
        parts = cell_identity(self.plan.cell_config(cell), inputs)
        return to_plain({"version": VERSION, "cell": cell.name, **parts})


def finished(file: ConfigFile) -> Finished:
    """Return the experiment as far as it has come, running nothing.

    Only settings are compared with those of the cells: neither model nor SAEs nor data need be
    there.

    Raises:
        RequestError: the configuration cannot be used, a cell was made by other settings, or two
            cells of one run by other rows, SAEs, models or code, or measured on other rows.
    """
    work = open_experiment(file)
    found = {cell: cell_result(work, cell) for cell in work.plan.cells}
    kept = {cell: result for cell, result in found.items() if result is not None}
    unselected = {
        cell: result.facts[NO_SELECTION]
        for cell, result in kept.items()
        if NO_SELECTION in result.facts
    }
    results = {cell: result for cell, result in kept.items() if cell not in unselected}
    _check_alike(work, results)
    return Finished(plan=work.plan, folder=work.folder, results=results, unselected=unselected)


def missing_cells(file: ConfigFile) -> tuple[OpenExperiment, list[Cell]]:
    """Return an experiment, and its cells that are not finished by its settings.

    Raises:
        RequestError: the configuration cannot be used.
    """
    work = open_experiment(file, overwrite=True)
    return work, [cell for cell in work.plan.cells if cell_result(work, cell) is None]


def _check_alike(work: OpenExperiment, results: Mapping[Cell, CellResult]) -> None:
    """Refuse cells that cannot be compared: of one run by other inputs, or on other test rows."""
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for cell, result in results.items():
        parts = {("", "test rows"): result.identity["contents"]["test"]}
        parts |= {
            (work.plan.run_of(cell), name): result.identity[name]
            for name in INPUTS
            if name in result.identity
        }
        for part, value in parts.items():
            found = digest(value)
            other, first = seen.setdefault(part, (cell.name, found))
            if found != first:
                raise RequestError(
                    f"{work.results}: the cells {other} and {cell.name} differ in their {part[1]}, "
                    "and cannot be compared: igds experiment with --overwrite makes those that "
                    "are not of today's again"
                )


def open_experiment(
    file: ConfigFile, *, overwrite: bool = False, progress: Progress | None = None
) -> OpenExperiment:
    """Return an experiment with its cells and folders, looking at nothing on disk.

    Raises:
        RequestError: the configuration cannot be used.
    """
    config = file.config
    plan = plan_cells(config)
    folder = (file.base / config.runs_dir / config.name).resolve()
    results = plan.experiment.results
    return OpenExperiment(
        file=file,
        plan=plan,
        folder=folder,
        results=folder / "results" if results is None else (file.base / results).resolve(),
        overwrite=overwrite,
        progress=progress or make_progress(),
    )


def cell_result(
    work: OpenExperiment, cell: Cell, inputs: Mapping[str, Any] | None = None
) -> CellResult | None:
    """Return a finished cell's result; one of other settings is refused, or not counted.

    Args:
        work: the experiment.
        cell: the cell.
        inputs: of its run; settings alone are compared when absent.
    """
    path = result_file(work.results, cell.name)
    result = read_result(path)
    if result is None:
        return None
    wanted = comparable(work.identity(cell, inputs or {}))
    recorded = comparable(result.identity)
    if inputs is None:
        recorded = {name: part for name, part in recorded.items() if name not in INPUTS}
    if recorded == wanted:
        return result
    if work.overwrite:
        return None
    raise other_settings(path, recorded, wanted)
