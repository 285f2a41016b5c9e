"""Log-probabilities of given tokens, the head run in blocks that stay in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from igds.errors import RequestError
from igds.models.blocks import decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROWS, _VOCAB = 512, 2048
"""Logits at a time, 4 MB in float32: whole rows of logits would take gigabytes, and the sum over
the vocabulary would wait for memory longer than the head computes."""


def head_logits(
    model: PreTrainedModel, hidden: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows vocab"]:
    """Return float32 logits of final hidden states, soft-capped where the model does so."""
    head = _head(model)
    return _capped(model, functional.linear(hidden, head.weight, head.bias))


def target_logprobs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "rows tokens d_model"],
    targets: Int[Tensor, " tokens"],
) -> Float[Tensor, "rows tokens"]:
    """Return log p(target) at each position of each row, in nats; all rows share the targets."""
    states = hidden.flatten(0, 1)
    total = torch.cat([_logsumexp(model, part) for part in states.split(_ROWS)])
    head = _head(model)
    chosen = torch.einsum("rtd,td->rt", hidden.float(), head.weight[targets].float())
    if head.bias is not None:
        chosen = chosen + head.bias[targets]
    return _capped(model, chosen) - total.view(chosen.shape)


def target_gradient(
    model: PreTrainedModel,
    hidden: Float[Tensor, "tokens d_model"],
    targets: Int[Tensor, " tokens"],
) -> tuple[float, Float[Tensor, "tokens d_model"]]:
    """Return the mean log p(target) in nats and its gradient with respect to the hidden states."""
    total, grads = 0.0, []
    rows = max(1, _ROWS * _VOCAB // _head(model).weight.shape[0])
    with torch.enable_grad():
        for part, ids in zip(hidden.detach().split(rows), targets.split(rows), strict=True):
            leaf = part.clone().requires_grad_(True)
            loss = functional.cross_entropy(head_logits(model, leaf), ids, reduction="sum")
            grads.append(torch.autograd.grad(-loss / len(targets), leaf)[0])
            total -= loss.item()
    return total / len(targets), torch.cat(grads)


def check_head(model: PreTrainedModel) -> None:
    """Raise RequestError unless `head_logits` gives this model's own logits.

    Some architectures scale or shift their logits by settings of their own; a delta computed
    without them would be wrong without a word.
    """
    ids = torch.arange(4, device=_head(model).weight.device)[None]
    with torch.no_grad():
        own = model(input_ids=ids, use_cache=False).logits[0].float()
        hidden = decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
        ours = head_logits(model, hidden[0])
    if not torch.allclose(own, ours, rtol=1e-3, atol=1e-3 * float(own.abs().max())):
        raise RequestError(
            f"{type(model).__name__} changes its logits in a way igds does not know: "
            "interventions need a model whose logits are its head's, soft-capped at most"
        )


def _head(model: PreTrainedModel) -> nn.Linear:
    """Return the language-modelling head.

    Raises:
        RequestError: the model has none, or it is not a plain matrix.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise RequestError(f"{type(model).__name__} has no linear language-modelling head")
    return head


def _logsumexp(
    model: PreTrainedModel, hidden: Float[Tensor, "rows d_model"]
) -> Float[Tensor, " rows"]:
    """Return the log of the summed exponentials of the logits, a block of the vocabulary a time."""
    head = _head(model)
    weights = head.weight.split(_VOCAB)
    biases = [None] * len(weights) if head.bias is None else head.bias.split(_VOCAB)
    parts = [
        _capped(model, functional.linear(hidden, weight, bias)).logsumexp(1)
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return torch.stack(parts).logsumexp(0)


def _capped(model: PreTrainedModel, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return logits in float32 after the model's own soft cap, if it has one."""
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    logits = logits.float()
    return logits if cap is None else cap * torch.tanh(logits / cap)
