"""What the doctor reads: some rows of the task and of the controls, in the cue and paraphrases."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from igds.config import inputs, schema
from igds.data.index import raw_rows
from igds.data.remote import public
from igds.data.rendering import Rendering
from igds.data.seeds import seeded_bits
from igds.data.sources import RawRow
from igds.data.templates import Template, parse_template
from igds.data.tokens import added_tokens, encode_chat_prompts, encode_prompts, encode_unchecked
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
    """Whether the tokenizer puts it before a prompt; a chat template writes its own."""
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

    @property
    def different(self) -> tuple[int, int]:
        """Return how many different prior and control prompts the cue makes."""
        task, control = (len(set(map(tuple, ids[0]))) for ids in (self.task, self.control))
        return task, control


def read_prompts(
    data: inputs.Data,
    rendering: Rendering,
    paraphrases: Sequence[Rendering],
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
        paraphrases: renderings that ask the same in other words.
        tokenizer: the model's own.
        max_prompt_tokens: the model's context; rows that are longer in any template are left out.
        base: folder that relative paths start from.
        seed: root of the draw.
        limit: prior rows.

    Raises:
        RequestError: see `read_source`; no row can be used; the tokenizer adds a token after a
            prompt, where features are read.
    """
    chat = rendering.chat is not None
    if not chat:
        encode_prompts(tokenizer, ["a"])  # a token behind the prompt is refused here
    encode = encode_chat_prompts if chat else encode_unchecked
    forms = [rendering, *paraphrases]
    bos = cast("int | None", tokenizer.bos_token_id)
    added = not chat and bos is not None and bos in added_tokens(tokenizer)[0]
    sets: list[tuple[Ids, ...]] = []
    surplus: list[str] = []
    for sources, n in ((data.prior, limit), (data.control, limit // 2)):
        rows = _draw(sources, rendering, base, seed, n)
        texts = [[_prompt(form, row) for row in rows] for form in forms]
        raw = [encode(tokenizer, column) for column in texts]
        for text, ids in zip(texts[0], raw[0], strict=True):
            if _surplus(ids, bos, added):
                surplus.append(text)
        sets.append(_fitting([[_mended(ids, bos) for ids in c] for c in raw], max_prompt_tokens))
    task, control = sets
    if not task[0]:
        raise RequestError(
            f"no prior row can be read: no row of "
            f"{', '.join(public(source.path) for source in data.prior)} has the template's fields, "
            "or a conversation, and fits into the context; see `igds run CONFIG --until index`"
        )
    facts = Bos(
        token=cast("str | None", tokenizer.bos_token),
        added=added,
        leads=leading_bos(task[0][0], bos) > 0,
        surplus=len(surplus),
        example=surplus[0][:60] if surplus else None,
    )
    return Prompts(task=task, control=control, bos=facts, bos_id=bos)


def paraphrases_of(
    prompts: schema.Prompts, task: Task, rendering: Rendering, *, chat_rows: bool
) -> list[Rendering]:
    """Return the renderings that ask the same: the configuration's, else the task's own.

    In chat prompts a paraphrase is a user turn or, without a place, another cue at the start of
    the assistant's turn. The task's own are for its own row fields: none are returned where the
    rows have others, and a conversation has nothing but `text`, its last user turn.

    Args:
        prompts: may name paraphrases.
        task: may have its own.
        rendering: that of the cue.
        chat_rows: whether some rows are conversations.

    Raises:
        RequestError: one is no prompt template, has a place that no row can fill, or is a cue
            where no cue is set.
    """
    places = ("text",) if chat_rows else rendering.template.fields
    if prompts.paraphrases:
        return [_configured(text, rendering, places, chat_rows) for text in prompts.paraphrases]
    texts = task.paraphrases if isinstance(task, HasParaphrases) else ()
    found = [parse_template(text) for text in texts]
    return [
        _with_template(rendering, other, chat_rows)
        for other in found
        if set(other.fields) <= set(places)
    ]


def _configured(
    text: str, rendering: Rendering, places: Sequence[str], chat_rows: bool
) -> Rendering:
    """Return the rendering of one of `prompts.paraphrases`."""
    chat = rendering.chat
    if chat is not None and not Template(text=text).fields:
        if chat.cue is None:
            raise RequestError(
                f"prompts.paraphrases: {text!r} has no place, so it stands for the cue, and "
                "prompts.cue is not set: write a user turn with "
                f"{', '.join(f'{{{name}}}' for name in places)}"
            )
        if text != text.strip():
            raise RequestError(f"prompts.paraphrases: the cue {text!r} has white space around it")
        return replace(rendering, chat=replace(chat, cue=text))
    other = parse_template(text, user_turn=chat is not None)
    if unknown := set(other.fields) - set(places):
        raise RequestError(
            f"prompts.paraphrases: {other.text!r} has a place for {', '.join(sorted(unknown))}; "
            f"the {'conversations have' if chat_rows else 'template has'} {', '.join(places)}"
        )
    return _with_template(rendering, other, chat_rows)


def _with_template(rendering: Rendering, template: Template, chat_rows: bool) -> Rendering:
    """Return the rendering in other words; in conversations around the last user turn."""
    return replace(rendering, template=template, others=(template,) if chat_rows else ())


def leading_bos(ids: Sequence[int], bos: int | None) -> int:
    """Return how many BOS tokens a prompt begins with."""
    return next((place for place, token in enumerate(ids) if token != bos), len(ids))


def _draw(
    sources: Sequence[inputs.Source], rendering: Rendering, base: Path, seed: int, limit: int
) -> list[RawRow]:
    """Return usable rows, spread over all sources: those with the smallest seeded hashes."""
    rows = (
        row
        for source in sources
        for row in raw_rows(source, rendering, base)
        if row.fields is not None
        and row.status == Status.OK
        and rendering.render(row.fields, row.ordinal)[0] == Status.OK
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
    fits = [all(0 < len(ids) <= limit for ids in row) for row in zip(*columns, strict=True)]
    cue, *others = ([ids for ids, fit in zip(c, fits, strict=True) if fit] for c in columns)
    return cue, *(column[:PARAPHRASED] for column in others)
