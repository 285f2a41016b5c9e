"""What interventions run on: prompts with their gold response and another row's for contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One validation row as token ids; plain JSON values, so that shards can carry it."""

    row_id: str
    """Its name in the index."""
    prompt_ids: Sequence[int]
    """The prompt with its special tokens; the last token is the read position."""
    response_ids: Sequence[int]
    """The gold response, without an EOS."""
    answer: Sequence[int] | None = None
    """First token of the final answer in the response and the token after its last; None when the
    task marks no answer."""
    contrast_ids: Sequence[int] | None = None
    """Another row's response of similar length; None when the split has no other response."""


def make_examples(
    row_ids: Sequence[str],
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int] | None] | None = None,
) -> list[Example]:
    """Return the examples of one split, in the order given, each with a contrast response.

    Args:
        row_ids: names, no two the same.
        prompts: token ids, each ending at the read position.
        responses: token ids of the gold responses.
        answers: where the final answer stands among a response's tokens, see `Example`.

    Raises:
        ValueError: a prompt or a response has no token.
    """
    for name, prompt, response in zip(row_ids, prompts, responses, strict=True):
        if not prompt or not response:
            raise ValueError(f"row {name} has no token in its prompt or its response")
    partners = contrast_partners(row_ids, responses)
    return [
        Example(
            row_id=name,
            prompt_ids=list(prompts[place]),
            response_ids=list(responses[place]),
            answer=answers[place] if answers else None,
            contrast_ids=None if partner is None else list(responses[partner]),
        )
        for place, (name, partner) in enumerate(zip(row_ids, partners, strict=True))
    ]


def contrast_partners(
    row_ids: Sequence[str], responses: Sequence[Sequence[int]]
) -> list[int | None]:
    """Return for each row the row whose response stands in: the nearest in rank of length.

    Ranks are by (length, row id), so the order of rows does not matter; at equal distance the
    longer one is taken. A row with the same response is no partner.
    """
    ranked = sorted(range(len(row_ids)), key=lambda row: (len(responses[row]), row_ids[row]))
    partners: list[int | None] = [None] * len(ranked)
    for rank, row in enumerate(ranked):
        others = sorted(range(len(ranked)), key=lambda other: (abs(other - rank), other < rank))
        partners[row] = next(
            (ranked[o] for o in others if list(responses[ranked[o]]) != list(responses[row])), None
        )
    return partners
