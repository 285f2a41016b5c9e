"""The only context manager that changes what a model computes: one block's output at one token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from igds.models.blocks import block_output, decoder_blocks


@contextmanager
def edit(
    model: nn.Module, layer: int, vectors: Float[Tensor, "edits d_model"], *, position: int
) -> Iterator[None]:
    """Make block `layer` turn its one input row into 1 + edits rows for the blocks after it.

    Row 0 is the state as it is: the original arm of every comparison. Row i has `vectors[i - 1]`
    added at token `position` of the input, counted from 0. The SAE's error stays in the state,
    as nothing is replaced by a reconstruction. Inside the block exactly one forward must run.

    Raises:
        ValueError: the layer is outside the model, or more than one row arrives at the block.
    """
    blocks = decoder_blocks(model)
    if not 0 <= layer < len(blocks):
        raise ValueError(f"no block {layer}: the model has {len(blocks)} blocks")
    calls: list[int] = []
    handle = blocks[layer].register_forward_hook(_branch(vectors, position, calls))
    try:
        yield
        assert len(calls) == 1, f"the edit of block {layer} fired {len(calls)} times, not once"
    finally:
        handle.remove()


def _branch(vectors: Tensor, position: int, calls: list[int]) -> Callable[..., object]:
    """Return the hook that expands the row and adds the vectors."""

    def hook(_block: nn.Module, _inputs: tuple, output: Tensor | tuple[Any, ...]) -> object:
        hidden = block_output(output)
        if hidden.shape[0] != 1:
            raise ValueError(f"an edit branches from one row, not from {hidden.shape[0]}")
        calls.append(position)
        branched = hidden.repeat(1 + len(vectors), 1, 1)
        branched[1:, position] += vectors.to(hidden)
        return (branched, *output[1:]) if isinstance(output, tuple) else branched

    return hook
