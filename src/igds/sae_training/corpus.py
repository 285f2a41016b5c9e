"""The training text: rows and passages of open sources, without the rows that must stay unseen."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igds.data.templates import Template
from igds.data.words import words_of
from igds.errors import RequestError
from igds.sae_training.config import TextSource

Encode = Callable[[list[str]], list[list[int]]]

_RUN_WORDS = 13
_LINE_WORDS = 5
_BOILERPLATE = 3
"""A line or run in more of the excluded rows than this is wording of their source, as `Is the claim
above correct`, and excludes nothing by itself."""
_ENCODE_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One text as the model reads it."""

    source: str
    """Name of its source."""
    ids: tuple[int, ...]
    """Token ids."""
    cue: bool
    """Whether the last token is a read position: the text is a prompt that ends in a cue."""
    held_out: bool
    """Whether it measures quality and is not trained on."""


def read_texts(
    source: TextSource,
    root: Path,
    encode: Encode,
    *,
    excluded: frozenset[bytes],
    holdout: int,
    context: int,
    seed: int,
) -> list[Text]:
    """Return the texts of one source, held-out ones first, in an order fixed by the seed.

    Args:
        source: where and how much; at most `source.tokens` tokens of training text are returned.
        root: folder that its path starts from.
        encode: the tokenizer.
        excluded: `fingerprints` that must not occur in a text.
        holdout: rows that are held out.
        context: most tokens a text; a longer prompt is left out, a longer passage cut.
        seed: root of the order.

    Raises:
        RequestError: no file matches, one cannot be read, or a row lacks a column.
    """
    rows = {}
    for row in _rows(source, root):
        if excluded.isdisjoint(mark for value in row.values() for mark in fingerprints(value)):
            rows[_draw(seed, source.name, *row.values())] = row
    ordered = sorted(rows.items())
    held = [(row, source.templates[0]) for _, row in ordered[:holdout]]
    rest, count = ordered[holdout:], len(source.templates)
    shown = (
        (row, source.templates[(draw[0] + turn) % count])
        for turn in range(count)
        for draw, row in rest
    )
    texts = list(_encoded(source, held, encode, context, held_out=True))
    left = source.tokens
    for text in _encoded(source, shown, encode, context, held_out=False):
        if len(text.ids) > left:
            break
        left -= len(text.ids)
        texts.append(text)
    return texts


def read_excluded(paths: Iterable[Path]) -> frozenset[bytes]:
    """Return the fingerprints of every row of JSONL files, wording of their sources left out.

    Raises:
        RequestError: a file is missing, or a line of it is no JSON object.
    """
    whole: set[bytes] = set()
    parts: Counter[bytes] = Counter()
    for path in paths:
        for row in _jsonl(path, _open(path, "utf-8")):
            for value in row.values():
                first, *others = fingerprints(str(value)) or [b""]
                whole.add(first)
                parts.update(set(others))
    return frozenset(whole | {mark for mark, n in parts.items() if n <= _BOILERPLATE})


def fingerprints(text: str) -> list[bytes]:
    """Return hashes of a text's words: all of it first, its lines, and its runs of 13 words.

    Case, punctuation and white space do not count; nothing comes from a text under 3 words.
    """
    words = words_of(text)
    if len(words) < 3:
        return []
    lines = [words_of(line) for line in text.split("\n")]
    runs = [words[at : at + _RUN_WORDS] for at in range(len(words) - _RUN_WORDS + 1)]
    return [_hash(" ".join(part)) for part in (words, *_long(lines), *runs)]


def _long(lines: Sequence[list[str]]) -> Iterator[list[str]]:
    return (line for line in lines if len(line) >= _LINE_WORDS)


def _encoded(
    source: TextSource,
    shown: Iterable[tuple[Mapping[str, str], str]],
    encode: Encode,
    context: int,
    *,
    held_out: bool,
) -> Iterator[Text]:
    """Yield rendered and tokenized rows, a block at a time."""
    pending: list[tuple[str, bool]] = []
    for row, text in shown:
        template = Template(text=text)
        pending.append((template.render(row), not template.ends_in_place))
        if len(pending) == _ENCODE_ROWS:
            yield from _flush(source, pending, encode, context, held_out)
            pending.clear()
    yield from _flush(source, pending, encode, context, held_out)


def _flush(
    source: TextSource,
    pending: Sequence[tuple[str, bool]],
    encode: Encode,
    context: int,
    held_out: bool,
) -> Iterator[Text]:
    if not pending:
        return
    for ids, (_, cue) in zip(encode([text for text, _ in pending]), pending, strict=True):
        if not ids or len(ids) > context and cue:
            continue  # A blank row; and a prompt, cut, would end at another token than its cue.
        yield Text(source=source.name, ids=tuple(ids[:context]), cue=cue, held_out=held_out)


def _rows(source: TextSource, root: Path) -> Iterator[dict[str, str]]:
    """Yield the mapped fields of each row, or the passages of plain text."""
    paths = sorted(root.glob(source.path))
    if not paths:
        raise RequestError(f"source {source.name}: nothing matches {root / source.path}")
    for path in paths:
        ending = Path(path.name.removesuffix(".gz")).suffix
        text = _open(path, source.encoding)
        if ending == ".txt":
            yield from ({"text": passage} for passage in _passages(text, source.passage_words))
            continue
        if ending not in _READERS:
            raise RequestError(f"{path}: write .jsonl, .csv, .tsv, .txt or .eng, not {ending}")
        for number, row in enumerate(_READERS[ending](path, text)):
            missing = [column for column in source.columns.values() if row.get(column) is None]
            if missing:
                raise RequestError(f"{path}: row {number} has no column {missing[0]!r}")
            yield {name: _value(row[column]) for name, column in source.columns.items()}


def _jsonl(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise RequestError(f"{path}, line {number} is no JSON object")
        yield row


def _csv(path: Path, text: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise RequestError(f"{path} cannot be read: {error}") from error


def _lines(_: Path, text: str) -> Iterator[dict[str, Any]]:
    return ({"text": line} for line in text.split("\n") if line.strip())


def _tsv(_: Path, text: str) -> Iterator[dict[str, Any]]:
    for line in text.split("\n"):
        if line:
            cells = line.replace("\\n", "\n").split("\t")
            yield {str(at): cell for at, cell in enumerate(cells)}


_READERS: dict[str, Callable[[Path, str], Iterator[dict[str, Any]]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".eng": _lines,
}


def _passages(text: str, words: int) -> Iterator[str]:
    """Yield passages of whole paragraphs, line breaks inside them removed, cut at `words` words."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    pending: list[str] = []
    for paragraph in paragraphs:
        pending += [*paragraph.split(" "), "\n"] if paragraph else []
        while len(pending) >= words:
            yield _join(pending[:words])
            pending = pending[words:]
    if len(pending) > words // 2:
        yield _join(pending)


def _join(words: Sequence[str]) -> str:
    return " ".join(words).replace(" \n ", "\n").strip()


def _value(value: object) -> str:
    """Return a cell as text: line ends trimmed, a list joined by spaces."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "\n".join(line.strip() for line in text.replace("\r\n", "\n").strip().split("\n"))


def _open(path: Path, encoding: str) -> str:
    if not path.is_file():
        raise RequestError(f"there is no {path}")
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode(encoding)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _draw(seed: int, *parts: str) -> bytes:
    return hashlib.blake2b("\0".join([str(seed), *parts]).encode(), digest_size=16).digest()
