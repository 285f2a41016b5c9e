"""The whole model on prompt and response: likelihoods of the response, and a mean of the states."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from igds.data.tokens import encode_chat_prompts, encode_prompts, encode_responses, encode_rows
from igds.models.blocks import decoder
from igds.models.check import check_finite
from igds.models.likelihood import check_head, token_logprobs
from igds.models.load import ModelSpec, describe, load_causal, load_tokenizer
from igds.reading.batches import plan_batches
from igds.reading.residuals import pad_right
from igds.rows import NoScore, Status

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARTS = ("loss", "bare_loss", "mean")
"""What a pass can find, by the names of the fields of `Responses`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A response behind a context, as token ids; the context may be the prompt or less."""

    context: Sequence[int]
    """Tokens that are only read; at least one."""
    response: Sequence[int]
    """Tokens whose likelihood is wanted, without an EOS; may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """What a pass found of each row; NaN where the status says why."""

    status: list[str]
    """ok, or one of `NoScore`."""
    loss: Float[np.ndarray, " rows"] | None = None
    """L(y | x): mean negative log-likelihood of a response token behind the prompt, nats."""
    bare_loss: Float[np.ndarray, " rows"] | None = None
    """L(y): the same of the same tokens, behind the bare response marker."""
    mean: Float[np.ndarray, "rows d_model"] | None = None
    """Mean of the last hidden states of prompt and response, token t weighing t."""


