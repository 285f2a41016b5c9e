"""The index: one streaming pass over a set's rows that all stages share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igds.config.inputs import Source
from igds.data.chat import ChatTemplate
from igds.data.files import NEUTRAL
from igds.data.index_files import INDEX_SCHEMA, PROMPT_FIELDS, IndexWriter
from igds.data.messages import MESSAGES, with_turns
from igds.data.remote import public
from igds.data.rendering import GoldResponses, Rendering
from igds.data.row_ids import RowIds
from igds.data.sources import RawRow, column_names, read_source
from igds.data.templates import Template
from igds.data.tokens import (
    encode_chat_prompts,
    encode_responses,
    encode_rows,
    training_lengths,
)
from igds.errors import RequestError, did_you_mean
from igds.rows import Status, canonical, content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK = 256
"""Rows rendered, tokenized and turned into Arrow at once."""
_Entries = list[dict[str, Any]]
"""Index rows of one block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSummary:
    """What one pass found."""

    rows: int
    """Rows read."""
    status: dict[str, int]
    """Status -> rows; the statuses that occur, and ok."""
    tokens: int
    """Prompt tokens of the rows with status ok."""
    duplicates: int
    """Rows whose mapped fields equal those of a row before them."""
    source_rows: tuple[int, ...]
    """Rows read of each source, in order: the rows of a source stand together."""


def build_index(
    sources: Sequence[Source],
    *,
    folder: Path,
    base: Path,
    template: Template,
    task: GoldResponses,
    tokenizer: PreTrainedTokenizerBase,
    train_tokenizer: PreTrainedTokenizerBase | None,
    max_prompt_tokens: int,
    require_response: bool,
    progress: Callable[[int], None],
    other_templates: Sequence[Template] = (),
    fit_response: bool = False,
    chat: ChatTemplate | None = None,
) -> IndexSummary:
    """Write the index of one set of rows, `rows-00000.parquet` and on, and return its counts.

    Rows keep source order. Memory is bounded by a row group and 14 bytes a row for the ids.

    Args:
        sources: where the rows are.
        folder: made if absent; index files of an earlier attempt are removed.
        base: folder that relative paths start from.
        template: the task's template; its places are the prompt fields.
        task: gives gold responses.
        tokenizer: that of the identification model.
        train_tokenizer: that of the model to be trained; None when it is the same.
        max_prompt_tokens: the model's context.
        require_response: whether a row without a gold response is of no use.
        progress: told the number of rows done since the last call.
        other_templates: render the same rows, under the same ids, in these instead, by ordinal;
            without the chat's cue, which is the task's.
        fit_response: whether prompt and response together must fit into the context.
        chat: renders every prompt; needed for sources with `messages`.

    Raises:
        RequestError: see `read_source` and `encode_prompts`; an id stands twice; a source lacks a
            mapped column; no row has status ok.
    """
    rendering = Rendering(
        template=template,
        task=task,
        others=tuple(other_templates),
        require_response=require_response,
        chat=replace(chat, cue=None) if chat and other_templates else chat,
    )
    ids = RowIds(mixed=len({source.id_column is None for source in sources}) > 1)
    block = _Block(rendering, tokenizer, train_tokenizer, max_prompt_tokens, fit_response, ids)
    total = Counter[str]()
    source_rows: list[int] = []
    tokens = 0
    with (
        IndexWriter(folder, {PROMPT_FIELDS: json.dumps(template.fields)}) as writer,
        ThreadPoolExecutor(1) as thread,
    ):
        for source in sources:
            counts = Counter[str]()
            seen = set[str]()
            rows = _noting(seen, raw_rows(source, rendering, base))
            chunks = iter(lambda rows=rows: list(islice(rows, _BLOCK)), [])
            rendered = (block.rendered(chunk) for chunk in chunks)
            for entries in _ahead(block.counted, rendered, thread):
                writer.add(entries)
                counts.update(entry["status"] for entry in entries)
                tokens += sum(e["n_prompt_tokens"] for e in entries if e["status"] == Status.OK)
                progress(len(entries))
            _check_mapping(source, rendering, counts, seen, base)
            total += counts
            source_rows.append(counts.total())
    if not total[Status.OK]:
        raise RequestError(_none_usable(sources, total))
    return IndexSummary(
        rows=total.total(),
        status={str(status): count for status, count in sorted(total.items())},
        tokens=tokens,
        duplicates=block.ids.duplicates,
        source_rows=tuple(source_rows),
    )


