"""Generated outputs under amplification: candidates decoded together from one shared prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from igds.interventions.exact import Prefix, share
from igds.interventions.rules import Edit, Pushes
from igds.models.blocks import decoder
from igds.models.decode import Choose, During, Rows, decode
from igds.models.edit import Change, branch, edit
from igds.models.likelihood import head_logits
from igds.saes.sae import FeatureEncoder

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@torch.no_grad()
def branches(
    model: PreTrainedModel,
    prefix: Prefix,
    edits: Mapping[int, Float[Tensor, "edits d_model"]],
    *,
    samples: int,
    room: int,
) -> tuple[Cache, Float[Tensor, "rows vocab"]]:
    """Return the cache after t* and the next token's logits: row 0 unedited, then each edit.

    Edits at t* of different blocks share one cache, as they differ only in it.

    Args:
        model: a causal model in eval mode.
        prefix: of the prompt; it stays untouched.
        edits: block -> vectors that are added to its output at t*, one row each.
        samples: copies of each row.
        room: tokens that the cache can grow by.
    """
    from igds.models.roomy_cache import roomy_cache

    parts, logits = [], []
    for layer, vectors in edits.items():
        rows = 1 + len(vectors)
        cache = share(_started(model, prefix), expand_after=layer, rows=rows)
        assert cache is not None, "a started cache is shared as one"
        token = torch.tensor([[prefix.token]], device=model.device)
        with edit(model, layer, branch(vectors)) as calls:
            hidden = decoder(model)(
                input_ids=token, past_key_values=cache, use_cache=True
            ).last_hidden_state
        assert calls == [rows], f"the edit of block {layer} fired {len(calls)} times"
        first = 0 if not parts else 1  # one unedited row is enough
        parts.append((cache, range(first, rows)))
        logits.append(head_logits(model, hidden[:, -1])[first:])
    cache = roomy_cache(parts, copies=samples, room=room)
    return cache, torch.cat(logits).repeat_interleave(samples, dim=0)


def generate_read(
    model: PreTrainedModel,
    prefix: Prefix,
    edits: Mapping[int, Float[Tensor, "edits d_model"]],
    *,
    choose: Choose,
    samples: int,
    max_new_tokens: int,
    stop_ids: Sequence[int],
) -> list[list[list[int]]]:
    """Return outputs [1 + edits][samples] as token ids: edited at t* only, all blocks together."""
    return _decoded(model, prefix, edits, choose, samples, max_new_tokens, stop_ids, None)


def generate_always(
    model: PreTrainedModel,
    prefix: Prefix,
    sae: FeatureEncoder,
    indices: Sequence[int],
    change: Edit,
    *,
    choose: Choose,
    samples: int,
    max_new_tokens: int,
    stop_ids: Sequence[int],
) -> list[list[list[int]]]:
    """Return outputs [1 + features][samples]: edited at t* and at every later token.

    The activation is computed from the state that enters the hook at each step, so a feature that
    is amplified and falls silent adds nothing more. All features are of one block.
    """
    pushes = change.pushes(sae, indices, model.device)
    vectors = pushes.added(prefix.states[sae.layer][None])[:, 0]
    owner = torch.arange(1 + len(indices)).repeat_interleave(samples)

    def during(rows: Rows) -> AbstractContextManager[list[int]]:
        own = owner[rows]
        return edit(model, sae.layer, edited(pushes, own) if own.any() else lambda hidden: hidden)

    edits = {sae.layer: vectors}
    return _decoded(model, prefix, edits, choose, samples, max_new_tokens, stop_ids, during)


def edited(pushes: Pushes, owner: Int[Tensor, " rows"]) -> Change:
    """Return the change that edits a feature of its own in each row, at each token it is given.

    Args:
        pushes: edits of the block's features.
        owner: 0 for rows that stay as they are, else 1 + the place of the row's push.
    """
    live = owner > 0
    places = owner[live] - 1

    def change(hidden: Float[Tensor, "rows seq d_model"]) -> Float[Tensor, "rows seq d_model"]:
        own = live.to(hidden.device)
        rows = hidden[own]
        amounts = pushes.amounts(pushes.acts(rows.flatten(0, 1))).view(*rows.shape[:2], -1)
        wanted = amounts.gather(2, places[:, None, None].expand(-1, rows.shape[1], 1))
        added = wanted.to(hidden.device) * pushes.directions[places].to(hidden.device)[:, None]
        changed = hidden.clone()
        changed[own] += added.to(hidden)
        return changed

    return change


def _decoded(
    model: PreTrainedModel,
    prefix: Prefix,
    edits: Mapping[int, Float[Tensor, "edits d_model"]],
    choose: Choose,
    samples: int,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    during: During | None,
) -> list[list[list[int]]]:
    """Return [1 + edits][samples] token ids that the unedited and each edited row go on with."""
    cache, logits = branches(model, prefix, edits, samples=samples, room=max_new_tokens)
    found = decode(
        model,
        cache,
        logits,
        choose=choose,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        during=during,
    )
    return [found[start : start + samples] for start in range(0, len(found), samples)]


def _started(model: PreTrainedModel, prefix: Prefix) -> Cache:
    """Return the prompt's cache before t*, an empty one where the prompt is a single token."""
    from transformers import DynamicCache

    return prefix.cache or DynamicCache(config=decoder(model).config)
