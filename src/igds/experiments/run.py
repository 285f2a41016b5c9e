"""Runs the cells of an experiment that are not finished, one after another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from filelock import ReadWriteLock, Timeout

from igds import pipeline
from igds.config.experiment import ORIGINAL, split_arm
from igds.config.identity import digest, dump_yaml
from igds.config.load import ConfigFile
from igds.config.schema import Config
from igds.config.scoring import selects_by_features
from igds.data.identity import source_identity
from igds.errors import InUse, NoStandIn, NoTaskFeature, RequestError
from igds.evaluation.results import TUNED
from igds.experiments.cells import Cell, comparable
from igds.experiments.costs import selection_seconds
from igds.experiments.facts import cell_facts, made_by, training_facts
from igds.experiments.results import (
    ITEMS,
    NO_SELECTION,
    CellResult,
    other_settings,
    result_file,
    write_result,
)
from igds.experiments.state import (
    Finished,
    OpenExperiment,
    cell_result,
    finished,
    open_experiment,
)
from igds.methods.registry import split_draw
from igds.models.load import model_identity, resolve_model
from igds.progress import Progress, make_progress
from igds.runs.files import read_json, write_json
from igds.runs.folder import RunFolder
from igds.runs.lock import HOLDER, LOCK, RunLock
from igds.runs.stage import committed_identity, stage_state
from igds.stages.index import CHECKED
from igds.tasks.registry import task_identity

_RECORD = "cell.json"
_MEMBERS = ".members.db"
_STAGES = [name for name in pipeline.STAGES if name != "report"]


def run_experiment(
    file: ConfigFile, *, overwrite: bool = False, progress: Progress | None = None
) -> Finished:
    """Run all cells that are not finished, and return the experiment.

    Several processes may run one experiment at once: each takes cells that no other is making, and
    returns when there are no more. One that overwrites must be alone.

    Args:
        file: what `igds.load_config` returns, with a section `experiment`.
        overwrite: make finished and begun cells of other settings or inputs again, and what they
            have in common.
        progress: where progress goes; a bar or plain lines on stderr by default.

    Raises:
        RequestError: the configuration or the data cannot be used, a cell was made by other
            settings, or other processes run the experiment where one of them overwrites.
        WorkError: the work failed; the same call goes on.
    """
    work = open_experiment(file, overwrite=overwrite, progress=progress)
    with _joined(work):
        _make_missing(work)
    return finished(file)


def _make_missing(work: OpenExperiment) -> None:
    """Make the cells that are not finished, and before them what they have in common."""
    cells = work.plan.cells
    settled = [cell for cell in cells if cell_result(work, cell) is not None]
    # Rows and weights are looked at where something is left to do with them, or may be.
    open_runs = dict.fromkeys(
        work.plan.run_of(cell) for cell in cells if work.overwrite or cell not in settled
    )
    inputs = {name: _inputs(work.file_of(work.plan.shared[name])) for name in open_runs}
    missing = [
        cell
        for cell in cells
        if cell_result(work, cell, inputs.get(work.plan.run_of(cell))) is None
    ]
    for cell in cells:  # a kill may have left weights
        if cell not in missing:
            _drop_weights(work, cell)
    work.progress.note(
        f"experiment: {len(cells) - len(missing)} of {len(cells)} cells are finished"
    )
    # Cells of one variant are trained and measured by the same settings.
    alike = {(split_arm(cell.arm)[1], cell.arm == ORIGINAL): cell for cell in missing}
    for cell in alike.values():
        pipeline.check_training(work.file_of(work.plan.cell_config(cell)))
    lacking: dict[str, dict[str, str]] = {}
    for place, cell in enumerate(missing, start=1):
        name = work.plan.run_of(cell)
        if name not in lacking:
            with RunLock(work.folder, waits=partial(_say_waiting, work)):
                lacking[name] = _run_shared(work, name, missing)
        said = f"experiment: cell {cell.name}, {place} of {len(missing)}"
        _make_cell(work, cell, inputs[name], lacking[name], said)


def _joined(work: OpenExperiment) -> AbstractContextManager[object]:
    """Become one of the processes that run an experiment, or with `overwrite` the only one.

    Raises:
        RequestError: another process makes cells again, or this one would beside others.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    lock = ReadWriteLock(work.folder / _MEMBERS)
    join = lock.acquire_write if work.overwrite else lock.acquire_read
    try:
        return join(blocking=False)
    except Timeout as error:
        others = "others run it" if work.overwrite else "another runs it with --overwrite"
        raise RequestError(
            f"{work.folder}: a process that makes cells again must be alone, and {others}: "
            "wait for the end, or stop it"
        ) from error


