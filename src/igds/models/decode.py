"""Decoding many rows together from one cache, with noise that does not know the batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from igds.data.seeds import seeded_bits
from igds.models.blocks import decoder
from igds.models.likelihood import head_logits

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

Choose = Callable[[int, Float[Tensor, "rows vocab"]], Int[Tensor, " rows"]]
"""(step, logits) -> the next token of each row."""


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    cache: Cache,
    logits: Float[Tensor, "rows vocab"],
    *,
    choose: Choose,
    max_new_tokens: int,
    stop_ids: Collection[int],
) -> list[list[int]]:
    """Return the tokens that each row goes on with, up to its first stop token, which is left out.

    Args:
        model: a causal model in eval mode.
        cache: keys and values of all tokens so far, `rows` rows; grows by what is decoded.
        logits: of the next token.
        choose: picks tokens from logits.
        max_new_tokens: most tokens a row.
        stop_ids: tokens that end a row.
    """
    stops = torch.tensor(sorted(stop_ids), device=logits.device, dtype=torch.long)
    done = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    steps: list[Tensor] = []
    for step in range(max_new_tokens):
        chosen = choose(step, logits)
        steps.append(chosen)
        done |= torch.isin(chosen, stops)
        if done.all() or step + 1 == max_new_tokens:
            break
        hidden = decoder(model)(
            input_ids=chosen[:, None], past_key_values=cache, use_cache=True
        ).last_hidden_state
        logits = head_logits(model, hidden[:, -1])
    rows = torch.stack(steps, dim=1).tolist() if steps else [[] for _ in range(len(logits))]
    return [_cut(row, stop_ids) for row in rows]


def greedy(_step: int, logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, " rows"]:
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
    number = int(samples.max()) + 1

    def choose(step: int, logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, " rows"]:
        generator = torch.Generator()
        noise = torch.empty(number, logits.shape[1])
        for sample in range(number):
            generator.manual_seed(seeded_bits(seed, "decode", f"{key}/{sample}/{step}") >> 1)
            noise[sample].exponential_(generator=generator)
        # -log of an exponential draw is a Gumbel draw
        return (logits / temperature - noise[samples].log().to(logits.device)).argmax(dim=1)

    return choose


def _cut(tokens: list[int], stop_ids: Collection[int]) -> list[int]:
    """Return the tokens before the first stop token."""
    end = next((at for at, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[:end]
