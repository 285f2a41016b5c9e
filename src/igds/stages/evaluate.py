"""Evaluate: held-out rows and benchmarks by the fine-tuned model, and by the original one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from igds.config.identity import to_plain
from igds.config.inputs import DType, Model
from igds.config.training import Evaluate
from igds.data.index import load_index
from igds.data.tokens import encode_prompts
from igds.errors import RequestError
from igds.evaluation.comet import check_comet, comet_items
from igds.evaluation.generation import Decoding
from igds.evaluation.harness import DOCUMENTS
from igds.evaluation.harness import WORK as HARNESS
from igds.evaluation.items import COLUMNS, ITEMS, generation_prompts, gold_rows
from igds.evaluation.results import ORIGINAL, TUNED, judges_by_0_and_1, summarise
from igds.evaluation.tables import (
    activation_items,
    document_items,
    generated,
    likelihood_items,
    output_facts,
    output_items,
    usable_rows,
)
from igds.evaluation.vllm import ROWS as VLLM_ROWS
from igds.evaluation.vllm import vllm, vllm_outputs
from igds.evaluation.work import LIKELIHOODS, OUTPUTS, WORK
from igds.executors.other_python import OtherPython
from igds.models.load import ModelSpec, describe, load_tokenizer, model_identity, resolve_model
from igds.reading.transfer import obstacle
from igds.reading.work import n_rows, row_ranges
from igds.runs.files import read_json
from igds.runs.stage import Stage, committed_identity
from igds.stages.context import Context
from igds.tasks.base import need_package
from igds.tasks.comet import comet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1
READING = "igds.reading.transfer:TransferWork"
ROWS = 32
"""Held-out rows a shard: the unit of resume, and what a worker takes at a time."""
_VLLM = "parts/vllm.json"
"""File that says which vLLM generates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arm:
    """One model under evaluation."""

    context: Context
    stage: Stage
    settings: Evaluate
    name: str
    spec: ModelSpec
    rows: pa.Table
    """Held-out rows that can be judged."""

    def column(self, name: str) -> dict[str, Any]:
        """Return row id -> a column's value."""
        values = (self.rows[column].to_pylist() for column in ("row_id", name))
        return dict(zip(*values, strict=True))


def run(context: Context) -> None:
    """Write `evaluate/`: `items.parquet`, `results.json`."""
    settings = context.config.evaluate
    assert settings is not None, "the pipeline runs only stages that have a section"
    models = _models(context, settings)
    trained = [] if settings.model or context.config.finetune is None else ["finetune"]
    read = read_features(context)
    reads = {"features": read, "saes": context.sae_identity} if read else {}
    identity = context.stage_identity(
        VERSION,
        evaluate=settings.measures,
        models={name: model_identity(spec) for name, spec in models.items()},
        seed=context.config.seed,
        inputs=context.input_identity("index", *trained),
        **reads,
    )
    stage = context.open_stage(
        "evaluate",
        identity,
        {"shard_rows": ROWS, **({"vllm_rows": VLLM_ROWS} if settings.vllm_python else {})},
        replace=context.has_stage("evaluate"),
        archive=context.archive,
        scratch=["parts"],
    )
    if stage.done:
        return
    _check_other_pythons(context, settings)
    held = _rows(context, "test") if settings.reads_rows else None
    rows = pa.table({name: [] for name in COLUMNS}) if held is None else usable_rows(held)
    arms = [
        _Arm(context=context, stage=stage, settings=settings, name=name, spec=spec, rows=rows)
        for name, spec in models.items()
    ]
    measured = [_measured(arm) for arm in arms]
    items, judge = _with_comet(arms[0], pa.concat_tables([table for table, _ in measured]))
    pass_at = settings.pass_at if judges_by_0_and_1(items) else ()
    if settings.pass_at and not pass_at:
        context.progress.note("note: pass@k is left out: some task scores are neither 0 nor 1")
    stage.write_table("items.parquet", items)
    results = {
        **summarise(items, pass_at, context.config.seed),
        "names": {arm.name: arm.spec.id for arm in arms},
        "dtype": arms[0].spec.dtype,
        "rows": len(rows),
        "unusable": 0 if held is None else len(held) - len(rows),
        "too_long": {arm.name: left for arm, (_, left) in zip(arms, measured, strict=True)},
        "decoding": settings.decoding,
        "vllm": _vllm_package(stage),
        "outputs": output_facts(items),
        "comet": judge,
    }
    stage.write_json("results.json", results)
    stage.commit()


