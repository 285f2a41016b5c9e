"""What the doctor reads: some rows of the task and of the controls, in the cue and paraphrases."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from igds.config import inputs, schema
from igds.data.index import with_neutral_columns
from igds.data.rendering import Rendering
from igds.data.seeds import seeded_bits
from igds.data.sources import RawRow, read_source
from igds.data.templates import Template, parse_template
from igds.data.tokens import added_tokens, encode_prompts, encode_unchecked
from igds.errors import RequestError
from igds.rows import Status
from igds.tasks.base import HasParaphrases, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[list[int]]
"""Token ids, one list a prompt."""
PARAPHRASED = 32
"""Rows of each set that are read in the paraphrases too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bos:
    """How prompts begin."""

    token: str | None
    """The tokenizer's BOS; None when it has none."""
    added: bool
    """Whether the tokenizer puts it before a text."""
    leads: bool
    """Whether the first prompt begins with it, be it the tokenizer's or the template's."""
    surplus: int
    """Prompts with one too many, which `igds run` refuses."""
    example: str | None
    """How the first of them begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The prompts as token ids.

    A surplus BOS at the start is taken off: all is measured as it will be without it.
    """

    task: tuple[Ids, ...]
    """Prior rows in the cue; then the first `PARAPHRASED` of them in each paraphrase."""
    control: tuple[Ids, ...]
    """Control rows, likewise."""
    bos: Bos
    """How they begin."""
    bos_id: int | None
    """Token id of the BOS, if the tokenizer has one."""


def read_prompts(
    data: inputs.Data,
    rendering: Rendering,
    paraphrases: Sequence[Template],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_tokens: int,
    base: Path,
    seed: int,
    limit: int,
) -> Prompts:
    """Return at most `limit` prior and half as many control rows, drawn by a hash, as prompts.

    Validation rows are never read: a split of them is sealed until the confirmation.

    Args:
        data: where the rows are.
        rendering: how a row becomes a prompt with the cue.
        paraphrases: templates that ask the same in other words.
        tokenizer: the model's own.
        max_prompt_tokens: the model's context; rows that are longer in any template are left out.
        base: folder that relative paths start from.
        seed: root of the draw.
        limit: prior rows.

    Raises:
        RequestError: see `read_source`; no row can be used; the tokenizer adds a token after a
            prompt, where features are read.
    """
    encode_prompts(tokenizer, ["a"])  # a token behind the prompt is refused here
    forms = [rendering, *(replace(rendering, template=template) for template in paraphrases)]
    bos = cast("int | None", tokenizer.bos_token_id)
    added = bos is not None and bos in added_tokens(tokenizer)[0]
    sets: list[tuple[Ids, ...]] = []
    surplus: list[str] = []
    for sources, n in ((data.prior, limit), (data.control, limit // 2)):
        rows = _draw(sources, rendering, base, seed, n)
        texts = [[_prompt(form, row) for row in rows] for form in forms]
        raw = [encode_unchecked(tokenizer, column) for column in texts]
        for text, ids in zip(texts[0], raw[0], strict=True):
            if _surplus(ids, bos, added):
                surplus.append(text)
        sets.append(_fitting([[_mended(ids, bos) for ids in c] for c in raw], max_prompt_tokens))
    task, control = sets
    if not task[0]:
        raise RequestError(
            f"no prior row can be read: no row of {', '.join(s.path for s in data.prior)} has the "
            "template's fields and fits into the context; see `igds run CONFIG --until index`"
        )
    facts = Bos(
        token=cast("str | None", tokenizer.bos_token),
        added=added,
        leads=leading_bos(task[0][0], bos) > 0,
        surplus=len(surplus),
        example=surplus[0][:60] if surplus else None,
    )
    return Prompts(task=task, control=control, bos=facts, bos_id=bos)


def paraphrases_of(prompts: schema.Prompts, task: Task, template: Template) -> list[Template]:
    """Return the templates that ask the same: the configuration's, else the task's own.

    The task's are for its own row fields: none are returned where the template has others.

    Raises:
        RequestError: one is no prompt template, or has a place that the template lacks.
    """
    if prompts.paraphrases:
        found = [parse_template(text) for text in prompts.paraphrases]
        for other in found:
            if unknown := set(other.fields) - set(template.fields):
                raise RequestError(
                    f"prompts.paraphrases: {other.text!r} has a place for "
                    f"{', '.join(sorted(unknown))}; the template has {', '.join(template.fields)}"
                )
        return found
    texts = task.paraphrases if isinstance(task, HasParaphrases) else ()
    found = [parse_template(text) for text in texts]
    return [other for other in found if set(other.fields) <= set(template.fields)]


def leading_bos(ids: Sequence[int], bos: int | None) -> int:
    """Return how many BOS tokens a prompt begins with."""
    return next((place for place, token in enumerate(ids) if token != bos), len(ids))


def _draw(
    sources: Sequence[inputs.Source], rendering: Rendering, base: Path, seed: int, limit: int
) -> list[RawRow]:
    """Return usable rows, spread over all sources: those with the smallest seeded hashes."""
    fields = rendering.template.fields
    rows = (
        row
        for source in sources
        for row in read_source(with_neutral_columns(source, fields), rendering.fields, base)
        if row.fields is not None and rendering.render(row.fields, row.ordinal)[0] == Status.OK
    )
    return heapq.nsmallest(
        limit, rows, key=lambda row: seeded_bits(seed, "doctor", f"{row.source}/{row.ordinal}")
    )


def _prompt(rendering: Rendering, row: RawRow) -> str:
    return rendering.render(row.fields or {}, row.ordinal)[1]


def _surplus(ids: Sequence[int], bos: int | None, added: bool) -> bool:
    """Return whether a prompt has more BOS tokens than one; later ones count where one is added."""
    return (ids.count(bos) if added else leading_bos(ids, bos)) > 1 if bos is not None else False


def _mended(ids: list[int], bos: int | None) -> list[int]:
    return ids[max(0, leading_bos(ids, bos) - 1) :]


def _fitting(columns: Sequence[Ids], limit: int) -> tuple[Ids, ...]:
    """Return the rows whose prompt fits in every template; of paraphrases the first few."""
    fits = [all(len(ids) <= limit for ids in row) for row in zip(*columns, strict=True)]
    cue, *others = ([ids for ids, fit in zip(c, fits, strict=True) if fit] for c in columns)
    return cue, *(column[:PARAPHRASED] for column in others)
