"""Runs the cells of an experiment that are not finished, one after another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from igds import pipeline
from igds.config.experiment import ORIGINAL
from igds.config.identity import dump_yaml, to_plain
from igds.config.load import ConfigFile
from igds.config.schema import Config
from igds.config.scoring import KEEPS_VECTORS
from igds.data.identity import source_identity
from igds.evaluation.results import TUNED
from igds.experiments.cells import Cell, Plan, cell_identity, plan_cells, scored_by
from igds.experiments.costs import selection_costs
from igds.experiments.diversity import diversity
from igds.experiments.results import (
    CellResult,
    as_bits,
    other_settings,
    read_result,
    result_file,
    write_result,
)
from igds.progress import Progress, make_progress
from igds.runs.files import read_json, write_json
from igds.runs.folder import RunFolder
from igds.runs.git import git_state
from igds.runs.lock import RunLock
from igds.runs.stage import stage_state

VERSION = 1
INPUTS = ("data", "saes")
"""Parts of an identity that are no settings."""
_RECORD = "cell.json"
_VERSIONS = ("igds", "torch", "transformers", "trl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An experiment as far as it has come."""

    plan: Plan
    """Its cells."""
    folder: Path
    """`<runs_dir>/<name>`."""
    results: Mapping[Cell, CellResult]
    """The finished cells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """An experiment that is being run."""

    file: ConfigFile
    plan: Plan
    folder: Path
    results: Path
    identities: Mapping[Cell, Any]
    """What each cell depends on; of work that runs nothing, the settings alone."""
    progress: Progress

    def file_of(self, config: Config) -> ConfigFile:
        return replace(self.file, config=config)


def run_experiment(
    file: ConfigFile, *, overwrite: bool = False, progress: Progress | None = None
) -> Finished:
    """Run all cells that are not finished, and return the experiment.

    Args:
        file: what `igds.load_config` returns, with a section `experiment`.
        overwrite: make finished and begun cells of other settings or inputs again, and what they
            have in common.
        progress: where progress goes; a bar or plain lines on stderr by default.

    Raises:
        RequestError: the configuration or the data cannot be used, or a cell was made by other
            settings.
        WorkError: the work failed; the same call goes on.
    """
    work = _work(file, progress or make_progress())
    with RunLock(work.folder):
        cells = work.plan.cells
        missing = [cell for cell in cells if _result(work, cell, overwrite=overwrite) is None]
        done = len(cells) - len(missing)
        work.progress.note(f"experiment: {done} of {len(cells)} cells are finished")
        for name in dict.fromkeys(_shared_name(work.plan, cell) for cell in missing):
            work.progress.note(f"experiment: {name}, what its cells have in common")
            shared = work.file_of(work.plan.shared[name])
            runs = work.folder.parent
            pipeline.run_shared(shared, runs, overwrite=overwrite, progress=work.progress)
        for place, cell in enumerate(missing, start=1):
            work.progress.note(f"experiment: cell {cell.name}, {place} of {len(missing)}")
            _run_cell(work, cell, overwrite)
    return finished(file)


def finished(file: ConfigFile) -> Finished:
    """Return the experiment as far as it has come, running nothing.

    Only settings are compared with those of the cells: neither model nor SAEs nor data need be
    there.

    Raises:
        RequestError: the configuration cannot be used, or a cell was made by other settings.
    """
    work = _work(file, make_progress(), settings_only=True)
    found = {cell: _result(work, cell) for cell in work.plan.cells}
    results = {cell: result for cell, result in found.items() if result is not None}
    return Finished(plan=work.plan, folder=work.folder, results=results)


def _work(file: ConfigFile, progress: Progress, *, settings_only: bool = False) -> _Work:
    config = file.config
    plan = plan_cells(config)
    folder = (file.base / config.runs_dir / config.name).resolve()
    assert config.experiment is not None, "plan_cells refuses a configuration without it"
    results = config.experiment.results
    identities: dict[Cell, Any] = {}
    inputs: dict[str, dict[str, Any]] = {}
    for cell in plan.cells:
        made = plan.cell_config(cell)
        if not settings_only and made.name not in inputs:
            inputs[made.name] = _inputs(replace(file, config=made))
        parts = cell_identity(made, inputs.get(made.name, {}))
        identities[cell] = to_plain({"version": VERSION, "cell": cell.name, **parts})
    return _Work(
        file=file,
        plan=plan,
        folder=folder,
        results=folder / "results" if results is None else (file.base / results).resolve(),
        identities=identities,
        progress=progress,
    )


def _inputs(file: ConfigFile) -> dict[str, Any]:
    """Return the identities of a configuration's data and SAEs."""
    context = pipeline.make_context(file, False, make_progress())
    sets = ("prior", "validation", "control", "pool", "test")
    sources = {
        name: [source_identity(source, file.base) for source in getattr(file.config.data, name)]
        for name in sets
    }
    return {"data": sources, "saes": context.sae_identity}


