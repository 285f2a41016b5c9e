"""Gradient screen: estimates of every feature's delta from a few backward passes a prompt.

`attribution` takes the gradient at the state as it is: one forward and one backward pass serve the
features of all blocks. `integrated` takes its mean along the edit: integrated gradients in 10
steps, as Marks et al. 2024 (Sparse Feature Circuits, arXiv 2403.19647) do with the activations of a
whole SAE. Theirs go from the clean to the patched activations; here the named features of a block
go together from a to the a' of the edit,

    h(s) = h + s * sum_f (a'_f - a_f) W_dec[f],    s = 0.05, 0.15 .. 0.95,

and a feature's estimate is its own push times the mean over s of the gradient at h(s) of the mean
log p of the response. One set of 10 passes serves all features of a block, and their estimates add
up to the delta of editing them all at once: what is saturated or asleep at h shows as it moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from igds.features import FeatureId
from igds.interventions.exact import prompt_cache, share
from igds.interventions.examples import Example
from igds.interventions.rules import Edit, Position, Screen
from igds.models.blocks import decoder
from igds.models.capture import capture
from igds.models.check import check_finite
from igds.models.edit import edit as edit_block
from igds.models.likelihood import target_gradient
from igds.reading.activations import Group, group_by_layer
from igds.saes.sae import FeatureEncoder

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

Found = tuple[Float[Tensor, "tokens features"], Float[Tensor, "tokens d_model"]]
"""Activations and gradients at the edited tokens, float32 on the CPU."""
STEPS = 10
"""Points of the path that integrated gradients are taken at."""


def gradient_screen(
    model: PreTrainedModel,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    examples: Sequence[Example],
    *,
    edit: Edit | None = None,
    screen: Screen = "attribution",
    batch_tokens: int = 4096,
) -> pa.Table:
    """Return feature, row_id, activation (at t*) and screen, one row an example and feature.

    `screen` estimates the delta in nats per response token, see the module. Frozen weights make it
    cheaper.

    Args:
        model: a causal model in eval mode.
        saes: one SAE a block.
        features: those that are to be edited, one at a time.
        examples: where; their responses are teacher-forced.
        edit: what would be done to each feature; amplified once at t* when absent.
        screen: where gradients are taken.
        batch_tokens: tokens of a batch of steps.

    Raises:
        RequestError: a gradient is infinite or NaN.
    """
    edit, groups, parts = edit or Edit(), group_by_layer(saes, features), []
    measure = _attribution if screen == "attribution" else _integrated
    for example in examples:
        found = measure(model, example, groups, edit, batch_tokens)
        for (sae, indices), (acts, grads) in zip(groups, found, strict=True):
            check_finite(grads, f"the screen's gradient at block {sae.layer}")
            slopes = grads @ sae.decoder_rows(indices).T
            amounts = edit.amounts(sae.layer, indices, acts)
            at_read = len(example.prompt_ids) - 1 if edit.position == "all" else 0
            parts.append(
                pa.table(
                    {
                        "feature": [str(FeatureId(sae.layer, index)) for index in indices],
                        "row_id": [example.row_id] * len(indices),
                        "activation": acts[at_read].double().numpy(),
                        "screen": (edit.coefficient * amounts * slopes).sum(0).double().numpy(),
                    }
                )
            )
    return pa.concat_tables(parts)


def token_gradients(
    model: PreTrainedModel, example: Example, layers: Sequence[int], position: Position
) -> dict[int, tuple[Float[Tensor, "tokens d_model"], Float[Tensor, "tokens d_model"]]]:
    """Return layer -> (h, gradient of the mean response log p at h) at the tokens that are edited.

    Float32 on the CPU. The tokens before t* run without a graph unless they are edited too, and
    nothing below the first of the layers is differentiated: at `read` a prompt costs about one
    forward and one backward over its response.
    """
    ids, cache = _inputs(model, example, position)
    with capture(model, layers, grad=True) as kept:
        hidden = decoder(model)(
            input_ids=ids, past_key_values=share(cache), use_cache=cache is not None
        ).last_hidden_state
    grads = _gradients(model, hidden, example, [kept[layer] for layer in layers])
    tokens = _tokens(position)
    return {
        layer: (kept[layer][0, tokens].detach().float().cpu(), grad[0, tokens].float().cpu())
        for layer, grad in zip(layers, grads, strict=True)
    }


def _attribution(
    model: PreTrainedModel, example: Example, groups: Sequence[Group], edit: Edit, _batch: int
) -> list[Found]:
    """Return activations and gradients of each group at the states as they are."""
    found = token_gradients(model, example, [sae.layer for sae, _ in groups], edit.position)
    return [
        (sae.encode_columns(found[sae.layer][0], indices), found[sae.layer][1])
        for sae, indices in groups
    ]


def _integrated(
    model: PreTrainedModel, example: Example, groups: Sequence[Group], edit: Edit, batch_tokens: int
) -> list[Found]:
    """Return activations of each group, and gradients averaged along its edit."""
    ids, cache = _inputs(model, example, edit.position)
    size = max(1, batch_tokens // (len(example.prompt_ids) + len(example.response_ids)))
    found = []
    for sae, indices in groups:
        parts = [
            _path_gradients(model, example, ids, cache, (sae, indices), edit, steps)
            for steps in ((torch.arange(STEPS) + 0.5) / STEPS).split(size)
        ]
        found.append((parts[0][0], torch.stack([grads for _, grads in parts]).sum(0) / STEPS))
    return found


def _path_gradients(
    model: PreTrainedModel,
    example: Example,
    ids: Int[Tensor, "1 seq"],
    cache: Cache | None,
    group: Group,
    edit: Edit,
    steps: Float[Tensor, " steps"],
) -> Found:
    """Return activations, and the sum of the gradients at some points of a block's path.

    The points are rows of one batch, which branch at the block.
    """
    (sae, indices), tokens = group, _tokens(edit.position)
    acts: list[Tensor] = []

    def along(hidden: Float[Tensor, "rows seq d_model"]) -> Float[Tensor, "new seq d_model"]:
        state = hidden.detach()
        acts.append(sae.encode_columns(state[0, tokens].float().cpu(), indices))
        amounts = edit.coefficient * edit.amounts(sae.layer, indices, acts[0])
        joint = torch.zeros_like(state[0])
        joint[tokens] = (amounts @ sae.decoder_rows(indices)).to(state)
        return state + steps.to(state)[:, None, None] * joint

    shared = share(cache, expand_after=sae.layer, rows=len(steps))
    with (
        edit_block(model, sae.layer, along) as calls,
        capture(model, [sae.layer], grad=True) as kept,
    ):
        hidden = decoder(model)(
            input_ids=ids, past_key_values=shared, use_cache=cache is not None
        ).last_hidden_state
    assert calls == [len(steps)], f"the edit of block {sae.layer} fired {len(calls)} times"
    (grads,) = _gradients(model, hidden, example, [kept[sae.layer]])
    return acts[0], grads[:, tokens].float().sum(0).cpu()


def _inputs(
    model: PreTrainedModel, example: Example, position: Position
) -> tuple[Int[Tensor, "1 seq"], Cache | None]:
    """Return the tokens from the first edited one on, and the cache of those before."""
    whole = position == "all"
    start = example.prompt_ids if whole else example.prompt_ids[-1:]
    ids = torch.tensor([[*start, *example.response_ids[:-1]]], device=model.device)
    return ids, None if whole else prompt_cache(model, example.prompt_ids)


def _tokens(position: Position) -> slice:
    """Return which of the tokens from the first edited one on are edited."""
    return slice(0, 1) if position == "read" else slice(None)


def _gradients(
    model: PreTrainedModel,
    hidden: Float[Tensor, "rows seq d_model"],
    example: Example,
    states: Sequence[Float[Tensor, "rows seq d_model"]],
) -> list[Float[Tensor, "rows seq d_model"]]:
    """Return the gradient of each row's mean response log p with respect to states of that row."""
    rows, length = len(hidden), len(example.response_ids)
    targets = torch.tensor(list(example.response_ids), device=model.device)
    final = hidden[:, -length:]
    _, upstream = target_gradient(model, final.flatten(0, 1), targets.repeat(rows))
    return list(torch.autograd.grad(final, list(states), rows * upstream.view(final.shape)))