@torch.no_grad()
def read_continuations(
    model: PreTrainedModel,
    pairs: Sequence[Continuation],
    batch_tokens: int,
    *,
    likelihood: bool = True,
    mean: bool = False,
) -> tuple[list[Float[Tensor, " tokens"]] | None, Float[Tensor, "pairs d_model"] | None]:
    """Return the log-probability of each token of each response, nats, and the weighted means.

    The mean is RDS+ (arXiv 2503.01807): over the tokens of context and response, token t (from 1)
    weighing t, of the states behind the final norm. Batches and padding move numbers by rounding
    alone.

    Args:
        model: with its language-modelling head, in eval mode.
        pairs: contexts with their responses.
        batch_tokens: padded tokens a forward batch.
        likelihood: whether the log-probabilities are wanted; None without.
        mean: whether the means are wanted; None without.
    """
    logprobs = [torch.empty(0)] * len(pairs) if likelihood else None
    means = torch.empty(len(pairs), decoder(model).config.hidden_size) if mean else None
    lengths = [len(pair.context) + len(pair.response) for pair in pairs]
    for places in plan_batches(lengths, batch_tokens):
        tokens = [[*pairs[place].context, *pairs[place].response] for place in places]
        ids, mask = (side.to(model.device) for side in pad_right(tokens))
        hidden = decoder(model)(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        if logprobs is not None:
            found = _logprobs(model, hidden, [pairs[place] for place in places])
            for place, values in zip(places, found, strict=True):
                logprobs[place] = values
        if means is not None:
            means[places] = _weighted_means(hidden, [lengths[place] for place in places]).cpu()
    return logprobs, means


def _logprobs(
    model: PreTrainedModel,
    hidden: Float[Tensor, "batch seq d_model"],
    pairs: Sequence[Continuation],
) -> Sequence[Float[Tensor, " tokens"]]:
    """Return the log-probabilities of each response from the last hidden states."""
    counts = [len(pair.response) for pair in pairs]
    # The state at a token predicts the next one, so the first of them is the context's last.
    starts = [len(pair.context) - 1 for pair in pairs]
    states = [
        hidden[row, start : start + count]
        for row, (start, count) in enumerate(zip(starts, counts, strict=True))
    ]
    targets = torch.tensor([token for pair in pairs for token in pair.response], dtype=torch.long)
    return token_logprobs(model, torch.cat(states), targets).cpu().split(counts)


def _weighted_means(
    hidden: Float[Tensor, "batch seq d_model"], lengths: Sequence[int]
) -> Float[Tensor, "batch d_model"]:
    """Return the mean of each row's states over its own tokens, token t weighing t."""
    place = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    own = place <= torch.tensor(lengths, device=hidden.device)[:, None]
    weights = torch.where(own, place, 0).float()
    weights = weights / weights.sum(dim=1, keepdim=True)
    return torch.einsum("bs,bsd->bd", weights, hidden.float())


class ResponseReader:
    """Likelihoods and mean states of index rows, by the whole model."""

    def __init__(
        self,
        model: Mapping[str, Any],
        *,
        parts: Collection[str],
        marker: str,
        chat: bool,
        own_prompts: bool,
        max_length: int | None,
        batch_tokens: int,
    ) -> None:
        """Load the model with its head.

        Args:
            model: fields of its `ModelSpec`.
            parts: what to find, of `PARTS`.
            marker: the bare response marker.
            chat: whether prompts are in a chat template, which brings its own BOS.
            own_prompts: whether the index's token ids are this model's.
            max_length: most tokens of prompt and response; the model's context when None.
            batch_tokens: padded tokens a forward batch.
        """
        spec = ModelSpec(**model)
        self._parts, self._batch_tokens = frozenset(parts), batch_tokens
        self._chat, self._own_prompts = chat, own_prompts
        self._max_length = min(max_length or describe(spec).context, describe(spec).context)
        self._tokenizer = load_tokenizer(spec)
        (self._marker,) = encode_prompts(self._tokenizer, [marker], chat=chat)
        self._model = load_causal(spec)
        check_head(self._model)

    def read(self, rows: pa.Table, *, prompts_only: bool = False) -> Responses:
        """Return what was asked for of index rows with status ok.

        Args:
            rows: with `prompt`, `prompt_ids` and `response`.
            prompts_only: leave the responses out, as of rows that stand for a task.

        Raises:
            RequestError: a number is infinite or NaN.
        """
        prompts = rows["prompt"].to_pylist()
        texts = [None] * len(rows) if prompts_only else rows["response"].to_pylist()
        contexts = self._contexts(rows, prompts)
        answered = [row for row, text in enumerate(texts) if text is not None and contexts[row]]
        after = [(prompts[row], contexts[row]) for row in answered] if self._chat else []
        found = encode_responses(self._tokenizer, [str(texts[row]) for row in answered], after)
        responses: list[list[int]] = [[] for _ in texts]
        for row, ids in zip(answered, found, strict=True):
            responses[row] = ids
        status = [
            self._status(context, response)
            for context, response in zip(contexts, responses, strict=True)
        ]
        pairs = [
            Continuation(context=context, response=self._surviving(context, response))
            for context, response in zip(contexts, responses, strict=True)
        ]
        return self._read(pairs, status)

    def _contexts(self, rows: pa.Table, prompts: Sequence[str]) -> list[list[int]]:
        """Return the prompts' token ids; none for a prompt that this tokenizer cannot take."""
        if self._own_prompts:
            return rows["prompt_ids"].to_pylist()
        if self._chat:
            return encode_chat_prompts(self._tokenizer, prompts)
        return [ids or [] for ids in encode_rows(self._tokenizer, prompts)]

    def _surviving(self, context: Sequence[int], response: Sequence[int]) -> Sequence[int]:
        """Return the response's tokens that fit behind the prompt; the marker gets the same."""
        return response[: max(self._max_length - len(context), 0)]

    def _status(self, context: Sequence[int], response: Sequence[int]) -> str:
        """Return ok, or why there is no likelihood."""
        if not context:
            return NoScore.SPECIAL_TOKEN
        if not response:
            return NoScore.NO_RESPONSE
        return Status.OK if self._surviving(context, response) else NoScore.NO_ROOM

    def _read(self, pairs: Sequence[Continuation], status: list[str]) -> Responses:
        """Run the model behind the prompts, and behind the marker where that is asked for."""
        if "mean" in self._parts:  # a prompt alone has a mean too, if it fits
            usable = [bool(p.context) and len(p.context) <= self._max_length for p in pairs]
        else:
            usable = [one == Status.OK for one in status]
        places = [place for place, use in enumerate(usable) if use]
        logprobs, mean = read_continuations(
            self._model,
            [pairs[place] for place in places],
            self._batch_tokens,
            likelihood="loss" in self._parts,
            mean="mean" in self._parts,
        )
        spread = {}
        if logprobs is not None:
            spread["loss"] = _spread(_losses(logprobs), places, len(pairs))
        if mean is not None:
            check_finite(mean, "the mean of a row's last hidden states")
            spread["mean"] = _spread(mean, places, len(pairs))
        if "bare_loss" in self._parts:
            places = [place for place, one in enumerate(status) if one == Status.OK]
            bare = [
                Continuation(context=self._marker, response=pairs[place].response)
                for place in places
            ]
            logprobs, _ = read_continuations(self._model, bare, self._batch_tokens)
            assert logprobs is not None, "likelihoods were asked for"
            spread["bare_loss"] = _spread(_losses(logprobs), places, len(pairs))
        return Responses(status=status, **spread)


def _losses(logprobs: Sequence[Tensor]) -> Float[Tensor, " rows"]:
    """Return each response's mean negative log-likelihood, nats a token; NaN of an empty one.

    Raises:
        RequestError: a token's is infinite or NaN.
    """
    for values in logprobs:
        check_finite(values, "the log-probability of a response's token")
    return torch.tensor([-float(values.mean()) for values in logprobs])


def _spread(values: Tensor, places: Sequence[int], rows: int) -> np.ndarray:
    """Return values of some rows as an array of all rows, NaN elsewhere."""
    found = np.full((rows, *values.shape[1:]), np.nan, dtype=np.float64)
    found[list(places)] = values.double().numpy()
    return found
