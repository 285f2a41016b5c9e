"""Exact teacher-forced deltas: a prompt runs once, then every edit branches off at its block."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from igds.errors import RequestError
from igds.interventions.rules import Pushes
from igds.models.blocks import decoder
from igds.models.capture import capture
from igds.models.check import check_finite
from igds.models.edit import Change, branch, branch_along, edit
from igds.models.likelihood import kl_from_first, target_logprobs

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """One prompt, run once: what every branch of every block and response starts from."""

    prompt_ids: Sequence[int]
    """The prompt; its last token is at the read position t*."""
    cache: Cache | None
    """Keys and values of the tokens before t*, never written to; None when there are none."""
    states: dict[int, Float[Tensor, " d_model"]]
    """Layer -> block output at t*."""

    @property
    def token(self) -> int:
        """Return the id of the prompt's last token."""
        return self.prompt_ids[-1]

    @property
    def length(self) -> int:
        """Return the number of the prompt's tokens."""
        return len(self.prompt_ids)


class PushEffects(NamedTuple):
    """What pushes did to one response, on the CPU in float64."""

    by_token: Float[Tensor, "pushes tokens"]
    """Edited minus unedited log p of each response token, nats."""
    kl: Float[Tensor, " pushes"]
    """KL(unedited || edited) of the next token's distribution at t*, nats."""


@torch.no_grad()
def prompt_cache(model: PreTrainedModel, prompt_ids: Sequence[int]) -> Cache | None:
    """Return keys and values of the prompt's tokens before t*; None when there are none."""
    if len(prompt_ids) < 2:
        return None
    ids = torch.tensor([list(prompt_ids[:-1])], device=model.device)
    return decoder(model)(input_ids=ids, use_cache=True).past_key_values


@torch.no_grad()
def run_prefix(model: PreTrainedModel, prompt_ids: Sequence[int], layers: Iterable[int]) -> Prefix:
    """Return the prompt's cache before t* and the outputs of the blocks `layers` at t*.

    Raises:
        RequestError: an output is infinite or NaN.
    """
    cache = prompt_cache(model, prompt_ids)
    last = torch.tensor([[prompt_ids[-1]]], device=model.device)
    with capture(model, layers) as kept:
        decoder(model)(input_ids=last, past_key_values=share(cache), use_cache=cache is not None)
    states = {layer: state[0, -1].float() for layer, state in kept.items()}
    for layer, state in states.items():
        check_finite(state, f"the output of block {layer} at a read position")
    return Prefix(prompt_ids=prompt_ids, cache=cache, states=states)


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
def push_effects(
    model: PreTrainedModel,
    prefix: Prefix,
    pushes: Pushes,
    vectors: Float[Tensor, "pushes d_model"],
    response_ids: Sequence[int],
    *,
    batch_tokens: int,
) -> PushEffects:
    """Return what each push does to a response; exactly 0, and not run, where it adds nothing.

    Edits go in branch batches of at most `batch_tokens` tokens, each with its own unedited row, but
    of two rows at least, however long they are; the prompt counts too, since behind the edit each
    row holds its keys and values.

    Args:
        model: a causal model in eval mode.
        prefix: of the prompt.
        pushes: edits of one block.
        vectors: what each of them adds at t*.
        response_ids: the response that is teacher-forced.
        batch_tokens: tokens a branch batch.
    """
    layer, read = pushes.sae.layer, pushes.edit.position == "read"
    # What adds nothing at t* may still act at other tokens.
    live = [place for place, some in enumerate(vectors.any(dim=1).tolist()) if some or not read]
    by_token = torch.zeros(len(vectors), len(response_ids), dtype=torch.float64)
    kl = torch.zeros(len(vectors), dtype=torch.float64)
    targets = torch.tensor(response_ids, device=model.device)
    size = rows_a_batch(batch_tokens, prefix.length + len(response_ids))
    for start in range(0, len(live), size):
        places = live[start : start + size]
        change = branch(vectors[places]) if read else branch_along(pushes.take(places).added)
        hidden = branch_states(
            model, prefix, {layer: change}, len(places), response_ids,
            whole=pushes.edit.position == "all",
        )  # fmt: skip
        logprobs = response_logprobs(model, hidden, targets)
        by_token[places] = (logprobs[1:] - logprobs[0]).cpu().double()
        kl[places] = kl_from_first(model, hidden[:, 0]).cpu().double()
    return PushEffects(by_token=by_token, kl=kl)


@torch.no_grad()
def branch_states(
    model: PreTrainedModel,
    prefix: Prefix,
    changes: Mapping[int, Change],
    edits: int,
    response_ids: Sequence[int],
    *,
    whole: bool = False,
) -> Float[Tensor, "rows tokens d_model"]:
    """Return final hidden states of 1 + edits rows at t* and each response token but the last.

    Blocks up to the first edited one run at batch 1, later ones at 1 + edits rows. Tokens before t*
    are read from the prefix, unless `whole`: then edits are given them too, and they run with the
    rest.

    Args:
        model: a causal model in eval mode.
        prefix: of the prompt.
        changes: block -> what becomes of its output; that of the first block makes the rows.
        edits: rows beside the unedited one.
        response_ids: the response that is teacher-forced.
        whole: run the prompt again.
    """
    rows = 1 + edits
    start = prefix.prompt_ids if whole else prefix.prompt_ids[-1:]
    segment = torch.tensor([[*start, *response_ids[:-1]]], device=model.device)
    cache = None if whole else share(prefix.cache, expand_after=min(changes), rows=rows)
    with ExitStack() as stack:
        calls = {
            layer: stack.enter_context(edit(model, layer, change))
            for layer, change in changes.items()
        }
        hidden = decoder(model)(
            input_ids=segment, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
    assert calls == dict.fromkeys(changes, [rows]), f"edits saw {calls}, not {rows} rows once"
    return hidden[:, -len(response_ids) :]


@torch.no_grad()
def branch_logprobs(
    model: PreTrainedModel,
    prefix: Prefix,
    layer: int,
    vectors: Float[Tensor, "edits d_model"],
    response_ids: Sequence[int],
) -> Float[Tensor, "rows tokens"]:
    """Return log p of each response token, nats: row 0 unedited, row i with `vectors[i - 1]` at t*.

    For one branch batch of any size; see `push_effects` for features.
    """
    hidden = branch_states(model, prefix, {layer: branch(vectors)}, len(vectors), response_ids)
    return response_logprobs(model, hidden, torch.tensor(response_ids, device=model.device))


def response_logprobs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "rows tokens d_model"],
    targets: Int[Tensor, " tokens"],
) -> Float[Tensor, "rows tokens"]:
    """Return log p of each token of a response, nats, from the final hidden states of each row.

    Raises:
        RequestError: one is infinite or NaN.
    """
    found = target_logprobs(model, hidden, targets)
    check_finite(found, "the log-probability of a response's token")
    return found


def rows_a_batch(batch_tokens: int, length: int) -> int:
    """Return how many edits of a row of `length` tokens go in a batch, beside the unedited row.

    One at least, even where that row and the unedited one pass `batch_tokens`.
    """
    return max(1, batch_tokens // length - 1)


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