def _shared_name(plan: Plan, cell: Cell) -> str:
    return plan.cell_config(cell).name


def _result(work: _Work, cell: Cell, *, overwrite: bool = False) -> CellResult | None:
    """Return a finished cell's result; one of other settings is refused, or removed."""
    path = result_file(work.results, cell.name)
    result = read_result(path)
    if result is None:
        return None
    wanted = work.identities[cell]
    known = {*wanted, *(set(result.identity) - set(INPUTS))}
    recorded = {name: part for name, part in result.identity.items() if name in known}
    if recorded == wanted:
        return result
    if not overwrite:
        raise other_settings(path, recorded, wanted)
    path.unlink()
    return None


def _run_cell(work: _Work, cell: Cell, overwrite: bool) -> None:
    """Run a cell, keep its result, and drop the weights unless they are wanted."""
    folder = RunFolder(work.folder / "cells" / cell.name)
    config = work.plan.cell_config(cell)
    begun = read_json(folder.path / _RECORD)
    if begun is not None and begun != work.identities[cell]:
        if not overwrite:
            raise other_settings(folder.path, begun, work.identities[cell])
        shutil.rmtree(folder.path)
    write_json(folder.path / _RECORD, work.identities[cell])
    folder.write_config(dump_yaml(config))
    if stage_state(folder.path / "evaluate") != "done":
        pipeline.run_cell(work.file_of(config), folder, work.progress)
    write_result(result_file(work.results, cell.name), _kept(work, cell, config, folder))
    assert work.file.config.experiment is not None
    if not work.file.config.experiment.keep_models:
        shutil.rmtree(folder.path / "finetune" / "model", ignore_errors=True)
        shutil.rmtree(folder.path / "finetune" / "adapter", ignore_errors=True)


def _kept(work: _Work, cell: Cell, config: Config, folder: RunFolder) -> CellResult:
    """Return what is kept of a cell whose stages are done."""
    items = folder.table("evaluate/items.parquet")
    model = ORIGINAL if cell.arm == ORIGINAL else TUNED
    stages = folder.manifest().get("stages", {})
    shared = work.folder / config.name
    facts = {
        "arm": cell.arm,
        "seed": cell.seed,
        "seconds": {name: cost["seconds"] for name, cost in stages.items()},
        "outcome": RunFolder(shared).manifest().get("outcome"),
        "versions": {name: version(name) for name in _VERSIONS},
        "git": git_state(Path.cwd()),
        **(_trained(work.file_of(config), shared, folder) if config.finetune else {}),
    }
    return CellResult(
        identity=work.identities[cell],
        facts=facts,
        items=items.filter(pc.equal(items["model"], model)),
    )


def _trained(file: ConfigFile, shared: Path, folder: RunFolder) -> dict[str, Any]:
    """Return what a cell was trained on, and what choosing it cost."""
    rows = folder.table("finetune/rows.parquet")
    row_ids: Sequence[str] = rows.filter(pc.greater(rows["times"], 0))["row_id"].to_pylist()
    summary = read_json(folder.path / "finetune" / "summary.json") or {}
    kept = ("rows", "left_out", "truncated", "steps", "tokens", "response_tokens", "last_loss")
    selection = read_json(folder.path / "select" / "summary.json") or {}
    selected = folder.table("select/selection.parquet")["selected"].to_numpy()
    assert file.config.select is not None, "a cell that trains selects first"
    costs = selection_costs(file, shared)
    cost = costs[scored_by(file.config.select.method)]
    if file.config.select.reads_vectors:
        cost = {**cost, "score": cost["score"] + costs[KEEPS_VECTORS]["score"]}
    return {
        "cost": cost,
        "trained": {name: summary[name] for name in kept},
        "selection": {
            **selection,
            **diversity(shared / "index", row_ids),
            "bits": as_bits(selected),
        },
    }
