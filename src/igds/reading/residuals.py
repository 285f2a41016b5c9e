"""Residuals at the read position: what every feature's activation is computed from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from igds.models.blocks import decoder
from igds.models.capture import capture
from igds.reading.batches import plan_batches


def read_positions(mask: Int[Tensor, "batch seq"]) -> Int[Tensor, " batch"]:
    """Return the place of the last prompt token (t*) of each row, whichever side is padded."""
    return mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)


def pad_right(
    token_ids: Sequence[Sequence[int]],
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Return the prompts as one matrix of token ids, and its mask: 1 where there is a token.

    Raises:
        ValueError: a prompt has no token, hence no read position.
    """
    lengths = torch.tensor([len(ids) for ids in token_ids])
    if not lengths.all():
        raise ValueError(f"prompt {int(lengths.argmin())} has no tokens, so nothing to read at")
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    # Padding follows t*, which causal attention keeps it from reaching: any token id will do.
    ids = torch.zeros_like(mask)
    ids[mask.bool()] = torch.tensor([token for row in token_ids for token in row])
    return ids, mask


def residuals_at_read(
    model: nn.Module, token_ids: Sequence[Sequence[int]], layers: Iterable[int], batch_tokens: int
) -> dict[int, Float[Tensor, "rows d_model"]]:
    """Return block -> its output at each prompt's last token, float32 on the CPU, in row order.

    Args:
        model: a decoder, with or without its head, which is not run; a model cut after the
            deepest of the layers is the fast one.
        token_ids: one list a prompt, ending at the read position (t*).
        layers: decoder blocks to read.
        batch_tokens: padded tokens a forward batch.

    Raises:
        ValueError: a prompt has no tokens, or the model lacks one of the layers.
    """
    text = decoder(model)
    layers = sorted(set(layers))
    d_model, device = text.config.hidden_size, next(text.parameters()).device
    read = {layer: torch.empty(len(token_ids), d_model) for layer in layers}
    for rows in plan_batches([len(ids) for ids in token_ids], batch_tokens):
        ids, mask = (side.to(device) for side in pad_right([token_ids[row] for row in rows]))
        with capture(text, layers, positions=read_positions(mask)) as kept:
            text(input_ids=ids, attention_mask=mask, use_cache=False)
        for layer, hidden in kept.items():
            read[layer][rows] = hidden.float().cpu()
    return read
