"""Stage order: run what is missing, skip what is done and unchanged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from igds.config.load import ConfigFile
from igds.config.schema import Recall
from igds.data.index import load_index
from igds.errors import RequestError, did_you_mean
from igds.executors.make import make_executor, worker_threads
from igds.features import FeatureId
from igds.progress import Progress, make_progress
from igds.runs.folder import RunFolder
from igds.runs.lock import RunLock
from igds.runs.stage import committed_identity, stage_state
from igds.selection.tables import read_pool_scores
from igds.stages.context import CELL_STAGES, Context
from igds.stages.records import committed_folders, describe, recorded

if TYPE_CHECKING:
    from igds.doctor.diagnosis import Diagnosis
    from igds.interventions.rules import Position

STAGES = (
    "index", "recall", "intervene", "score", "select", "finetune", "evaluate", "report"
)  # fmt: skip
"""All stages in order; `index` always runs, the others when the configuration has a section."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, its results as Arrow tables."""

    folder: RunFolder
    """Where everything is."""

    @property
    def features(self) -> pa.Table:
        """Return `recall/features.parquet`: one row an SAE feature."""
        return self.folder.table("recall/features.parquet")

    @property
    def effects(self) -> pa.Table:
        """Return `intervene/effects.parquet`: one row a feature and split."""
        return self.folder.table("intervene/effects.parquet")

    @property
    def pool_scores(self) -> pa.Table:
        """Return row_id and one column a method, `igds`: the pool score; NaN where there is none.

        One row a pool row, in pool order. The raw columns are in `score/<method>/`.
        """
        methods = sorted(file.parent for file in self.folder.path.glob("score/*/stage.json"))
        done = [folder for folder in methods if not folder.suffix]
        ids = load_index(self.folder.path / "index", ["row_id"])
        scores = {folder.name: read_pool_scores(folder) for folder in done}
        return pa.table({"row_id": ids["row_id"], **scores})

    @property
    def selection(self) -> pa.Table:
        """Return `select/selection.parquet`: one row a pool row, in pool order."""
        return self.folder.table("select/selection.parquet")

    @property
    def verdicts(self) -> pa.Table:
        """Return the verdicts of `verify/verdicts.json`: one row a named feature and position."""
        found = json.loads((self.folder.path / "verify" / "verdicts.json").read_bytes())
        return pa.Table.from_pylist(found["verdicts"])

    @property
    def evaluation(self) -> pa.Table:
        """Return `evaluate/items.parquet`: one row a model, item, metric and sample."""
        return self.folder.table("evaluate/items.parquet")

    @property
    def report(self) -> Path:
        """Return the path of the page."""
        return self.folder.path / "report" / "index.html"


