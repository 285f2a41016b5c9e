"""Log-probabilities of given tokens, the head run in blocks that stay in the cache.

Log-probabilities and divergences multiply by the head in float32, whatever the model's dtype: a
logit of 30 that is rounded to bfloat16 is off by up to 0.06, so that a sum of rounded exponentials
can even be smaller than the chosen token's own. Tokens are picked, and gradients taken, by logits
as the model itself rounds them.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    """Return logits of final hidden states, scaled or soft-capped as the model does, as float32.

    The product with the head is of the model's dtype, as in the model's own forward.
    """
    head = _head(model)
    hidden = hidden.to(head.weight.device)
    return _finished(model, functional.linear(hidden, head.weight, head.bias))


def target_logprobs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "rows tokens d_model"],
    targets: Int[Tensor, " tokens"],
) -> Float[Tensor, "rows tokens"]:
    """Return log p(target) at each position of each row, in nats; all rows share the targets."""
    head = _head(model)
    hidden, targets = hidden.to(head.weight.device).float(), targets.to(head.weight.device)
    total = torch.cat([_logsumexp(model, part) for part in hidden.flatten(0, 1).split(_ROWS)])
    chosen = torch.einsum("rtd,td->rt", hidden, head.weight[targets].float())
    if head.bias is not None:
        chosen = chosen + head.bias[targets].float()
    return _finished(model, chosen) - total.view(chosen.shape)


def kl_from_first(
    model: PreTrainedModel, hidden: Float[Tensor, "rows d_model"]
) -> Float[Tensor, " others"]:
    """Return KL(first row || each other row) of the next token's distribution, nats, 0 or more.

    One pass over the vocabulary, a block a time: within a block the mean of the logits' difference
    under the first row's own softmax, then the mean of those over the blocks' shares of it.
    """
    hidden = hidden.to(_head(model).weight.device).float()
    totals, means = [], []
    for weight, bias in _vocabulary(model):
        logits = _finished(model, functional.linear(hidden, weight, bias))
        totals.append(logits.logsumexp(1))
        means.append((logits[0] - logits[1:]) @ logits[0].softmax(0))
    by_block = torch.stack(totals)
    total = by_block.logsumexp(0)
    share = (by_block[:, 0] - total[0]).exp()
    return (share @ torch.stack(means) + total[1:] - total[0]).clamp(min=0)


def token_logprobs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "tokens d_model"],
    targets: Int[Tensor, " tokens"],
) -> Float[Tensor, " tokens"]:
    """Return log p of each position's own target, in nats."""
    parts = zip(hidden.split(_ROWS), targets.split(_ROWS), strict=True)
    return torch.cat([target_logprobs(model, part[None], ids)[0] for part, ids in parts])


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
            logits = head_logits(model, leaf)
            loss = functional.cross_entropy(logits, ids.to(logits.device), reduction="sum")
            grads.append(torch.autograd.grad(-loss / len(targets), leaf)[0])
            total -= loss.item()
    return total / len(targets), torch.cat(grads)


def check_head(model: PreTrainedModel) -> None:
    """Raise RequestError unless `head_logits` gives this model's own logits.

    Some architectures scale or shift their logits by settings of their own; a delta computed
    without them would be wrong without a word. A model rounds to its dtype after the head and after
    each step that scales or caps, up to three times half an epsilon, where `head_logits` rounds
    once.
    """
    ids = torch.arange(4, device=model.device)[None]
    with torch.no_grad():
        own = model(input_ids=ids, use_cache=False).logits[0].float().cpu()
        hidden = decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
        ours = head_logits(model, hidden[0]).cpu()
    near = max(1e-3, 4 * torch.finfo(_head(model).weight.dtype).eps)
    # A training that diverged leaves weights that are no numbers: that is measured, not refused.
    largest = float(own.abs().nan_to_num(0.0, 0.0).max())
    if not torch.allclose(own, ours, rtol=near, atol=near * largest, equal_nan=True):
        raise RequestError(
            f"{type(model).__name__} changes its logits in a way igds does not know: "
            "interventions need a model whose logits are its head's, scaled or soft-capped at most"
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
    parts = [
        _finished(model, functional.linear(hidden, weight, bias)).logsumexp(1)
        for weight, bias in _vocabulary(model)
    ]
    return torch.stack(parts).logsumexp(0)


def _vocabulary(model: PreTrainedModel) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield weights and biases of the head in float32, a block of the vocabulary a time.

    Blocks of another dtype are converted as they come, so that a float32 head is never whole in
    memory; with hundreds of rows of hidden states that is little beside the product.
    """
    head = _head(model)
    weights = head.weight.split(_VOCAB)
    biases = [None] * len(weights) if head.bias is None else head.bias.split(_VOCAB)
    for weight, bias in zip(weights, biases, strict=True):
        yield weight.float(), None if bias is None else bias.float()


def _finished(model: PreTrainedModel, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the head's products as the model gives them out, in float32.

    Granite divides them and Cohere multiplies them by a number of its own, Gemma 2 caps them.
    """
    config = model.config.get_text_config()
    names = ("logits_scaling", "logit_scale", "final_logit_softcapping")
    divisor, factor, cap = (getattr(config, name, None) for name in names)
    logits = logits.float()
    if divisor is not None:
        logits = logits / divisor
    if factor is not None:
        logits = logits * factor
    return logits if cap is None else cap * torch.tanh(logits / cap)
