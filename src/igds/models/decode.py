"""Decoding many rows together from one cache, with noise that does not know the batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from igds.data.seeds import seeded_bits
from igds.models.blocks import decoder
from igds.models.likelihood import head_logits

if TYPE_CHECKING:
    from transformers import Cache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

Rows = Int[Tensor, " rows"]
"""Which rows of the whole batch are still there, as rows that have ended leave it."""
Choose = Callable[[int, Float[Tensor, "rows vocab"], Rows], Int[Tensor, " rows"]]
"""(step, logits, rows) -> the next token of each row."""
During = Callable[[Rows], AbstractContextManager[list[int]]]
"""Rows -> an edit of them, which counts the rows of each call of its block (see `edit`)."""

CROWDED = 0.75
"""Share of rows still going at which the others leave the batch: leaving copies the cache."""


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    cache: Cache,
    logits: Float[Tensor, "rows vocab"],
    *,
    choose: Choose,
    max_new_tokens: int,
    stop_ids: Collection[int],
    during: During | None = None,
) -> list[list[int]]:
    """Return the tokens that each row goes on with, up to its first stop token, which is left out.

    A row with fewer than `max_new_tokens` tokens has ended by a stop token.

    Args:
        model: a causal model in eval mode.
        cache: keys and values of all tokens so far, `rows` rows; grows by what is decoded.
        logits: of the next token.
        choose: picks tokens from logits.
        max_new_tokens: most tokens a row.
        stop_ids: tokens that end a row.
        during: an edit in force at every decoded token.
    """
    found: list[list[int]] = [[] for _ in range(len(logits))]
    rows = torch.arange(len(logits))
    ended = torch.zeros(len(logits), dtype=torch.bool)
    stops = torch.tensor(sorted(stop_ids), dtype=torch.long)
    for step in range(max_new_tokens):
        chosen = choose(step, logits, rows)
        tokens = chosen.cpu()
        ended |= torch.isin(tokens, stops)
        for row, token in zip(rows[~ended].tolist(), tokens[~ended].tolist(), strict=True):
            found[row].append(token)
        going = int((~ended).sum())
        if not going or step + 1 == max_new_tokens:
            break
        if going <= CROWDED * len(rows):
            kept = (~ended).nonzero()[:, 0]
            # On the CPU, for the layers of one cache may lie on several GPUs.
            cache.batch_select_indices(kept)
            rows, ended, chosen = rows[kept], ended[kept], chosen[kept]
        logits = _next_logits(model, cache, chosen, rows, during)
    return found


def greedy(_step: int, logits: Float[Tensor, "rows vocab"], _rows: Rows) -> Int[Tensor, " rows"]:
    """Return the likeliest token of each row."""
    return logits.argmax(dim=1)


def keyed_sampling(seed: int, key: str, sample_of_row: Sequence[int], temperature: float) -> Choose:
    """Return a choice that samples by Gumbel noise keyed by (seed, key, sample, step, token).

    Rows of one sample get the same noise whatever else is in the batch, so that what two arms say
    differs by their logits alone.

    Args:
        seed: the run's.
        key: name of the prompt.
        sample_of_row: number of the sample that each row belongs to.
        temperature: over 0; the logits are divided by it.
    """
    samples = torch.tensor(list(sample_of_row))

    def choose(step: int, logits: Float[Tensor, "rows vocab"], rows: Rows) -> Tensor:
        own, place = samples[rows].unique(return_inverse=True)
        keys = [f"{key}/{sample}/{step}" for sample in own.tolist()]
        noise = gumbel_noise(seed, "decode", keys, logits.shape[1])
        return (logits / temperature + noise[place].to(logits.device)).argmax(dim=1)

    return choose


def gumbel_noise(
    seed: int, stream: str, keys: Sequence[str], width: int
) -> Float[Tensor, "keys width"]:
    """Return Gumbel draws, one row a key, that depend on (seed, stream, key) alone."""
    generator, draws = torch.Generator(), torch.empty(len(keys), width)
    for row, key in zip(draws, keys, strict=True):
        generator.manual_seed(seeded_bits(seed, stream, key) >> 1)
        row.exponential_(generator=generator)
    return -draws.log()


def stop_ids(generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an output: those of a model's generation config and the EOS."""
    named: int | list[int] | None = getattr(generation, "eos_token_id", None)
    ids = set(named) if isinstance(named, list) else {named}
    own: Any = tokenizer.eos_token_id
    return sorted(token for token in {*ids, own} if token is not None)


def _next_logits(
    model: PreTrainedModel,
    cache: Cache,
    chosen: Int[Tensor, " rows"],
    rows: Rows,
    during: During | None,
) -> Float[Tensor, "rows vocab"]:
    """Return the logits behind one more token of each row; counts the calls of the edit."""
    with during(rows) if during else nullcontext([len(rows)]) as calls:
        hidden = decoder(model)(
            input_ids=chosen[:, None], past_key_values=cache, use_cache=True
        ).last_hidden_state
    assert calls == [len(rows)], f"the edit of {len(rows)} rows was called for {calls} rows"
    return head_logits(model, hidden[:, -1])
