"""The read-only context manager on a model: keeps what chosen decoder blocks put out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from igds.models.blocks import block_output, decoder_blocks

Kept = dict[int, Float[Tensor, "batch *seq d_model"]]


@contextmanager
def capture(
    model: nn.Module,
    layers: Iterable[int],
    *,
    positions: Int[Tensor, " batch"] | None = None,
    grad: bool = False,
) -> Iterator[Kept]:
    """Give a dict that each forward inside the block fills: layer -> the block's output.

    The values are `[batch, seq, d_model]`, or `[batch, d_model]` when `positions` names one token
    a row. With `grad` they stay part of the graph, so `torch.autograd.grad` can be taken with
    respect to them; nothing before the first of the layers is then differentiated. Without it
    the forward runs under `no_grad`.

    Raises:
        ValueError: a layer is outside the model, or `grad` comes with `positions` (a row picked
            from the output lies off the path to the loss).
    """
    if grad and positions is not None:
        raise ValueError("capture(grad=True) keeps whole block outputs: pick positions afterwards")
    blocks = decoder_blocks(model)
    kept: Kept = {}
    handles = []
    try:
        for layer in sorted(set(layers)):
            if not 0 <= layer < len(blocks):
                raise ValueError(f"no block {layer}: the model as loaded has {len(blocks)} blocks")
            hook = _keep(kept, layer, positions, grad)
            handles.append(blocks[layer].register_forward_hook(hook))
        with torch.set_grad_enabled(grad):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


def _keep(kept: Kept, layer: int, positions: Tensor | None, grad: bool) -> Callable[..., None]:
    """Return the hook that stores one block's output and leaves it as it is."""

    def hook(_block: nn.Module, _inputs: tuple, output: Tensor | tuple[Any, ...]) -> None:
        hidden = block_output(output)
        if grad and not hidden.requires_grad:
            # The weights are frozen: the graph starts at the first block that is captured.
            hidden.requires_grad_(True)
        if positions is not None:
            rows = torch.arange(hidden.shape[0], device=hidden.device)
            hidden = hidden[rows, positions.to(hidden.device)]
        kept[layer] = hidden

    return hook
