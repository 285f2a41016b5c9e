"""Exact teacher-forced deltas: a prompt runs once, then every edit branches off at its block."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from igds.errors import RequestError
from igds.models.blocks import decoder
from igds.models.capture import capture
from igds.models.edit import branch, edit
from igds.models.likelihood import target_logprobs

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """One prompt, run once: what every branch of every block and response starts from."""

    token: int
    """Id of the prompt's last token, at the read position t*."""
    cache: Cache | None
    """Keys and values of the tokens before t*, never written to; None when there are none."""
    states: dict[int, Float[Tensor, " d_model"]]
    """Layer -> block output at t*."""
    length: int
    """Tokens of the prompt."""


@torch.no_grad()
def prompt_cache(model: PreTrainedModel, prompt_ids: Sequence[int]) -> Cache | None:
    """Return keys and values of the prompt's tokens before t*; None when there are none."""
    if len(prompt_ids) < 2:
        return None
    ids = torch.tensor([list(prompt_ids[:-1])], device=model.device)
    return decoder(model)(input_ids=ids, use_cache=True).past_key_values


@torch.no_grad()
def run_prefix(model: PreTrainedModel, prompt_ids: Sequence[int], layers: Iterable[int]) -> Prefix:
    """Return the prompt's cache before t* and the outputs of the blocks `layers` at t*."""
    cache = prompt_cache(model, prompt_ids)
    last = torch.tensor([[prompt_ids[-1]]], device=model.device)
    with capture(model, layers) as kept:
        decoder(model)(input_ids=last, past_key_values=share(cache), use_cache=cache is not None)
    states = {layer: state[0, -1].float() for layer, state in kept.items()}
    return Prefix(token=prompt_ids[-1], cache=cache, states=states, length=len(prompt_ids))


def share(cache: Cache | None, *, expand_after: int | None = None, rows: int = 1) -> Cache | None:
    """Return a cache that grows by itself over the same keys and values, which stay untouched.

    The layers behind block `expand_after` hold `rows` copies of the single row.

    Raises:
        RequestError: the model keeps a state other than keys and values.
    """
    from transformers.cache_utils import DynamicLayer

    if cache is None:
        return None
    own_cache = copy.copy(cache)
    own_cache.layers = []
    for place, layer in enumerate(cache.layers):
        if not isinstance(layer, DynamicLayer):
            raise RequestError(
                f"block {place} keeps its past in a {type(layer).__name__}: interventions need "
                "models whose blocks all have plain attention"
            )
        # Keys and values grow by concatenation into new tensors: a shallow copy is enough.
        own = copy.copy(layer)
        if expand_after is not None and place > expand_after:
            own.batch_repeat_interleave(rows)
        own_cache.layers.append(own)
    return own_cache


@torch.no_grad()
def branch_logprobs(
    model: PreTrainedModel,
    prefix: Prefix,
    layer: int,
    vectors: Float[Tensor, "edits d_model"],
    response_ids: Sequence[int],
) -> Float[Tensor, "rows tokens"]:
    """Return log p of each response token, nats: row 0 unedited, row i under `vectors[i - 1]`.

    The edit is at t*. Tokens before it are read from the prefix, blocks up to `layer` run at
    batch 1, later ones and the head at 1 + edits rows.
    """
    rows = 1 + len(vectors)
    targets = torch.tensor(response_ids, device=model.device)
    segment = torch.tensor([[prefix.token, *response_ids[:-1]]], device=model.device)
    cache = share(prefix.cache, expand_after=layer, rows=rows)
    with edit(model, layer, branch(vectors, 0)) as calls:
        hidden = decoder(model)(
            input_ids=segment, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
    assert calls == [rows], f"the edit of block {layer} fired {len(calls)} times, not once"
    return target_logprobs(model, hidden, targets)


def exact_deltas(
    model: PreTrainedModel,
    prefix: Prefix,
    layer: int,
    vectors: Float[Tensor, "edits d_model"],
    response_ids: Sequence[int],
    *,
    batch_tokens: int,
) -> Float[Tensor, "edits tokens"]:
    """Return edited minus unedited log p of each response token, nats, one row an edit.

    Edits go in branch batches of at most `batch_tokens` tokens, each with its own unedited row;
    the prompt counts too, since behind the edit each row holds its keys and values.
    """
    if not len(vectors):
        return vectors.new_empty(0, len(response_ids))
    size = max(1, batch_tokens // (prefix.length + len(response_ids)) - 1)
    parts = []
    for chunk in vectors.split(size):
        logprobs = branch_logprobs(model, prefix, layer, chunk, response_ids)
        parts.append(logprobs[1:] - logprobs[0])
    return torch.cat(parts)


def check_branches(model: PreTrainedModel) -> None:
    """Raise RequestError unless the blocks behind an edit go on with more rows than came in.

    Some architectures take the number of rows from the input once, for all blocks.
    """
    prefix, nothing = run_prefix(model, [3, 4, 5], [0]), torch.zeros(1, 1, device=model.device)
    vectors = nothing.expand(1, prefix.states[0].shape[0])
    try:
        plain, edited = branch_logprobs(model, prefix, 0, vectors, [6, 7])
    except RuntimeError as error:
        raise RequestError(
            f"{type(model).__name__} cannot be edited: a block takes no more rows than its input "
            f"has ({error})"
        ) from error
    if (plain - edited).abs().max() > 0.05:
        raise RequestError(f"{type(model).__name__} cannot be edited: its rows do not stay apart")