def _say_waiting(work: OpenExperiment, holder: str) -> None:
    work.progress.note(f"experiment: {work.folder} is in use by {holder}: waits")


def _make_cell(
    work: OpenExperiment,
    cell: Cell,
    inputs: Mapping[str, Any],
    lacking: Mapping[str, str],
    said: str,
) -> None:
    """Make a cell and its result, unless another process makes it or has made it by now."""
    with ExitStack() as held:
        try:
            held.enter_context(RunLock(_cell_folder(work, cell)))
        except InUse as error:
            work.progress.note(f"{said}: left to another process: {error.holder}")
            return
        if cell_result(work, cell, inputs) is not None:
            work.progress.note(f"{said}: made by another process")
            return
        work.progress.note(said)
        identity = work.identity(cell, inputs)
        if cell.arm == ORIGINAL or cell.method not in lacking:
            _run_cell(work, cell, identity)
            return
        facts = {
            **cell_facts(cell, work.folder / work.plan.run_of(cell), {}),
            **made_by(),
            NO_SELECTION: lacking[cell.method],
        }
        kept = CellResult(identity=identity, facts=facts, items=ITEMS.empty_table())
        write_result(result_file(work.results, cell.name), kept)


def _cell_folder(work: OpenExperiment, cell: Cell) -> Path:
    return work.folder / "cells" / cell.name


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


def _drop_weights(work: OpenExperiment, cell: Cell) -> None:
    """Remove the weights of a finished cell, unless they are wanted."""
    if work.plan.experiment.keep_models:
        return
    for name in ("model", "adapter"):
        shutil.rmtree(_cell_folder(work, cell) / "finetune" / name, ignore_errors=True)


def _run_shared(work: OpenExperiment, name: str, missing: Sequence[Cell]) -> dict[str, str]:
    """Run what missing cells have in common; return the methods that lack a feature, and why.

    Raises:
        NoTaskFeature: there is none, and a cell of the run is under no variant.
    """
    work.progress.note(f"experiment: {name}, what its cells have in common")
    own = [cell for cell in work.plan.cells if work.plan.run_of(cell) == name]
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


def _narrowed(work: OpenExperiment, name: str, cells: Sequence[Cell]) -> Config:
    """Return a run that cells have in common, without methods that neither they need nor it has."""
    scores = work.folder / name / "score"
    done = [path.name for path in scores.glob("*/") if stage_state(path) == "done"]
    return work.plan.shared_for(name, cells, done)


def _run_part(work: OpenExperiment, made: Config, until: str | None = None) -> None:
    pipeline.run_part(
        work.file_of(made),
        work.folder.parent,
        until=until,
        overwrite=work.overwrite,
        progress=work.progress,
    )


def _run_cell(work: OpenExperiment, cell: Cell, identity: dict[str, Any]) -> None:
    """Run a cell, keep its result, and drop the weights unless they are wanted."""
    folder = RunFolder(_cell_folder(work, cell))
    config = work.plan.cell_config(cell)
    shared = work.folder / config.name
    scored = [f"score/{name}" for name in config.select.scored] if config.select else []
    # A cell that was begun goes on only if what it was begun on is still the same.
    made_of = {name: digest(committed_identity(shared / name)) for name in ("index", *scored)}
    begun = read_json(folder.path / _RECORD)
    if begun:
        known = {"identity": comparable(begun["identity"]), "shared": begun["shared"]}
        wanted = {"identity": comparable(identity), "shared": made_of}
        if known != wanted:
            if not work.overwrite:
                raise other_settings(folder.path, known, wanted)
            _clear(folder.path)
            begun = None
    if not begun:
        begun = {"identity": identity, "shared": made_of, "code": made_by()}
        write_json(folder.path / _RECORD, begun)
    folder.write_config(dump_yaml(config))
    if stage_state(folder.path / "evaluate") != "done":
        pipeline.run_cell(
            work.file_of(config), folder, overwrite=work.overwrite, progress=work.progress
        )
    kept = _kept(work, cell, config, folder, begun["identity"], begun["code"])
    write_result(result_file(work.results, cell.name), kept)
    _drop_weights(work, cell)


def _clear(cell: Path) -> None:
    """Empty a cell's folder; after a kill half-way its record fits no settings."""
    write_json(cell / _RECORD, {"identity": {}, "shared": {}})
    for path in cell.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (_RECORD, LOCK, HOLDER):
            path.unlink()


def _kept(
    work: OpenExperiment,
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
