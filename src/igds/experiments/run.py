"""Runs the cells of an experiment that are not finished, one after another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from igds import pipeline
from igds.config.experiment import ORIGINAL, split_arm
from igds.config.identity import digest, dump_yaml, to_plain
from igds.config.load import ConfigFile
from igds.config.schema import Config
from igds.config.scoring import selects_by_features
from igds.data.identity import source_identity
from igds.errors import NoStandIn, NoTaskFeature, RequestError
from igds.evaluation.results import TUNED
from igds.experiments.cells import INPUTS, Cell, Plan, cell_identity, comparable, plan_cells
from igds.experiments.costs import selection_seconds
from igds.experiments.facts import cell_facts, made_by, training_facts
from igds.experiments.results import (
    ITEMS,
    NO_SELECTION,
    CellResult,
    other_settings,
    read_result,
    result_file,
    write_result,
)
from igds.methods.registry import split_draw
from igds.models.load import model_identity, resolve_model
from igds.progress import Progress, make_progress
from igds.runs.files import read_json, write_json
from igds.runs.folder import RunFolder
from igds.runs.lock import RunLock
from igds.runs.stage import committed_identity, stage_state
from igds.stages.index import CHECKED
from igds.tasks.registry import task_identity

VERSION = 1
_RECORD = "cell.json"
_STAGES = [name for name in pipeline.STAGES if name != "report"]


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
class _Work:
    """An experiment that is being run."""

    file: ConfigFile
    plan: Plan
    folder: Path
    results: Path
    overwrite: bool
    progress: Progress

    def file_of(self, config: Config) -> ConfigFile:
        return replace(self.file, config=config)

    def shared_of(self, cell: Cell) -> str:
        return self.plan.run_of(cell)

    def identity(self, cell: Cell, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a cell depends on; without inputs, the settings alone."""
        parts = cell_identity(self.plan.cell_config(cell), inputs)
        return to_plain({"version": VERSION, "cell": cell.name, **parts})


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
    work = _work(file, overwrite, progress or make_progress())
    cells = work.plan.cells
    with RunLock(work.folder):
        settled = [cell for cell in cells if _result(work, cell) is not None]
        # Rows and weights are looked at where something is left to do with them, or may be.
        open_runs = dict.fromkeys(
            work.shared_of(cell) for cell in cells if overwrite or cell not in settled
        )
        inputs = {name: _inputs(work.file_of(work.plan.shared[name])) for name in open_runs}
        missing = [
            cell for cell in cells if _result(work, cell, inputs.get(work.shared_of(cell))) is None
        ]
        _drop_leftovers(work, missing)
        work.progress.note(
            f"experiment: {len(cells) - len(missing)} of {len(cells)} cells are finished"
        )
        # Cells of one variant are trained and measured by the same settings.
        alike = {(split_arm(cell.arm)[1], cell.arm == ORIGINAL): cell for cell in missing}
        for cell in alike.values():
            pipeline.check_training(work.file_of(work.plan.cell_config(cell)))
        lacking: dict[str, dict[str, str]] = {}
        for place, cell in enumerate(missing, start=1):
            name = work.shared_of(cell)
            if name not in lacking:
                lacking[name] = _run_shared(work, name, missing)
            work.progress.note(f"experiment: cell {cell.name}, {place} of {len(missing)}")
            identity = work.identity(cell, inputs[name])
            reason = lacking[name].get(cell.method)
            if reason is None or cell.arm == ORIGINAL:
                _run_cell(work, cell, identity)
            else:
                facts = {
                    **cell_facts(cell, work.folder / name, {}),
                    **made_by(),
                    NO_SELECTION: reason,
                }
                kept = CellResult(identity=identity, facts=facts, items=ITEMS.empty_table())
                write_result(result_file(work.results, cell.name), kept)
    return finished(file)