def raw_rows(source: Source, rendering: Rendering, base: Path) -> Iterator[RawRow]:
    """Return the rows of a source with the fields that are rendered."""
    if source.messages is None:
        mapped = _with_neutral_columns(source, rendering.template.fields)
        return read_source(mapped, rendering.fields, base)
    mapped = replace(source, messages=None, columns={MESSAGES: source.messages})
    return map(with_turns, read_source(mapped, [MESSAGES], base))


def check_first_rows(source: Source, rendering: Rendering, base: Path) -> None:
    """Refuse a source of rows of fields of whose first 100 rows none has a field of the prompt.

    Raises:
        RequestError: so it is, or see `read_source`.
    """
    first = raw_rows(replace(source, sample=None), rendering, base)  # a draw takes the whole pass
    rows = [row.fields or {} for row in islice(first, 100)]
    for field in rendering.template.fields:
        if rows and not any(field in row for row in rows):
            column = source.columns.get(field, field)
            raise RequestError(
                f"the first {len(rows)} rows of {public(source.path)} lack the column {column!r} "
                f"that {{{field}}} of the prompt template needs; "
                + did_you_mean(column, column_names(source, base))
            )


def _with_neutral_columns(source: Source, prompt_fields: Sequence[str]) -> Source:
    """Return the source; the built-in one gets the only prompt field mapped to its `text`.

    Raises:
        RequestError: the template has several fields and `columns` does not map them all.
    """
    if source.path != NEUTRAL or all(field in source.columns for field in prompt_fields):
        return source
    if len(prompt_fields) > 1:
        raise RequestError(
            f"{NEUTRAL} has the columns text and source, the template has several fields: map each "
            f"of {', '.join(prompt_fields)} in the source's columns, or bring control rows"
        )
    return replace(source, columns={**source.columns, prompt_fields[0]: "text"})


def load_index(
    folder: Path, columns: Sequence[str] | None = None, row_ids: Sequence[str] | None = None
) -> pa.Table:
    """Return an index, or some of its columns or named rows, as one table in row order."""
    wanted = None if columns is None else list(columns)
    named = None if row_ids is None else pc.field("row_id").isin(pa.array(row_ids, pa.string()))
    files = sorted(folder.glob("rows-*.parquet"))
    return pa.concat_tables([pq.read_table(file, columns=wanted, filters=named) for file in files])


