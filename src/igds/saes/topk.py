"""TopK: which features are kept, and some of them without the others' weights in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 2048
"""Features whose encoder is multiplied at a time."""
_ROWS = 512
"""Rows that are multiplied at a time."""
_TIED_ROWS = 64
"""Rows whose pre-activations are held for all features at once."""


class EncoderBlock(NamedTuple):
    """Encoder of some neighbouring features."""

    start: int
    """Index of the first."""
    W_enc: Float[Tensor, "d_in block"]
    b_enc: Float[Tensor, " block"]


Blocks = Callable[[], Iterable[EncoderBlock]]
"""Gives the whole encoder, from the first feature to the last; called once a pass."""


def largest(pre: Float[Tensor, "n d_sae"], k: int) -> Bool[Tensor, "n d_sae"]:
    """Return where the k largest of each row are; of equal values the lowest index wins."""
    cut = pre.topk(k, dim=1).values[:, -1:]
    keep, ties = pre > cut, pre == cut
    return keep | (ties & (ties.cumsum(dim=1) <= k - keep.sum(dim=1, keepdim=True)))


def topk_columns(
    pre: Float[Tensor, "n columns"],
    x: Float[Tensor, "n d_in"],
    columns: Int[Tensor, " columns"],
    k: int,
    blocks: Blocks,
) -> Float[Tensor, "n columns"]:
    """Return the activations of some features among the k largest of all, 0 or more.

    Args:
        pre: the features' pre-activations.
        x: the encoder's input, centred where the SAE asks for it.
        columns: the features.
        k: how many are kept a row.
        blocks: the encoder of all features.
    """
    acts = torch.zeros_like(pre)
    # Other features matter only where one of these is positive.
    live = (pre > 0).any(dim=1).nonzero()[:, 0]
    if len(live):
        acts[live] = _live_columns(x[live], columns, k, blocks)
    return acts


def _live_columns(
    x: Float[Tensor, "n d_in"], columns: Int[Tensor, " columns"], k: int, blocks: Blocks
) -> Float[Tensor, "n columns"]:
    """Return the activations from one pass over the blocks, each met by all rows."""
    wanted = x.new_empty(len(x), len(columns))
    # One value more than k: where it equals the k-th, a tie is cut.
    best = x.new_full((len(x), k + 1), -torch.inf)
    for block in blocks():
        here = (columns >= block.start) & (columns < block.start + len(block.b_enc))
        for rows in torch.arange(len(x)).split(_ROWS):
            pre = x[rows] @ block.W_enc + block.b_enc
            # Wanted values come from the same product as the cut, so rounding cannot part them.
            wanted[rows[:, None], here.nonzero()[:, 0]] = pre[:, columns[here] - block.start]
            found = pre.topk(min(k + 1, pre.shape[1]), dim=1).values
            best[rows] = torch.cat([best[rows], found], dim=1).topk(k + 1, dim=1).values
    cut, following = best[:, k - 1 : k], best[:, k]
    acts = wanted.relu() * (wanted >= cut)
    tied = ((wanted == cut) & (cut > 0)).any(dim=1) & (cut[:, 0] == following)
    for rows in tied.nonzero()[:, 0].split(_TIED_ROWS):
        pre = torch.cat([x[rows] @ block.W_enc + block.b_enc for block in blocks()], dim=1)
        acts[rows] = (pre.relu() * largest(pre, k))[:, columns]
    return acts
