"""Memory and time of index, score and select over a pool of a million short rows.

    python benchmarks/pool_memory.py [--rows 1000000]

The stages run as in a real run, workers included, but the model is replaced by a constant and
what recall and intervene would have found is written by hand. `peak_rss_mb` is the sum of the
largest sizes of the driver and of each worker. On the constant the planted feature is active in
`active_share` of the rows; where it is, a TopK SAE has to multiply all of its columns, which costs
another `topk_us_per_active_row`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

import igds
from _common import QUICKSTART, print_machine, print_result
from igds.config.load import ConfigFile
from igds.config.schema import Score
from igds.executors.make import make_executor
from igds.progress import PlainProgress
from igds.runs.folder import RunFolder
from igds.runs.memory import peak_rss_mb
from igds.runs.stage import Stage
from igds.stages import index, score, select
from igds.stages.context import Context

WORKERS = 1
TEMPLATE = "Q: {question}\nA:"
SUBJECTS = ("apples", "bricks", "coins", "desks", "eggs", "flags", "gloves")


class ConstantContext(Context):
    """A run whose scoring reads a constant in place of the model."""

    def run_shards(self, work: str, *arguments: Any, **options: Any) -> None:
        """Run the shards as always, the work that scores by its constant twin."""
        assert work == "igds.methods.work:ScoreWork"
        super().run_shards("_constant:ConstantScoreWork", *arguments, **options)


def main() -> None:
    """Print the machine, the seconds of each stage, and the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        write_pool(Path(folder) / "pool.jsonl", rows)
        file = config_file(Path(folder))
        with make_executor(file.config.runtime) as executor:
            context = ConstantContext(
                config=file.config,
                base=file.base,
                run=RunFolder(Path(folder) / "run"),
                executor=executor,
                progress=PlainProgress(),
                overwrite=False,
            )
            seconds = {"index": timed(index, context)}
            plant_findings(context)
            seconds |= {"score": timed(score, context), "select": timed(select, context)}
            workers = sum(executor.peak_rss_mb.values())
            active_share = 1 - read_summary(context)["share_zero"]
            topk_us = topk_us_per_active_row(context)
    print_result(
        rows=rows,
        workers=WORKERS,
        peak_rss_mb=peak_rss_mb() + workers,
        index_us_per_row=seconds["index"] / rows * 1e6,
        score_select_us_per_row=(seconds["score"] + seconds["select"]) / rows * 1e6,
        active_share=active_share,
        topk_us_per_active_row=topk_us,
    )


def timed(stage: ModuleType, context: ConstantContext) -> float:
    """Run a stage and return its seconds, after printing them and the sizes so far."""
    start = time.perf_counter()
    stage.run(context)
    seconds = time.perf_counter() - start
    workers = ", ".join(f"{size:.0f}" for size in context.executor.peak_rss_mb.values()) or "none"
    print(
        f"{stage.__name__}: {seconds:.1f} s, peak MB: driver {peak_rss_mb():.0f}, workers {workers}"
    )
    return seconds


def read_summary(context: ConstantContext) -> dict[str, Any]:
    """Return what select says of the pool scores."""
    return json.loads((context.run.path / "select" / "summary.json").read_text())


def topk_us_per_active_row(context: ConstantContext) -> float:
    """Return the cost of reading one active feature of the TopK SAE, median of 5."""
    sae = context.load_sae(max(context.saes))
    rows = (sae.W_enc[:, :1].T * 100).repeat(2048, 1)
    assert bool((sae.encode_columns(rows, [0]) > 0).all())
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        sae.encode_columns(rows, [0])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / len(rows) * 1e6


def write_pool(path: Path, rows: int) -> None:
    """Write distinct short rows."""
    with path.open("w", encoding="utf-8") as file:
        for at in range(rows):
            question = f"What do {at} {SUBJECTS[at % 7]} and {at % 911} more come to?"
            line = {"question": question, "answer": f"They come to {at + at % 911}."}
            file.write(json.dumps(line) + "\n")


def config_file(folder: Path) -> ConfigFile:
    """Return the quickstart's configuration over that pool: short template, igds alone."""
    changes = {
        "data.pool.0.path": folder / "pool.jsonl",
        "prompts.template": TEMPLATE,
        "runtime.workers": WORKERS,
        "runtime.shard-rows": 8192,
        "runtime.threads": 2,
    }
    words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    file = igds.load_config(QUICKSTART / "igds.yaml", words)
    return replace(file, config=replace(file.config, score=Score()))


def plant_findings(context: ConstantContext) -> None:
    """Write what the score stage needs of recall and intervene: one task feature, no residuals."""
    feature = f"L{max(context.saes)}/0"
    for name in ("recall", "intervene"):
        stage = Stage.open(context.run.path / name, identity={"planted": True}, plan={})
        if name == "intervene":
            found = {"outcome": "unconfirmed", "features": [feature], "order": [feature]}
            stage.write_json("task_features.json", {**found, "reason": "planted"})
            effects = {"feature": [feature], "split": ["S2"], "position": ["read"]}
            effects |= {"delta": [0.0]}
            stage.write_table("effects.parquet", pa.table(effects))
        stage.commit()


if __name__ == "__main__":
    main()