def iter_index(folder: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of an index in row order, at most a row group at a time."""
    for file in sorted(folder.glob("rows-*.parquet")):
        with pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(batch_size=8192, columns=list(columns))


@dataclass(frozen=True, slots=True)
class _Block:
    """Turns blocks of raw rows into index rows."""

    rendering: Rendering
    tokenizer: PreTrainedTokenizerBase
    train_tokenizer: PreTrainedTokenizerBase | None
    max_prompt_tokens: int
    fit_response: bool
    ids: RowIds

    def rendered(self, rows: Sequence[RawRow]) -> _Entries:
        """Return one index row a raw row, without its tokens."""
        return [self._entry(row) for row in rows]

    def counted(self, entries: _Entries) -> _Entries:
        """Return the same rows with their tokens; those that do not fit get that status."""
        ok = [entry for entry in entries if entry["status"] == Status.OK]
        for entry in self._count_tokens(ok):
            needed = entry["n_prompt_tokens"]
            if self.fit_response:
                needed += entry["n_response_tokens"] or 0
            if needed > self.max_prompt_tokens:
                entry["status"] = Status.TOO_LONG
        return entries

    def _entry(self, row: RawRow) -> dict[str, Any]:
        """Return an index row without its token counts."""
        entry: dict[str, Any] = dict.fromkeys(INDEX_SCHEMA.names)
        entry |= {"source": row.source, "ordinal": row.ordinal, "original": row.original}
        status, data, own_id = row.status, row.original, None
        if row.fields is not None:
            try:
                data, own_id = canonical(row.fields), _encodable(row.id)
                entry["fields"] = data.decode()
                if status == Status.OK:
                    status, prompt, entry["response"] = self.rendering.render(
                        row.fields, row.ordinal
                    )
                if status == Status.OK:
                    entry |= {"prompt": prompt, "prompt_hash": content_hash(prompt.encode())}
            except RecursionError:  # nested deeper than Python goes
                status = Status.BAD_JSON
            except UnicodeEncodeError:
                status = Status.BAD_UTF8
        digest = content_hash(data)
        entry |= {"status": status, "content_hash": digest}
        entry["row_id"] = self.ids.take(digest, own_id, f"{row.source}, row {row.ordinal}")
        return entry

    def _count_tokens(self, rendered: _Entries) -> _Entries:
        """Add the tokens to rows that are rendered; return those whose prompt can be read."""
        chat = self.rendering.chat is not None
        encode = encode_chat_prompts if chat else encode_rows
        found = encode(self.tokenizer, [entry["prompt"] for entry in rendered])
        for entry, ids in zip(rendered, found, strict=True):
            if ids is None:
                entry["status"] = Status.SPECIAL_TOKEN
            else:
                entry["n_prompt_tokens"] = entry["n_train_tokens"] = len(ids)
                entry["prompt_ids"] = ids
        entries = [entry for entry in rendered if entry["status"] == Status.OK]
        prompts = [entry["prompt"] for entry in entries]
        answered = [entry for entry in entries if entry["response"] is not None]
        responses = [entry["response"] for entry in answered]
        after = [(entry["prompt"], entry["prompt_ids"]) for entry in answered] if chat else []
        for entry, ids in zip(
            answered, encode_responses(self.tokenizer, responses, after), strict=True
        ):
            entry["n_response_tokens"] = len(ids)
            entry["n_train_tokens"] += len(ids)
        if self.train_tokenizer not in (None, self.tokenizer):
            texts = [entry["response"] or "" for entry in entries]
            lengths = training_lengths(self.train_tokenizer, prompts, texts, chat=chat)
            for entry, length in zip(entries, lengths, strict=True):
                entry["n_train_tokens"] = length
        return entries


def _ahead(
    work: Callable[[_Entries], _Entries], items: Iterable[_Entries], thread: ThreadPoolExecutor
) -> Iterator[_Entries]:
    """Yield the work's result of each item in order; it does one item while the next is made."""
    pending: Future[_Entries] | None = None
    for item in items:
        ready, pending = pending, thread.submit(work, item)
        if ready is not None:
            yield ready.result()
    if pending is not None:
        yield pending.result()


def _noting(seen: set[str], rows: Iterable[RawRow]) -> Iterator[RawRow]:
    """Yield the rows, and add the fields that have a value in them."""
    for row in rows:
        seen.update(row.fields or ())
        yield row


def _none_usable(sources: Sequence[Source], counts: Counter[str]) -> str:
    """Return what to say of sources without a single ok row."""
    where = ", ".join(public(source.path) for source in sources)
    words = f"no row of {where} can be used: {_named(counts)}"
    if counts[Status.TEMPLATE_REFUSED]:
        words += '; a chat template that refuses system prompts needs prompts.system: ""'
    if counts[Status.SPECIAL_TOKEN]:
        words += "; the tokenizer adds its BOS itself: take it out of prompts.template"
    return words


def _check_mapping(
    source: Source, rendering: Rendering, counts: Counter[str], seen: set[str], base: Path
) -> None:
    """Refuse a source whose columns have other names: a field that every row lacks, a mapped one.

    Raises:
        RequestError: every row lacks a field that it needs or a conversation, or `columns` names
            a column that has no value in any row and is not in the first.
    """
    useless = bool(counts) and set(counts) <= {Status.MISSING_FIELD, Status.BAD_MESSAGES}
    unseen = [column for field, column in source.columns.items() if field not in seen]
    if not useless and not unseen:
        return
    columns, where = column_names(source, base), public(source.path)
    listed = ", ".join(columns)
    if useless and source.messages is not None:
        raise RequestError(
            f"no row of {where} has a conversation in the column {source.messages} "
            f"({_named(counts)}): its columns are {listed}; a conversation is a list of turns "
            "{role, content} or {from, value} with text alone"
        )
    if useless:
        needed = rendering.fields if rendering.require_response else rendering.template.fields
        raise RequestError(
            f"every row of {where} lacks a field ({_named(counts)}): needed are "
            f"{', '.join(source.columns.get(field, field) for field in needed)}, the columns are "
            f"{listed}; map them with columns: {{field: column}}"
        )
    absent = [column for column in unseen if column not in columns]
    if columns and absent:
        raise RequestError(
            f"no row of {where} has the column {', '.join(absent)} that its columns map; "
            f"the columns are {listed}"
        )


def _encodable(text: str | None) -> str | None:
    """Return the text; UnicodeEncodeError when it holds half a surrogate pair."""
    if text is not None:
        text.encode()
    return text


def _named(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "0 rows"
