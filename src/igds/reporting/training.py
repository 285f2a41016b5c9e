"""What fine-tuning and evaluation left in a run folder, read into frozen values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from igds.reporting.artifacts import read_json, read_table, require_keys
from igds.reporting.values import Evaluation, Interval, Measured, Training
from igds.stats.null import or_nan

_TRAINED = ("rows", "left_out", "truncated", "steps", "tokens", "response_tokens", "learning_rate")
_MEAN = ("mean", "low", "high", "n")


def read_training(folder: Path) -> Training:
    """Return the fine-tuning of a run.

    Raises:
        RequestError: an artifact misses, or lacks a column or key.
    """
    path = folder / "summary.json"
    summary = read_json(path, ("engine", "model", "rows"))
    if summary["engine"] != "trl":
        require_keys(path, "the summary", ("notes",), summary)
        empty = np.array([])
        return Training(
            summary=summary, steps=empty.astype(np.int64), loss=empty, learning_rate=empty
        )
    require_keys(path, "the summary", _TRAINED, summary)
    log = read_table(folder / "log.parquet", ("step", "loss", "learning_rate"))
    return Training(
        summary=summary,
        steps=log["step"].to_numpy(),
        loss=log["loss"].to_numpy(),
        learning_rate=log["learning_rate"].to_numpy(),
    )


def read_evaluation(folder: Path) -> Evaluation:
    """Return the evaluation of a run.

    Raises:
        RequestError: an artifact misses, or lacks a key.
    """
    path = folder / "results.json"
    found = read_json(path, ("models", "differences", "names", "dtype", "rows", "outputs"))
    models = {
        model: {metric: _measured(path, metric, mean) for metric, mean in means.items()}
        for model, means in found["models"].items()
    }
    differences = {
        metric: _measured(path, metric, mean) for metric, mean in found["differences"].items()
    }
    return Evaluation(models=models, differences=differences, facts=found)


def _measured(path: Path, place: str, mean: dict[str, Any]) -> Measured:
    require_keys(path, place, _MEAN, mean)
    value, low, high = (or_nan(mean[name]) for name in _MEAN[:3])
    return Measured(mean=Interval(value=value, low=low, high=high), n=mean["n"])
