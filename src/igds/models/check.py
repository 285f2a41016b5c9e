"""Checks by behaviour: of what reading at t* takes a model's blocks for, and of its numbers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from igds.errors import RequestError
from igds.models.blocks import decoder, decoder_blocks
from igds.models.capture import capture

_MOST_MOVED = 0.05
"""Share of a state's norm that rounding may move; a state that sees later tokens moves by more."""


def check_blocks(model: nn.Module) -> None:
    """Raise RequestError unless each block hands on one residual stream that only looks back.

    Padding follows t*, and a pool prompt is read without its response: a block that sees later
    tokens would be wrong without a word.
    """
    text = decoder(model)
    layers = range(len(decoder_blocks(model)))
    device = next(text.parameters()).device
    streams = []
    for later in (4, 5):
        ids = torch.tensor([[3, later]], device=device)
        with capture(text, layers, positions=torch.tensor([0])) as kept:
            text(input_ids=ids, use_cache=False)
        streams.append(torch.cat([kept[layer].float().cpu() for layer in layers]))
    moved = (streams[0] - streams[1]).norm(dim=1) / streams[0].norm(dim=1)
    if moved.max() > _MOST_MOVED:
        raise RequestError(
            f"{type(text).__name__} lets a token see those after it: features are read in models "
            "that only look back, as causal language models do"
        )


def check_finite(values: Float[Tensor, "*shape"], what: str) -> None:
    """Raise RequestError if a number is infinite or NaN: a feature reads there as inactive.

    Args:
        values: numbers that the model gave.
        what: what they are, with its block or stage.
    """
    if not values.isfinite().all():
        raise RequestError(
            f"{what} is infinite or NaN: float16 ends at 65,504, so set the model's dtype "
            "(model.dtype) to bfloat16 or float32; if it is, the checkpoint's weights are broken"
        )