def run(
    file: ConfigFile,
    *,
    until: str | None = None,
    only: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run the stages a configuration asks for and return the run.

    Args:
        file: what `igds.load_config` returns.
        until: last stage to run.
        only: the one stage to run; those before it must be there.
        overwrite: replace stages that were made by other settings or inputs.
        progress: where progress goes; a bar or plain lines on stderr by default.

    Raises:
        RequestError: the configuration or the data cannot be used, or the run folder holds the
            work of another configuration, or another process.
        WorkError: the work failed, and can be resumed by the same call.
    """
    context = make_context(file, overwrite, progress or make_progress())
    return _run(context, _wanted(context, until, only), only)


def run_part(
    file: ConfigFile,
    runs: Path,
    *,
    until: str | None = None,
    seals: bool = False,
    overwrite: bool,
    progress: Progress,
) -> Run:
    """Run the stages of a run that is a part of another's work, and return it.

    Args:
        file: what `igds.load_config` returns.
        runs: the runs folder of what it is a part of, with the record of S3.
        until: last stage to run.
        seals: leave split S3 unread. The paper mode, which has no splits, reads all validation rows
            and puts that on record.
        overwrite: as for `run`.
        progress: as for `run`.

    Raises:
        RequestError, WorkError: as `run`.
    """
    context = make_context(file, overwrite, progress)
    context = replace(context, outer=runs.resolve(), seals=seals)
    return _run(context, _wanted(context, until, None), None)


def run_cell(file: ConfigFile, cell: RunFolder, *, overwrite: bool, progress: Progress) -> None:
    """Select, fine-tune and evaluate in a cell's folder, from a run that has the scores.

    Args:
        file: what `igds.load_config` returns, with the name of the run that has the scores.
        cell: the folder to write, whose lock the caller holds.
        overwrite: as for `run`.
        progress: as for `run`.

    Raises:
        RequestError, WorkError: as `run`.
    """
    from igds.stages import evaluate

    context = replace(make_context(file, overwrite, progress), cell=cell)
    wanted = [name for name in CELL_STAGES if getattr(context.config, name) is not None]
    context.config.check_stages(wanted)
    evaluate.read_features(context)  # those that it lacks are said before anything is trained
    with context.executor:
        for name in wanted:
            with recorded(cell, name):
                import_module(f"igds.stages.{name}").run(context)


def check_training(file: ConfigFile) -> None:
    """Refuse a fine-tuning or an evaluation that cannot be done, before anything is run.

    Raises:
        RequestError: a package is missing, or settings do not go together.
    """
    _check_training(make_context(file, False, make_progress()), CELL_STAGES)


def check_splits(file: ConfigFile) -> None:
    """Refuse fewer validation rows than the splits ask for, once a run has indexed them.

    Raises:
        RequestError: there are fewer.
    """
    from igds.stages import validation

    validation.check_splits(make_context(file, False, make_progress()))


def check_rows(file: ConfigFile) -> None:
    """Refuse test rows of which none can be judged, as soon as a run has indexed them.

    Raises:
        RequestError: there is no such row.
    """
    from igds.stages import evaluate

    evaluate.check_rows(make_context(file, False, make_progress()))


def _check_training(context: Context, wanted: Sequence[str]) -> None:
    for name in ("finetune", "evaluate"):
        if name in wanted and getattr(context.config, name) is not None:
            import_module(f"igds.stages.{name}").check(context)


def _run(context: Context, wanted: Sequence[str], only: str | None) -> Run:
    from igds.stages import validation
    from igds.stages.judging import check_room

    folder = context.run
    _check_training(context, wanted)
    with RunLock(folder.path), context.executor:
        for name in wanted:
            # Stages before the one asked for must be of this configuration; they are not redone.
            given = replace(context, overwrite=False) if only not in (None, name) else context
            if name in ("index", "report"):
                # The page shows the record. A run that is refused leaves it as it was.
                describe(given, wanted, first=name == "index")
            with recorded(folder, name):
                import_module(f"igds.stages.{name}").run(given)
            if name == "index" and "recall" in wanted:
                validation.check_splits(context)
            if name == "index" and "intervene" in wanted:
                check_room(context)
            if name == "index" and "evaluate" in wanted:
                import_module("igds.stages.evaluate").check_rows(context)
            if name == "intervene":
                describe(given, wanted)  # the outcome stands, even if scoring refuses it
        describe(context, wanted)
    return Run(folder)


def verify(
    file: ConfigFile,
    features: Sequence[str],
    *,
    positions: Sequence[Position] = ("read", "generated", "all"),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Test named features on split S3, against their controls, and return the run.

    Index and recall are made if they are not there. The verdicts are in `verify/`.

    Args:
        file: what `igds.load_config` returns.
        features: names as `L14/11575`; they need not be recalled.
        positions: where each is edited, see `intervene.position`.
        overwrite: replace stages that were made by other settings or inputs; index and recall only
            where nothing in the run folder was made from them.
        progress: as for `run`.

    Raises:
        RequestError: the SAEs have no such feature, the configuration keeps no split S3, or as
            `run`.
        WorkError: the work failed, and can be resumed by the same call.
    """
    from igds.stages import verify as stage

    context = make_context(file, overwrite, progress or make_progress())
    before = _wanted(context, "recall", None)
    if "S3" not in context.split_sizes:
        raise RequestError(
            "igds verify reads split S3: the configuration needs data.validation and a section "
            "intervene with mode: rigorous (--intervene.mode rigorous)"
        )
    named = stage.named_features(context, features)
    with RunLock(context.run.path), context.executor:
        # A run that went on from recall keeps its record, and what it was made from.
        later = any(committed_folders(context.run, name) for name in STAGES if name not in before)
        given = replace(context, overwrite=overwrite and not later)
        describe(context, before, first=True)
        for name in before:
            with recorded(context.run, name):
                import_module(f"igds.stages.{name}").run(given)
        with recorded(context.run, "verify"):
            stage.run(context, named, positions)
        describe(context, before, first=later)
    return Run(context.run)


def diagnose(file: ConfigFile, *, limit: int = 128, progress: Progress | None = None) -> Diagnosis:
    """Return whether model, SAEs and cue fit the method; needs no stage and writes nothing.

    Args:
        file: what `igds.load_config` returns.
        limit: rows of the prior set to read; of the control set half as many.
        progress: as for `run`.

    Raises:
        RequestError: the configuration or the data cannot be used.
    """
    import torch

    from igds.data.chat import chat_template
    from igds.data.rendering import Rendering
    from igds.doctor.diagnosis import diagnosis
    from igds.doctor.examine import examine, read_all
    from igds.doctor.prompts import paraphrases_of, read_prompts
    from igds.models.load import describe, load_tokenizer

    config = file.config
    context = make_context(file, False, progress or make_progress())
    torch.set_num_threads(worker_threads(config.runtime))
    tokenizer = load_tokenizer(context.model)
    rendering = Rendering(
        template=context.template,
        task=context.task,
        require_response=False,
        chat=chat_template(tokenizer, config.prompts),
    )
    prompts = read_prompts(
        config.data,
        rendering,
        paraphrases_of(config.prompts, context.task, rendering, chat_rows=config.data.has_chat),
        tokenizer=tokenizer,
        max_prompt_tokens=describe(context.model).context,
        base=file.base,
        seed=config.seed,
        limit=limit,
    )
    readings = read_all(
        context.model,
        prompts,
        list(context.saes),
        batch_tokens=config.runtime.batch_tokens,
        seed=config.seed,
        progress=context.progress,
    )
    figures = examine(
        readings,
        context.load_sae,
        features=_known_features(context),
        min_frequency=(config.recall or Recall()).min_frequency,
        progress=context.progress,
    )
    mixed = config.data.pool_kind == "mixed"
    return diagnosis(context.model.id, prompts, readings, figures, mixed_pool=mixed)


def _known_features(context: Context) -> tuple[FeatureId, ...]:
    """Return the task features of the run folder, if it was made with the same SAEs."""
    if not context.task_features:
        return ()
    same = committed_identity(context.run.path / "recall")["saes"] == context.sae_identity
    return context.task_features if same else ()


def make_context(file: ConfigFile, overwrite: bool, progress: Progress) -> Context:
    """Return what the stages of a configuration are given; nothing is read yet."""
    config = file.config
    return Context(
        config=config,
        base=file.base,
        run=RunFolder((file.base / config.runs_dir / config.name).resolve()),
        executor=make_executor(config.runtime),
        progress=progress,
        overwrite=overwrite,
    )


def _wanted(context: Context, until: str | None, only: str | None) -> list[str]:
    """Return the stages to run, in order.

    Raises:
        ValueError: a stage that is asked for is none or has no section, or its inputs are not
            there or have no section.
    """
    wanted = _asked_for(context, until, only)
    context.config.check_stages(wanted)
    return wanted


def _asked_for(context: Context, until: str | None, only: str | None) -> list[str]:
    config = context.config
    present = [name for name in STAGES if name == "index" or getattr(config, name) is not None]
    asked = only or until
    if asked is not None and asked not in STAGES:
        raise RequestError(f"there is no stage {asked!r}; {did_you_mean(asked, STAGES)}")
    if asked is not None and asked not in present:
        raise RequestError(f"the configuration has no section {asked!r}: add one to run the stage")
    if only is not None:
        before = present[: present.index(only)]
        missing = [name for name in before if not _is_there(context, name)]
        if missing:
            raise RequestError(
                f"igds {only} needs the stage {missing[0]!r}, which is not done: run "
                f"`igds run CONFIG --until {only}`"
            )
        return [*before, only]
    return present[: present.index(until) + 1] if until else present


def _is_there(context: Context, name: str) -> bool:
    """Return whether a stage's results are committed."""
    if name == "score":
        methods = context.config.score.methods if context.config.score else ()
        return all(_is_there(context, f"score/{method}") for method in methods)
    return stage_state(context.run.path / name) == "done"
