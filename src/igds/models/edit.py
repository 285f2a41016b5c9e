"""The only context manager that changes what a model computes: one block's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from igds.models.blocks import block_output, decoder_blocks

Change = Callable[[Float[Tensor, "rows seq d_model"]], Float[Tensor, "changed seq d_model"]]
"""What becomes of a block's output; it must not write into what it is given."""


@contextmanager
def edit(model: nn.Module, layer: int, change: Change) -> Iterator[list[int]]:
    """Make block `layer` put out what `change` makes of its output.

    Gives a list that each call of the block lengthens by its number of rows, so that callers can
    count them. The SAE's error stays in the state, as nothing is replaced by a reconstruction.

    Raises:
        ValueError: the layer is outside the model.
    """
    blocks = decoder_blocks(model)
    if not 0 <= layer < len(blocks):
        raise ValueError(f"no block {layer}: the model has {len(blocks)} blocks")
    calls: list[int] = []

    def hook(_block: nn.Module, _inputs: tuple, output: Tensor | tuple[Any, ...]) -> object:
        changed = change(block_output(output))
        calls.append(len(changed))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = blocks[layer].register_forward_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def branch(vectors: Float[Tensor, "edits d_model"]) -> Change:
    """Return the change that turns one row into 1 + edits rows.

    Row 0 is the state as it is: the original arm of every comparison. Row i has `vectors[i - 1]`
    added at the first token of the input.

    Raises:
        ValueError: (when called) more than one row arrives at the block.
    """

    def change(hidden: Float[Tensor, "rows seq d_model"]) -> Float[Tensor, "new seq d_model"]:
        branched = _one_row(hidden).repeat(1 + len(vectors), 1, 1)
        branched[1:, 0] += vectors.to(hidden)
        return branched

    return change


def branch_along(
    added: Callable[[Float[Tensor, "seq d_model"]], Float[Tensor, "edits seq d_model"]],
) -> Change:
    """Return the change that turns one row into 1 + edits rows, edited at every token it is given.

    Row 0 is the state as it is. Row i has `added(state)[i - 1]` added, where the state is what
    enters this block's edit.

    Raises:
        ValueError: (when called) more than one row arrives at the block.
    """

    def change(hidden: Float[Tensor, "rows seq d_model"]) -> Float[Tensor, "new seq d_model"]:
        state = _one_row(hidden)
        return torch.cat([state, state + added(state[0]).to(state)])

    return change


def _one_row(hidden: Float[Tensor, "rows seq d_model"]) -> Float[Tensor, "1 seq d_model"]:
    """Return the state of a batch of one row."""
    if hidden.shape[0] != 1:
        raise ValueError(f"an edit branches from one row, not from {hidden.shape[0]}")
    return hidden
