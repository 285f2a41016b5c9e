"""Scoring with the model replaced by a constant: everything of the loop but the forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from igds.data.tokens import encode_prompts
from igds.methods import work
from igds.models.load import ModelSpec, describe, load_tokenizer


class ConstantReader:
    """Tokenizes prompts as `PromptReader` does, and returns the same residual for each."""

    def __init__(self, model: Mapping[str, Any], layers: Sequence[int], batch_tokens: int) -> None:  # noqa: ARG002
        """Load the tokenizer only."""
        spec = ModelSpec(**model)
        self._tokenizer = load_tokenizer(spec)
        self._layers = list(layers)
        self._constant = torch.linspace(-1, 1, describe(spec).d_model)

    def residuals(self, prompts: Sequence[str]) -> dict[int, Tensor]:
        """Return block -> the constant, [prompts, d_model]."""
        rows = len(encode_prompts(self._tokenizer, list(prompts)))
        return {layer: self._constant.expand(rows, -1) for layer in self._layers}


class ConstantScoreWork(work.ScoreWork):
    """The score stage's work, fed by `ConstantReader`."""

    def __init__(self, **arguments: Any) -> None:
        """Put the constant in the model's place in this worker process."""
        work.PromptReader = ConstantReader  # type: ignore[assignment, misc]
        super().__init__(**arguments)
