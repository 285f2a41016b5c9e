"""What every stage is given: the configuration with all names resolved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from igds.config.identity import digest, to_plain
from igds.config.inputs import Model
from igds.config.schema import Config, Intervene
from igds.data.splits import SPLITS
from igds.data.templates import Template, parse_template
from igds.errors import RequestError
from igds.executors.base import Executor, WorkerSpec
from igds.executors.make import worker_threads
from igds.features import FeatureId
from igds.progress import Progress
from igds.runs.folder import RunFolder
from igds.runs.stage import Stage, adopt, committed_identity, differs_in, stage_state
from igds.tasks.base import Task
from igds.tasks.registry import load_task

if TYPE_CHECKING:
    from igds.models.load import ModelSpec
    from igds.saes.load import SAESpec
    from igds.saes.sae import SAE

SCORED = "method_scored"
"""Event that says how long a method took."""
CELL_STAGES = ("select", "finetune", "evaluate")
"""Stages that each cell of an experiment has of its own."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """One run in progress."""

    config: Config
    """The configuration."""
    base: Path
    """Folder that relative paths start from: that of the config file."""
    run: RunFolder
    """Where everything is written."""
    executor: Executor
    """Where shards run."""
    progress: Progress
    """Where progress and notes go."""
    overwrite: bool
    """Replace finished stages whose identity differs."""
    outer: Path | None = None
    """Runs folder of the run that this one is a part of."""
    seals: bool = False
    """Leave split S3 unread."""
    cell: RunFolder | None = None
    """Folder of an experiment's cell: select and what follows it are written there."""

    @cached_property
    def task(self) -> Task:
        """Return the task."""
        return load_task(self.config.task, self.base)

    @property
    def intervene(self) -> Intervene:
        """Return the section of interventions, in a run that has them."""
        settings = self.config.intervene
        assert settings is not None, "the pipeline runs only stages that have a section"
        return settings

    @cached_property
    def template(self) -> Template:
        """Return the template of every task prompt; in a run with chat rows, plain `{text}`."""
        prompts = self.config.prompts
        default = "{text}" if self.config.data.has_chat else self.task.template
        return parse_template(prompts.template or default, user_turn=prompts.chat_template)

    @cached_property
    def model(self) -> ModelSpec:
        """Return the identification model, found and with every `auto` decided."""
        from igds.models.load import resolve_model

        return resolve_model(self.config.model, self.config.runtime.device, self.base)

    @cached_property
    def train_model(self) -> ModelSpec | None:
        """Return the model that will be fine-tuned, when it is another one."""
        from igds.models.load import resolve_model

        given = self.config.model
        if given.train_id is None:
            return None
        trained = Model(
            id=given.train_id,
            revision=given.train_revision,
            dtype=given.dtype,
            trust_remote_code=given.train_trust_remote_code,
        )
        try:
            return resolve_model(trained, self.config.runtime.device, self.base)
        except RequestError as error:
            raise RequestError(f"model.train_id: {error}") from error

    @cached_property
    def model_identity(self) -> dict[str, Any]:
        """Return what makes two models the same."""
        from igds.models.load import model_identity

        return model_identity(self.model)

    @cached_property
    def saes(self) -> dict[int, SAESpec]:
        """Return block -> SAE, by block; found and checked against the model's shape."""
        from igds.models.load import describe
        from igds.saes.load import locate_saes

        shape = describe(self.model)
        return locate_saes(self.config.saes, self.base, shape.d_model, shape.n_blocks)

    def load_sae(self, layer: int) -> SAE:
        """Return the whole SAE of a block, under the release name of the configuration."""
        from igds.saes.load import read_sae

        return read_sae(self.saes[layer])

    @cached_property
    def sae_identity(self) -> dict[str, str]:
        """Return block -> sha256 of the SAE's files."""
        from igds.saes.load import open_sae, revision

        return {f"L{layer}": revision(open_sae(spec)) for layer, spec in self.saes.items()}

    def sae_arguments(self, layers: Iterable[int]) -> dict[str, dict[str, Any]]:
        """Return block, as text, -> its SAE, in plain values for workers."""
        return {str(layer): asdict(self.saes[layer]) for layer in sorted(set(layers))}

    @property
    def data_identity(self) -> dict[str, Any] | None:
        """Return set -> what its sources hold, as the index read them; None before it is done."""
        if not self.has_stage("index"):
            return None
        return committed_identity(self.run.path / "index")["data"]

    @property
    def split_sizes(self) -> dict[str, int]:
        """Return rows wanted for S1, S2 and S3; empty when no row is to be kept apart."""
        settings = self.config.intervene
        if settings is None or settings.mode == "paper" or not self.config.data.validation:
            return {}
        return {split: getattr(settings, name) for split, name in SPLITS.items()}

    @property
    def runs(self) -> Path:
        """Return the folder that keeps the record of S3 for all runs below it."""
        return self.outer or self.run.path.parent

    @property
    def task_features(self) -> tuple[FeatureId, ...]:
        """Return F_task; empty when the intervene stage chose none or has not run."""
        if not self.has_stage("intervene"):
            return ()
        return tuple(FeatureId.parse(name) for name in self.outcome["features"])

    @property
    def outcome(self) -> dict[str, Any]:
        """Return `intervene/task_features.json`."""
        return json.loads((self.run.path / "intervene" / "task_features.json").read_text())

    def has_stage(self, name: str) -> bool:
        """Return whether a stage is committed; a folder that no setting makes any more is none."""
        section, _, method = name.partition("/")
        given = section in ("index", "transfer") or getattr(self.config, section) is not None
        if self.config.score is not None and section == "score":
            given = method in self.config.score.methods
        return given and stage_state(self.folder(name)) == "done"

    def folder(self, name: str) -> Path:
        """Return a stage's folder: in the cell for those from select on, if there is one."""
        own = name.partition("/")[0] in CELL_STAGES
        return (self.cell if self.cell and own else self.run).path / name

    @property
    def archive(self) -> Path | None:
        """Return the folder that keeps replaced stages; a cell keeps none."""
        return None if self.cell else self.run.path / "cells"

    def stage_identity(self, version: int, **parts: Any) -> dict[str, Any]:
        """Return a stage's identity: its code's version, its settings and its inputs."""
        return {"version": version, **{name: to_plain(part) for name, part in parts.items()}}

    def open_stage(
        self,
        name: str,
        identity: Mapping[str, Any],
        plan: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Stage:
        """Return the stage's folder: done, or ready to write under the plan of its first start.

        `plan` holds what the stage cuts otherwise than the run.
        """
        asked = {**self.plan(), **(plan or {})}
        taken = None
        if self.cell is None:
            others = self._elsewhere(name)
            taken = adopt(self.folder(name), identity, asked, others)
            if others and taken is None and stage_state(self.folder(name)) == "missing":
                self._say_untaken(name, others[0], differs_in(others[0], identity, asked))
        if taken is not None:
            self.progress.note(f"{name}: of the same settings as {taken}, which is taken")
            self._record_taken(name, taken)
        stage = Stage.open(
            self.folder(name),
            identity=dict(identity),
            plan=asked,
            overwrite=self.overwrite,
            **options,
        )
        if not stage.done and stage.plan["device"] != self.plan()["device"]:
            raise RequestError(
                f"{name} was begun on {stage.plan['device']}, and this run is on "
                f"{self.plan()['device']}: go on there, or add --overwrite to begin again"
            )
        if not stage.done:
            place = self.cell or self.run
            place.event("stage_started", stage=name.partition("/")[0], folder=name)
            self._record_taken(name, None)
        return stage

    def _say_untaken(self, name: str, folder: Path, differing: Sequence[str]) -> None:
        """Note why the stage of the run of an experiment's name is made again."""
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            words = f"it differs in {', '.join(differing[:3])}{more}"
            self.progress.note(f"{name}: {folder} is not taken, as {words}")

    def _record_taken(self, name: str, source: Path | None) -> None:
        """Write down where a stage was taken from, with its cost there, or that it is made here."""
        manifest = self.run.manifest()
        known = manifest.get("taken", {})
        found = {stage: place for stage, place in known.items() if stage != name}
        if source is None:
            if found != known:
                self.run.update_manifest({"taken": found})
            return
        found[name] = source.relative_to(self.runs).as_posix()
        maker = RunFolder(source.parents[name.count("/")])
        cost = maker.manifest().get("stages", {}).get(name)
        costs = {**manifest.get("stages", {}), **({name: cost} if cost else {})}
        self.run.update_manifest({"taken": found, "stages": costs})
        for event in maker.events()[::-1]:
            if event["event"] == SCORED and f"score/{event['method']}" == name:
                self.run.event(**{key: value for key, value in event.items() if key != "time"})
                return

    def _elsewhere(self, name: str) -> list[Path]:
        """Return where other parts of the work that this run is a part of would have a stage.

        An experiment has the folder of the plain run of its name, whose stages come first.
        """
        whole = self.run.path.parent
        if self.outer is None or whole == self.outer:
            return []
        parts = sorted(other / name for other in whole.iterdir() if other.is_dir())
        return [whole / name, *parts]

    def plan(self) -> dict[str, Any]:
        """Return what fixes the bytes of a result beside its identity."""
        runtime = self.config.runtime
        return {
            "batch_tokens": runtime.batch_tokens,
            "shard_rows": runtime.shard_rows,
            "threads": worker_threads(runtime),
            "device": self.model.device_type,
        }

    def input_identity(self, *stages: str) -> dict[str, str]:
        """Return stage -> digest of the identity it was committed with."""
        return {name: digest(committed_identity(self.folder(name))) for name in stages}

    def run_shards(
        self,
        work: str,
        arguments: Mapping[str, Any],
        shards: Sequence[Mapping[str, Any]],
        plan: Mapping[str, Any],
        on_result: Any,
        label: str,
        weights: Sequence[int],
    ) -> None:
        """Run the shards on the executor; each result reaches `on_result(place, table)` once.

        Progress counts `weights`, the rows of each shard.
        """
        if not shards:
            return
        spec = WorkerSpec(
            work=work,
            arguments={
                "model": asdict(self.model),
                "threads": plan["threads"],
                **arguments,
            },
            threads=plan["threads"],
        )
        with self.progress.task(label, sum(weights)) as bar:

            def deliver(place: int, table: pa.Table) -> None:
                on_result(place, table)
                bar.advance(weights[place])

            self.executor.run(spec, list(shards), deliver)
        self.run.event("workers", work=label, peak_rss_mb=self.executor.peak_rss_mb)

    def shard_files(
        self,
        work: str,
        arguments: Mapping[str, Any],
        stage: Stage,
        shards: Sequence[Mapping[str, Any]],
        names: Sequence[str],
        label: str,
        weights: Sequence[int],
    ) -> list[Path]:
        """Return the file of each shard's table in the stage; those it has are not run.

        As `run_shards`, under the stage's plan; `names` are its files, one a shard.
        """
        missing = [place for place, name in enumerate(names) if not stage.has(name)]

        def write(place: int, table: pa.Table) -> None:
            stage.write_table(names[missing[place]], table)

        self.run_shards(
            work,
            arguments,
            [shards[place] for place in missing],
            stage.plan,
            write,
            label,
            [weights[place] for place in missing],
        )
        return [stage.path / name for name in names]

    def run_sets(
        self,
        work: str,
        arguments: Mapping[str, Any],
        stage: Stage,
        sets: Mapping[str, str],
        label: str,
    ) -> dict[str, list[Path]]:
        """Run the work over sets of the index, and return name -> its shards, in row order.

        They are `shards/<name>-00000.parquet` and on, in the stage; those it has are not run.

        Args:
            work: as for `run_shards`; its argument `batch_tokens` is that of the stage's plan.
            arguments: the others.
            stage: where the shards go.
            sets: name of a set -> its folder below `index/`.
            label: what progress says.
        """
        from igds.reading.work import n_rows, row_ranges

        index, size = self.run.path / "index", stage.plan["shard_rows"]
        ranges = {name: row_ranges(index / folder, size) for name, folder in sets.items()}
        arguments = {**arguments, "batch_tokens": stage.plan["batch_tokens"]}
        shards = [shard for own in ranges.values() for shard in own]
        names = [
            f"shards/{n}-{at:05d}.parquet" for n, own in ranges.items() for at in range(len(own))
        ]
        sizes = [n_rows(shard) for shard in shards]
        files = iter(self.shard_files(work, arguments, stage, shards, names, label, sizes))
        return {name: list(islice(files, len(own))) for name, own in ranges.items()}