def check(context: Context) -> None:
    """Refuse, before any work, what cannot be done.

    Raises:
        RequestError: the task, the prompts or the models cannot be evaluated so, or a package is
            missing.
    """
    settings = context.config.evaluate
    assert settings is not None, "the pipeline checks only stages that have a section"
    if settings.comet_python is not None:
        check_comet(context.task, context.template, context.config.data.test)
    if settings.lm_eval:
        need_package("lm_eval", "evaluate.lm_eval")
    if context.config.prompts.chat_template and (settings.template or settings.shots):
        raise RequestError("evaluate.template and shots are for raw prompts, not for chat prompts")
    done = context.has_stage("evaluate") and committed_identity(context.folder("evaluate"))
    if not done or done["evaluate"] != to_plain(settings.measures):
        _check_other_pythons(context, settings)
    if not settings.activations:
        return
    named = [_resolved(context, settings.model, "auto")] if settings.model else []
    own = context.config.finetune is not None or settings.original
    for model in (*named, context.train_model if own else None):
        reason = model and obstacle(describe(context.model), describe(model))
        if model and reason:
            raise RequestError(
                f"evaluate.activations cannot be read in {model.id}: {reason}; set it to false"
            )


def _check_other_pythons(context: Context, settings: Evaluate) -> None:
    """Refuse another Python that is not there, lacks its package or cannot use the device."""
    if settings.comet_python is not None:
        comet(context.base / settings.comet_python, context.model.device).check()
    if settings.vllm_python is not None:
        vllm(context.base / settings.vllm_python, context.model.device).check()


def check_rows(context: Context) -> None:
    """Refuse an evaluation on held-out rows of which none can be judged.

    Raises:
        RequestError: no row of data.test is usable.
    """
    settings = context.config.evaluate
    if settings and settings.reads_rows and not len(usable_rows(_rows(context, "test"))):
        raise RequestError(
            "data.test: no row can be judged, as each lacks a field, is too long or has no gold "
            "response; map the response's column in `columns` (index/test has the status of each)"
        )


def read_features(context: Context) -> list[str]:
    """Return the names of the task features whose activations are measured, if they are.

    Raises:
        RequestError: there are none to measure.
    """
    if context.config.evaluate is None or not context.config.evaluate.activations:
        return []
    if not context.task_features:
        raise RequestError(
            "this run found no task feature, whose activations evaluate.activations reads: set it "
            "to false, or intervene.allow_unconfirmed to true"
        )
    return [str(feature) for feature in context.task_features]


def _models(context: Context, settings: Evaluate) -> dict[str, ModelSpec]:
    """Return name -> model, all of one dtype.

    Raises:
        RequestError: there is no fine-tuned model.
    """
    original = context.train_model or context.model
    auto = "float32" if original.device_type == "cpu" else "bfloat16"
    dtype = auto if settings.dtype == "auto" else settings.dtype
    models = {}
    if settings.model is not None or context.config.finetune is not None:
        path = context.folder("finetune") / "model"
        if settings.model is None and not path.is_dir():
            raise RequestError(
                f"{path} is not there: train it with the YAML beside it, or name evaluate.model"
            )
        models[TUNED] = _resolved(context, settings.model or str(path), dtype)
    return models | ({ORIGINAL: replace(original, dtype=dtype)} if settings.original else {})


def _resolved(context: Context, name: str, dtype: DType) -> ModelSpec:
    original = context.train_model or context.model
    tuned = Model(id=name, dtype=dtype, trust_remote_code=original.trust_remote_code)
    return resolve_model(tuned, context.config.runtime.device, context.base)


def _rows(context: Context, name: str) -> pa.Table:
    return load_index(context.run.path / "index" / name, COLUMNS)


