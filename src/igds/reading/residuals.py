"""Residuals at the read position: what every feature's activation is computed from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from igds.models.blocks import decoder
from igds.models.capture import capture
from igds.models.check import check_finite
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
    model: nn.Module,
    token_ids: Sequence[Sequence[int]],
    layers: Iterable[int],
    batch_tokens: int,
    *,
    finite: bool = True,
) -> dict[int, Float[Tensor, "rows d_model"]]:
    """Return block -> its output at each prompt's last token, float32 on the CPU, in row order.

    Args:
        model: a decoder, with or without its head, which is not run; a model cut after the
            deepest of the layers is the fast one.
        token_ids: one list a prompt, ending at the read position (t*).
        layers: decoder blocks to read.
        batch_tokens: padded tokens a forward batch.
        finite: refuse outputs that are infinite or NaN.

    Raises:
        ValueError: a prompt has no tokens, the model lacks one of the layers, or an output is
            infinite or NaN.
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
            states = hidden.float().cpu()
            if finite:
                check_finite(states, f"the output of block {layer} at a read position")
            read[layer][rows] = states
    return read


def residuals_at_tokens(
    model: nn.Module,
    token_ids: Sequence[Sequence[int]],
    layers: Iterable[int],
    wanted: Bool[Tensor, " tokens"],
    batch_tokens: int,
) -> dict[int, Float[Tensor, "wanted d_model"]]:
    """Return block -> its output at chosen tokens of the prompts, float32 on the CPU, in order.

    Args:
        model: as for `residuals_at_read`.
        token_ids: one list a prompt.
        layers: decoder blocks to read.
        wanted: which tokens to keep, all prompts one after the other; memory is theirs and that
            of one batch.
        batch_tokens: padded tokens a forward batch.

    Raises:
        ValueError: a prompt has no tokens, the model lacks one of the layers, or an output is
            infinite or NaN.
    """
    text = decoder(model)
    layers = sorted(set(layers))
    d_model, device = text.config.hidden_size, next(text.parameters()).device
    lengths = torch.tensor([len(ids) for ids in token_ids])
    starts, places = lengths.cumsum(0) - lengths, wanted.cumsum(0) - 1
    read = {layer: torch.empty(int(wanted.sum()), d_model) for layer in layers}
    for rows in plan_batches(lengths.tolist(), batch_tokens):
        ids, mask = pad_right([token_ids[row] for row in rows])
        # Padding is clamped to some token of the set, and the mask leaves it out.
        token = (starts[rows, None] + torch.arange(mask.shape[1])).clamp(max=len(wanted) - 1)
        keep = mask.bool() & wanted[token]
        with capture(text, layers) as kept:
            text(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        for layer, hidden in kept.items():
            states = hidden[keep].float().cpu()
            check_finite(states, f"the output of block {layer} at a token")
            read[layer][places[token[keep]]] = states
    return read
