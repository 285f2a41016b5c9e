"""Worker side of benchmarks: tasks of lm-evaluation-harness by name, each document kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pyarrow as pa
import torch

from igds.errors import RequestError
from igds.models.load import ModelSpec, load_causal, load_tokenizer

WORK = "igds.evaluation.harness:HarnessWork"

DOCUMENTS = pa.schema(
    [
        pa.field("item", pa.string()),
        pa.field("metric", pa.string()),
        pa.field("value", pa.float64()),
    ]
)
"""One row a document and metric: `mmlu_anatomy/12`, `mmlu: acc`."""


class HarnessWork:
    """One benchmark task, or group of tasks, by one model."""

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        path: str | None,
        limit: int | None,
        seed: int,
        threads: int,
    ) -> None:
        """Load the model.

        Args:
            model: fields of a `ModelSpec`.
            path: folder with YAML of further tasks.
            limit: documents of each task.
            seed: of few-shot draws.
            threads: CPU threads of this worker.
        """
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        torch.set_num_threads(threads)
        spec, wrapped = ModelSpec(**model), cast("Any", HFLM)
        self._model = wrapped(
            pretrained=load_causal(spec), tokenizer=load_tokenizer(spec), batch_size=8
        )
        self._tasks = TaskManager(include_path=path)
        self._limit, self._seed = limit, seed

    def __call__(self, shard: Mapping[str, Any]) -> pa.Table:
        """Return `DOCUMENTS` of the shard's `task`.

        Raises:
            RequestError: there is no task of that name.
        """
        from lm_eval import simple_evaluate

        name = shard["task"]
        if name not in self._tasks.all_tasks:
            raise RequestError(f"evaluate.lm_eval: lm-evaluation-harness has no task {name!r}")
        found = cast("Any", simple_evaluate)(
            model=self._model,
            tasks=[name],
            task_manager=self._tasks,
            limit=self._limit,
            bootstrap_iters=0,
            random_seed=self._seed,
            numpy_random_seed=self._seed,
            torch_random_seed=self._seed,
            fewshot_random_seed=self._seed,
        )
        rows = [
            {**row, "metric": f"{name}: {row['metric']}"}
            for task, documents in found["samples"].items()
            for row in _values(task, documents)
        ]
        return pa.Table.from_pylist(rows, schema=DOCUMENTS)


def _values(task: str, documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each number that a task gives a document; what is no number has no mean."""
    for document in documents:
        kind = "" if document["filter"] == "none" else f",{document['filter']}"
        for metric in document["metrics"]:
            value = document[metric]
            if isinstance(value, bool | int | float) and math.isfinite(value):
                item = f"{task}/{document['doc_id']}"
                yield {"item": item, "metric": f"{metric}{kind}", "value": float(value)}