def _measured(arm: _Arm) -> tuple[pa.Table, dict[str, int]]:
    """Return the items of one model, and how many rows were too long for what."""
    tables, too_long = [ITEMS.empty_table()], {}
    tokenizer = load_tokenizer(arm.spec)
    clusters = arm.column("prompt_hash")
    if arm.settings.likelihood:
        found = _likelihoods(arm, tokenizer)
        too_long["likelihood"] = len(arm.rows) - len(found)
        tables.append(likelihood_items(arm.name, found, clusters))
    if arm.settings.generate:
        outputs, too_long["generate"] = _outputs(arm, tokenizer)
        task, fields = arm.context.task, arm.column("fields")
        tables.append(output_items(arm.name, outputs, task, fields, clusters))
    if arm.settings.activations:
        tables.append(activation_items(arm.name, _activations(arm), clusters))
    if arm.settings.lm_eval:
        tables.append(document_items(arm.name, _benchmarks(arm)))
    return pa.concat_tables(tables), too_long


def _likelihoods(arm: _Arm, tokenizer: PreTrainedTokenizerBase) -> pa.Table:
    """Return `LIKELIHOODS` of the rows that fit."""
    gold = gold_rows(
        arm.rows,
        tokenizer,
        arm.context.task,
        chat=arm.context.config.prompts.chat_template,
        context=describe(arm.spec).context,
    )
    size = arm.stage.plan["shard_rows"]
    cuts = [gold[start : start + size] for start in range(0, len(gold), size)]
    shards = [{"gold": [asdict(row) for row in cut]} for cut in cuts]
    label = f"evaluate: gold responses by the {arm.name} model"
    found = _computed(arm, "likelihood", WORK, _work(arm), shards, list(map(len, cuts)), label)
    return pa.concat_tables([LIKELIHOODS.empty_table(), *found])


def _outputs(arm: _Arm, tokenizer: PreTrainedTokenizerBase) -> tuple[pa.Table, int]:
    """Return `OUTPUTS` of the rows whose prompt leaves room, and how many do not."""
    settings, context = arm.settings, arm.context
    examples = usable_rows(_rows(context, "validation")) if settings.shots else None
    texts = generation_prompts(arm.rows, examples, settings, context.template, context.config.seed)
    ids = encode_prompts(tokenizer, texts, chat=context.config.prompts.chat_template)
    room = describe(arm.spec).context - settings.max_new_tokens
    names = arm.rows["row_id"].to_pylist()
    fit = [(name, row) for name, row in zip(names, ids, strict=True) if len(row) <= room]
    size = arm.stage.plan["shard_rows" if settings.vllm_python is None else "vllm_rows"]
    cuts = [fit[start : start + size] for start in range(0, len(fit), size)]
    shards = [{"row_ids": [n for n, _ in cut], "prompts": [row for _, row in cut]} for cut in cuts]
    label = f"evaluate: responses of the {arm.name} model"
    if settings.vllm_python is None:
        found = _computed(arm, "generate", WORK, _work(arm), shards, list(map(len, cuts)), label)
    else:
        other = vllm(context.base / settings.vllm_python, arm.spec.device)
        found = _by_vllm(arm, other, tokenizer, shards, label)
    return pa.concat_tables([OUTPUTS.empty_table(), *found]), len(names) - len(fit)


def _by_vllm(
    arm: _Arm,
    process: OtherPython,
    tokenizer: PreTrainedTokenizerBase,
    shards: Sequence[Mapping[str, Any]],
    label: str,
) -> list[pa.Table]:
    """Return the `OUTPUTS` of each shard by vLLM; those that an earlier attempt wrote are read."""
    stage = arm.stage
    names = [f"parts/{arm.name}-generate-{place:05d}.parquet" for place in range(len(shards))]
    missing = [place for place, name in enumerate(names) if not stage.has(name)]
    if missing:
        arm.context.executor.close()  # its models leave the GPU
        how, memory = _decoding(arm), arm.context.config.runtime.vllm_memory
        made = vllm_outputs(process, arm.spec, tokenizer, shards, how, memory, missing)
        rows = sum(len(shards[place]["row_ids"]) for place in missing)
        with closing(made), arm.context.progress.task(label, rows) as bar:
            for place, (package, table) in zip(missing, made, strict=True):
                begun = _vllm_package(stage)
                if begun not in (None, package):
                    raise RequestError(
                        f"responses were begun by {begun}, and {process.python} has {package}: go "
                        f"on with that one, or delete {stage.path} to begin again"
                    )
                stage.write_json(_VLLM, {"package": package})
                stage.write_table(names[place], table)
                bar.advance(len(shards[place]["row_ids"]))
    return [pq.read_table(stage.path / name) for name in names]