def finished(file: ConfigFile) -> Finished:
    """Return the experiment as far as it has come, running nothing.

    Only settings are compared with those of the cells: neither model nor SAEs nor data need be
    there.

    Raises:
        RequestError: the configuration cannot be used, a cell was made by other settings, or two
            cells of one run by other rows, SAEs, models or code, or measured on other rows.
    """
    work = _work(file, False, make_progress())
    found = {cell: _result(work, cell) for cell in work.plan.cells}
    kept = {cell: result for cell, result in found.items() if result is not None}
    unselected = {
        cell: result.facts[NO_SELECTION]
        for cell, result in kept.items()
        if NO_SELECTION in result.facts
    }
    results = {cell: result for cell, result in kept.items() if cell not in unselected}
    _check_alike(work, results)
    return Finished(plan=work.plan, folder=work.folder, results=results, unselected=unselected)


def missing_cells(file: ConfigFile) -> tuple[Plan, list[Cell]]:
    """Return the cells of an experiment, and those that are not finished by its settings.

    Raises:
        RequestError: the configuration cannot be used.
    """
    work = _work(file, True, make_progress())
    return work.plan, [cell for cell in work.plan.cells if _result(work, cell) is None]


def _check_alike(work: _Work, results: Mapping[Cell, CellResult]) -> None:
    """Refuse cells that cannot be compared: of one run by other inputs, or on other test rows."""
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for cell, result in results.items():
        parts = {("", "test rows"): result.identity["contents"]["test"]}
        parts |= {
            (work.shared_of(cell), name): result.identity[name]
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


def _work(file: ConfigFile, overwrite: bool, progress: Progress) -> _Work:
    config = file.config
    plan = plan_cells(config)
    folder = (file.base / config.runs_dir / config.name).resolve()
    results = plan.experiment.results
    return _Work(
        file=file,
        plan=plan,
        folder=folder,
        results=folder / "results" if results is None else (file.base / results).resolve(),
        overwrite=overwrite,
        progress=progress,
    )


def _inputs(file: ConfigFile) -> dict[str, Any]:
    """Return the identities of a run's rows, SAEs, models, task and code: see `INPUTS`."""
    context = pipeline.make_context(file, False, make_progress())
    models = {"identified": context.model, "trained": context.train_model}
    if score := file.config.score:
        for name, model in (("scored", score.model), ("superfilter", score.superfilter_model)):
            if model is not None:
                models[name] = resolve_model(model, file.config.runtime.device, file.base)
    return {
        "contents": {
            name: [source_identity(source, file.base) for source in getattr(file.config.data, name)]
            for name in CHECKED
        },
        "sae_contents": context.sae_identity,
        "models": {name: model_identity(spec) for name, spec in models.items() if spec},
        "task_source": task_identity(file.config.task, file.base),
        "stages": {name: import_module(f"igds.stages.{name}").VERSION for name in _STAGES},
    }


def _result(work: _Work, cell: Cell, inputs: Mapping[str, Any] | None = None) -> CellResult | None:
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


def _drop_leftovers(work: _Work, missing: Sequence[Cell]) -> None:
    """Remove what a kill left of replaced cells, and of the weights of finished ones."""
    for old in work.folder.glob("cells/*.old"):
        shutil.rmtree(old)
    for cell in work.plan.cells:
        if cell not in missing:
            _drop_weights(work, cell)


def _drop_weights(work: _Work, cell: Cell) -> None:
    """Remove the weights of a finished cell, unless they are wanted."""
    if work.plan.experiment.keep_models:
        return
    for name in ("model", "adapter"):
        shutil.rmtree(work.folder / "cells" / cell.name / "finetune" / name, ignore_errors=True)


def _run_shared(work: _Work, name: str, missing: Sequence[Cell]) -> dict[str, str]:
    """Run what missing cells have in common; return the methods that lack a feature, and why.

    Raises:
        NoTaskFeature: there is none, and a cell of the run is under no variant.
    """
    work.progress.note(f"experiment: {name}, what its cells have in common")
    own = [cell for cell in work.plan.cells if work.shared_of(cell) == name]
    made = _narrowed(work, name, missing)
    _run_part(work, made, until="index")
    pipeline.check_rows(work.file_of(work.plan.cell_config(own[0])))
    lacking: dict[str, str] = {}
    try:
        _run_part(work, made)
    except NoTaskFeature as error:
        if any(split_arm(cell.arm)[1] is None for cell in own):
            raise
        by_features = [cell for cell in own if selects_by_features(split_arm(cell.arm)[0])]
        lacking = {cell.method: "interventions found no feature" for cell in by_features}
        work.progress.note(f"experiment: {name} without {', '.join(lacking)}: {error}")
    except NoStandIn as error:
        assert made.score is not None, "a method lacks a stand-in"
        draws = {key: split_draw(key) for key in made.score.methods}
        lacking = {
            key: "too few features resemble the task features"
            for key, (method, draw) in draws.items()
            if method == "igds-matched" and draw > error.draws
        }
        work.progress.note(f"experiment: {name} without {', '.join(lacking)}: {error}")
    if lacking:
        rest = [cell for cell in missing if cell.method not in lacking]
        _run_part(work, _narrowed(work, name, rest))
    return lacking


def _narrowed(work: _Work, name: str, cells: Sequence[Cell]) -> Config:
    """Return a run that cells have in common, without methods that neither they need nor it has."""
    scores = work.folder / name / "score"
    done = [path.name for path in scores.glob("*/") if stage_state(path) == "done"]
    return work.plan.shared_for(name, cells, done)


def _run_part(work: _Work, made: Config, until: str | None = None) -> None:
    pipeline.run_part(
        work.file_of(made),
        work.folder.parent,
        until=until,
        overwrite=work.overwrite,
        progress=work.progress,
    )


def _run_cell(work: _Work, cell: Cell, identity: dict[str, Any]) -> None:
    """Run a cell, keep its result, and drop the weights unless they are wanted."""
    folder = RunFolder(work.folder / "cells" / cell.name)
    config = work.plan.cell_config(cell)
    shared = work.folder / config.name
    scored = [f"score/{name}" for name in config.select.scored] if config.select else []
    # A cell that was begun goes on only if what it was begun on is still the same.
    made_of = {name: digest(committed_identity(shared / name)) for name in ("index", *scored)}
    wanted = {"identity": comparable(identity), "shared": made_of}
    begun = read_json(folder.path / _RECORD)
    known = {name: begun[name] for name in wanted} if begun else wanted
    if known != wanted:
        if not work.overwrite:
            raise other_settings(folder.path, known, wanted)
        aside = folder.path.with_name(folder.path.name + ".old")
        folder.path.rename(aside)
        shutil.rmtree(aside)
        begun = None
    code = begun["code"] if begun else made_by()
    write_json(folder.path / _RECORD, {**wanted, "code": code})
    folder.write_config(dump_yaml(config))
    if stage_state(folder.path / "evaluate") != "done":
        pipeline.run_cell(
            work.file_of(config), folder, overwrite=work.overwrite, progress=work.progress
        )
    kept = _kept(work, cell, config, folder, identity, code)
    write_result(result_file(work.results, cell.name), kept)
    _drop_weights(work, cell)


def _kept(
    work: _Work,
    cell: Cell,
    config: Config,
    folder: RunFolder,
    identity: dict[str, Any],
    code: dict[str, Any],
) -> CellResult:
    """Return what is kept of a cell whose stages are done."""
    items = folder.table("evaluate/items.parquet")
    model = ORIGINAL if cell.arm == ORIGINAL else TUNED
    stages = folder.manifest().get("stages", {})
    shared, trained = work.folder / config.name, {}
    seconds = {name: cost["seconds"] for name, cost in stages.items()}
    if config.finetune:
        trained = training_facts(work.file_of(config), shared, folder)
    if config.select:
        seconds |= selection_seconds(shared, config.select.scored)
    return CellResult(
        identity=identity,
        facts={**cell_facts(cell, shared, seconds), **code, **trained},
        items=items.filter(pc.equal(items["model"], model)),
    )
