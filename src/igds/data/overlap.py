"""Rows that two sets share, whole or in a run of 13 words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from igds.data.index import iter_index
from igds.data.index_files import PROMPT_FIELDS
from igds.data.messages import MESSAGES, split_turns, without_system
from igds.data.templates import as_text
from igds.data.words import words_of
from igds.rows import Status

N_WORDS = 13
"""Length of a shared run of words that counts as overlap."""
_EXAMPLES = 3
_WORDING_ROWS, _WORDING_SHARE = 3, 0.1
"""A run of words in more different prompts of a set than this number and this share of them is the
set's wording, as an instruction in every user turn, and says nothing about its rows."""
_SHOWN = 60
"""Characters of a row's text that are shown of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What two sets of rows share."""

    a: str
    """Name of the smaller set."""
    b: str
    """Name of the larger set."""
    rows: int
    """Rows of `b` whose mapped fields equal those of a row of `a`."""
    ngrams: int
    """Other rows of `b` whose prompt fields share 13 words in a row with a row of `a`; of fewer
    words, all of them."""
    examples: list[list[str]]
    """Row ids of the first such pairs, [in a, in b]."""
    keys: frozenset[str]
    """What they share: content hashes of rows, and runs of words."""


@dataclass(slots=True)
class _Tally:
    """An overlap while it is counted."""

    rows: int = 0
    ngrams: int = 0
    examples: list[list[str]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


class _Wording:
    """Counts in how many different prompts of a set each run of words stands."""

    def __init__(self) -> None:
        self._prompts: set[int] = set()
        self._counts: Counter[str] = Counter()

    def add(self, grams: list[str]) -> None:
        """Count the runs of a prompt, unless an equal prompt was counted."""
        if (prompt := hash(tuple(grams))) not in self._prompts:
            self._prompts.add(prompt)
            self._counts.update(set(grams))

    def runs(self) -> set[str]:
        """Return the runs that stand in too many prompts to say anything about one."""
        limit = max(_WORDING_ROWS, _WORDING_SHARE * len(self._prompts))
        return {gram for gram, count in self._counts.items() if count > limit}


Known = dict[str, dict[str, str]]
"""Content hash or run of words -> set -> id of the set's first row that has it."""


def check_overlap(folders: Mapping[str, Path]) -> list[Overlap]:
    """Return what each pair of sets shares; pairs that share nothing are left out.

    Only rows with status ok count, and no run of words that is wording of the smaller set. The
    largest set is streamed, the others' hashes and runs of words are held in memory.

    Args:
        folders: name of a set -> its index folder.
    """
    order = sorted(folders, key=lambda name: (_n_rows(folders[name]), name))
    tallies = {pair: _Tally() for pair in combinations(order, 2)}
    known: Known = {}
    for name in order:
        own: Known = {}
        wording = _Wording()
        for row_id, digest, grams in _rows(folders[name]):
            for other, (theirs, keys) in _shared(known, digest, grams).items():
                tally, whole = tallies[other, name], digest in keys
                tally.rows += whole
                tally.ngrams += not whole
                tally.keys |= keys
                if len(tally.examples) < _EXAMPLES:
                    tally.examples.append([theirs, row_id])
            if name != order[-1]:
                wording.add(grams)
                for key in (digest, *grams):
                    own.setdefault(key, {}).setdefault(name, row_id)
        for key in own.keys() - wording.runs():
            known.setdefault(key, {}).update(own[key])
    return [
        Overlap(
            a=a,
            b=b,
            rows=tally.rows,
            ngrams=tally.ngrams,
            examples=tally.examples,
            keys=frozenset(tally.keys),
        )
        for (a, b), tally in tallies.items()
        if tally.examples
    ]


def rows_with(folder: Path, keys: Collection[str]) -> set[str]:
    """Return the ids of a set's rows with status ok that have any of these keys.

    Args:
        folder: the set's index folder.
        keys: as in `Overlap.keys`.
    """
    return {
        row_id
        for row_id, digest, grams in _rows(folder)
        if digest in keys or any(gram in keys for gram in grams)
    }


def row_words(folder: Path, row_id: str) -> str:
    """Return a row's file, its number there from 1, and the start of its prompt's text.

    Args:
        folder: index folder of the row's set.
        row_id: as in `Overlap.examples`.
    """
    rows = ds.dataset(sorted(map(str, folder.glob("rows-*.parquet"))))
    named = pc.field("row_id") == row_id
    (row,) = rows.to_table(["source", "ordinal", "fields"], filter=named).to_pylist()
    text = " ".join(_prompt_text(json.loads(row["fields"]), _prompt_fields(folder)).split())
    start = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f"{row['source']}, row {row['ordinal'] + 1}: {start!r}"


def word_runs(text: str) -> list[str]:
    """Return the runs of 13 words of a text (see `words_of`); fewer words than 13 are one run."""
    words = words_of(text)
    if len(words) < N_WORDS:
        return [" ".join(words)] if words else []
    return [" ".join(words[i : i + N_WORDS]) for i in range(len(words) - N_WORDS + 1)]


def _shared(known: Known, digest: str, grams: list[str]) -> dict[str, tuple[str, set[str]]]:
    """Return set -> (id of its first row that shares something, what is shared with the set)."""
    shared: dict[str, tuple[str, set[str]]] = {}
    for key in (digest, *grams):
        for name, row_id in known.get(key, {}).items():
            shared.setdefault(name, (row_id, set()))[1].add(key)
    return shared


def _rows(folder: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield row id, content hash and runs of words of the rows with status ok."""
    names = _prompt_fields(folder)
    for batch in iter_index(folder, ["row_id", "content_hash", "status", "fields"]):
        for row_id, digest, status, data in zip(*batch.to_pydict().values(), strict=True):
            if status == Status.OK:
                fields = json.loads(data)
                yield row_id, digest, word_runs(_prompt_text(fields, names))


def _prompt_text(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the text of a row's prompt fields, or of a chat row's turns but for system prompts."""
    if MESSAGES not in fields or MESSAGES in names:
        return " ".join(as_text(fields[name]) for name in names)
    turns, _ = split_turns(fields[MESSAGES])
    return " ".join(turn["content"] for turn in without_system(turns))


def _prompt_fields(folder: Path) -> list[str]:
    schema = pq.read_schema(folder / "rows-00000.parquet")
    return json.loads(schema.metadata[PROMPT_FIELDS.encode()])


def _n_rows(folder: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("rows-*.parquet"))
