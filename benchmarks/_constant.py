"""Scoring with the model replaced by a constant: everything of the loop but the forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from igds.methods import work
from igds.models.load import ModelSpec, describe


class ConstantReader:
    """Reads rows as `PromptReader` does, and returns the same residual for each."""

    def __init__(self, model: Mapping[str, Any], layers: Sequence[int], batch_tokens: int) -> None:  # noqa: ARG002
        """Keep the model's width only."""
        spec = ModelSpec(**model)
        self._layers = list(layers)
        self._constant = torch.linspace(-1, 1, describe(spec).d_model)

    def residuals(self, rows: pa.Table) -> dict[int, Tensor]:
        """Return block -> the constant, [rows, d_model]."""
        ids = rows.column("prompt_ids").to_pylist()
        return {layer: self._constant.expand(len(ids), -1) for layer in self._layers}


class ConstantScoreWork(work.ScoreWork):
    """The score stage's work, fed by `ConstantReader`."""

    def __init__(self, **arguments: Any) -> None:
        """Put the constant in the model's place in this worker process."""
        work.PromptReader = ConstantReader  # type: ignore[assignment, misc]
        super().__init__(**arguments)
