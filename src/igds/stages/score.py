"""Score: each method's raw columns for every pool row, methods that read alike in one pass."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file

from igds.config.identity import digest
from igds.config.scoring import READ_PROMPTS, READ_RESPONSES
from igds.methods.base import STATUS, MethodSpec
from igds.methods.ranking import EMBEDDINGS, QUERIES, make_ranking
from igds.methods.registry import resolve_method, split_draw
from igds.reading.work import n_rows, row_ranges
from igds.runs.stage import Stage
from igds.stages.context import SCORED, Context
from igds.stages.ingredients import gather, method_identity, response_arguments

VERSION = 1
STATE = "ranking.safetensors"
"""Where a ranking stands, while it goes on."""
SAVE_SECONDS = 5.0
"""Least time between two savings of a ranking's state."""


def run(context: Context) -> None:
    """Write `score/<method>/` for each method that is named and not there yet."""
    settings = context.config.score
    assert settings is not None, "the pipeline runs only stages that have a section"
    stages = {
        name: context.open_stage(
            f"score/{name}", method_identity(context, name, VERSION), scratch=[STATE]
        )
        for name in settings.methods
    }
    pending = {name: stage for name, stage in stages.items() if not stage.done}
    if not pending:
        return
    seconds, specs = dict.fromkeys(pending, 0.0), {}
    matched = [name for name in pending if split_draw(name)[0] == "igds-matched"]
    with _timed(seconds, matched):  # their sample of the pool is read here
        given = gather(context, pending)
    for name in pending:
        with _timed(seconds, [name]):
            specs[name] = resolve_method(name, given)
    for name, stage in pending.items():
        stage.write_json("method.json", _facts(specs[name]))
    # Stages that were begun under another plan finish under it, in a pass of their own; so do
    # methods of another model, which is loaded when the one before it is gone.
    passes = {(digest(stage.plan), digest(specs[name].model)) for name, stage in pending.items()}
    for plan, model in sorted(passes):
        together = {
            name: stage
            for name, stage in pending.items()
            if (digest(stage.plan), digest(specs[name].model)) == (plan, model)
        }
        # A pass is for the methods that read the model; a length is looked up beside it.
        readers = [name for name in together if name in (*READ_PROMPTS, *READ_RESPONSES)]
        sharers = readers or list(together)
        began = time.monotonic()
        _read_pool(context, together, [specs[n] for n in together if specs[n].kind])
        reading = {"together": sharers, "pass_seconds": round(time.monotonic() - began, 3)}
        for name, stage in together.items():
            if specs[name].ranker:
                with _timed(seconds, [name]):
                    _rank(context, stage, specs[name])
            stage.commit()
            shared = reading if name in sharers else {}
            context.run.event(SCORED, method=name, seconds=round(seconds[name], 3), **shared)


@contextmanager
def _timed(seconds: dict[str, float], methods: Iterable[str]) -> Iterator[None]:
    """Add the time that the block takes to that of each of these methods."""
    started = time.monotonic()
    yield
    for name in methods:
        seconds[name] += time.monotonic() - started


def _facts(spec: MethodSpec) -> dict[str, Any]:
    """Return `method.json`."""
    keys = ("name", "kind", "weights", "offset", "ranker", "ranking")
    model = spec.model["id"] if spec.model else None
    return {**{key: getattr(spec, key) for key in keys}, "model": model, **spec.facts}


def _read_pool(
    context: Context, stages: Mapping[str, Stage], methods: Sequence[MethodSpec]
) -> None:
    """Compute the shards that any of the methods lacks, and hand each method its own columns."""
    if not methods:
        return
    plan = stages[methods[0].name].plan
    jobs = _jobs(context, methods, plan["shard_rows"])
    missing = [
        (shard, files)
        for shard, files in jobs
        if not all(stages[name].has(file) for name, file in files.items())
    ]

    def write(place: int, table: pa.Table) -> None:
        for method, file in missing[place][1].items():
            if not stages[method].has(file):
                stages[method].write_table(file, _columns_of(method, table))

    model = methods[0].model
    arguments = {
        "methods": [asdict(method) for method in methods],
        "batch_tokens": plan["batch_tokens"],
    }
    if model is not None:
        names = [method.name for method in methods]
        arguments |= {"model": model, "responses": response_arguments(context, model, names)}
    context.run_shards(
        "igds.methods.work:ScoreWork",
        arguments,
        [shard for shard, _ in missing],
        plan,
        write,
        "score: reading responses" if model else "score: reading the pool",
        [n_rows(shard) for shard, _ in missing],
    )


def _jobs(
    context: Context, methods: Sequence[MethodSpec], shard_rows: int
) -> list[tuple[dict[str, Any], dict[str, str]]]:
    """Return each shard with the file that it gives each method."""
    index = context.run.path / "index"
    ranked = [method.name for method in methods if method.ranker]
    jobs = []
    for place, shard in enumerate(row_ranges(index, shard_rows)):
        file = shard_file(place)
        files = {m.name: f"{EMBEDDINGS}/{file}" if m.ranker else file for m in methods}
        jobs.append((shard, files))
    for place, shard in enumerate(row_ranges(index / QUERIES, shard_rows) if ranked else ()):
        file = f"{EMBEDDINGS}/{QUERIES}-{place:05d}.parquet"
        jobs.append(({**shard, "prompts_only": True}, dict.fromkeys(ranked, file)))
    return jobs


def shard_file(place: int) -> str:
    """Return the name of a shard's file."""
    return f"shard-{place:05d}.parquet"


def _columns_of(method: str, table: pa.Table) -> pa.Table:
    """Return the row ids and one method's status and raw columns under their own names."""
    own = [name for name in table.column_names if name.startswith(f"{method}:")]
    status = f"{method}:{STATUS}"
    ordered = ["row_id", status, *(name for name in own if name != status)]
    return table.select(ordered).rename_columns(
        [name.removeprefix(f"{method}:") for name in ordered]
    )


def _rank(context: Context, stage: Stage, spec: MethodSpec) -> None:
    """Write the shards of a method that ranks the pool; its state is kept as it goes."""
    ranking = make_ranking(
        spec,
        index=context.run.path / "index",
        folder=stage.path,
        seed=context.config.seed,
        threads=stage.plan["threads"],
    )
    saved = time.monotonic()
    with context.progress.task(f"score: {spec.name}, rows in order", len(ranking.rows)) as bar:
        shown = 0

        def save(state: dict[str, np.ndarray]) -> None:
            nonlocal saved, shown
            done = min(len(state["order"]), len(ranking.rows))
            bar.advance(done - shown)
            shown = done
            if time.monotonic() - saved >= SAVE_SECONDS:
                stage.write_tensors(STATE, state)
                saved = time.monotonic()

        begun = load_file(stage.path / STATE) if stage.has(STATE) else None
        table = ranking.run(begun, save)
    start = 0
    for place, shard in enumerate(row_ranges(context.run.path / "index", stage.plan["shard_rows"])):
        stage.write_table(shard_file(place), table.slice(start, n_rows(shard)))
        start += n_rows(shard)