def _vllm_package(stage: Stage) -> str | None:
    """Return name and version of the package that generated; None where none did."""
    return (read_json(stage.path / _VLLM) or {}).get("package")


def _activations(arm: _Arm) -> pa.Table:
    """Return row_id and a column a task feature, of the held-out rows whose prompt fits."""
    context, plan = arm.context, arm.stage.plan
    arguments = {
        "model": asdict(arm.spec),
        "features": read_features(context),
        "saes": context.sae_arguments(feature.layer for feature in context.task_features),
        "chat": context.config.prompts.chat_template,
        "batch_tokens": plan["batch_tokens"],
        "finite": False,  # a training that diverged is measured, not refused
    }
    shards = row_ranges(context.run.path / "index" / "test", plan["shard_rows"])
    label = f"evaluate: task features in the {arm.name} model"
    sizes = [n_rows(shard) for shard in shards]
    return pa.concat_tables(_computed(arm, "activations", READING, arguments, shards, sizes, label))


def _benchmarks(arm: _Arm) -> pa.Table:
    """Return `DOCUMENTS` of all benchmarks."""
    settings, context = arm.settings, arm.context
    path = settings.lm_eval_path
    arguments = {
        "model": asdict(arm.spec),
        "path": None if path is None else str(context.base / path),
        "limit": settings.lm_eval_limit,
        "seed": context.config.seed,
    }
    shards = [{"task": name} for name in settings.lm_eval]
    label = f"evaluate: benchmarks of the {arm.name} model"
    found = _computed(arm, "lm_eval", HARNESS, arguments, shards, [1] * len(shards), label)
    return pa.concat_tables([DOCUMENTS.empty_table(), *found])


def _work(arm: _Arm) -> dict[str, Any]:
    """Return the arguments of `EvaluateWork`: for both its tasks the same, so that it stays."""
    decoding = _decoding(arm)
    size = decoding.batch_tokens
    return {"model": asdict(arm.spec), "decoding": asdict(decoding), "batch_tokens": size}


def _decoding(arm: _Arm) -> Decoding:
    """Return how responses are generated."""
    settings = arm.settings
    return Decoding(
        samples=settings.samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
        stop=settings.stop,
        seed=arm.context.config.seed,
        batch_tokens=arm.stage.plan["batch_tokens"],
    )


def _computed(
    arm: _Arm,
    kind: str,
    work: str,
    arguments: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
    weights: Sequence[int],
    label: str,
) -> list[pa.Table]:
    """Return the table of each shard; those that an earlier attempt wrote are read."""
    names = [f"parts/{arm.name}-{kind}-{place:05d}.parquet" for place in range(len(shards))]
    files = arm.context.shard_files(work, arguments, arm.stage, shards, names, label, weights)
    return [pq.read_table(file) for file in files]


def _with_comet(arm: _Arm, items: pa.Table) -> tuple[pa.Table, dict[str, str] | None]:
    """Return the items with those of COMET, where it is asked for, and what computed them."""
    settings, outputs = arm.settings, generated(items)
    if settings.comet_python is None or not len(outputs):
        return items, None
    arm.context.executor.close()  # its models leave the GPU
    process = comet(arm.context.base / settings.comet_python, arm.spec.device)
    table, found = comet_items(outputs, arm.column("fields"), process, settings.comet_checkpoint)
    judge = {"package": found.package, "checkpoint": found.checkpoint}
    return pa.concat_tables([items, table]), judge
