"""Builds the quickstart's data sets and the neutral control set from open data.

    python benchmarks/quickstart_data.py --sources DIR

DIR holds the public data sets as they are published, in the layout that `open_sources.py` names
together with where each is fetched. The choice is seeded by hashes, so the same sources give the
same bytes. No two sets share a text or a run of 13 words. Control texts are cut or joined so that
their lengths follow those of the prior questions.

Written: `configs/quickstart/data/{prior,validation,control,pool}.jsonl.gz`, `pool_labels.csv.gz`
(which source each pool row came from: opened by the last lines of the quickstart only) and
`src/igds/data/neutral.jsonl.gz` (the control set of users who bring none).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import open_sources as sources
from open_sources import Document, Exercise

SEED = 20250
PRIOR_ROWS = 240
VALIDATION_ROWS = 200
CONTROL_ROWS = 60  # of each of four sources
NEUTRAL_ROWS = 60  # of each of five sources
POOL_ROWS = {"gsm8k": 500, "tal-scq5k": 400, "strategyqa": 300, "mts-dialog": 300}
POOL_KIND = {"gsm8k": "math", "tal-scq5k": "math", "strategyqa": "non-math"}
DIALOGUE_WORDS = (15, 120)  # short enough that the quickstart ends in minutes
NEUTRAL_LENGTHS = (15, 90)
NGRAM = 13

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "configs" / "quickstart" / "data"
NEUTRAL = ROOT / "src" / "igds" / "data" / "neutral.jsonl.gz"


class Disjoint:
    """Admits a text into a set when no other set holds it, nor a run of 13 words of it."""

    def __init__(self) -> None:
        """Start with no text."""
        self._texts: set[str] = set()
        self._owner: dict[str, str] = {}

    def admit(self, text: str, owner: str) -> bool:
        """Return whether the text now belongs to the owner; a text is admitted only once."""
        grams = ngrams(text)
        key = " ".join(words(text))
        if key in self._texts or any(self._owner.get(gram, owner) != owner for gram in grams):
            return False
        self._texts.add(key)
        self._owner.update(dict.fromkeys(grams, owner))
        return True


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def ngrams(text: str) -> set[str]:
    """Return every run of 13 words; a shorter text has none."""
    found = words(text)
    return {" ".join(found[start : start + NGRAM]) for start in range(len(found) - NGRAM + 1)}


def length(text: str) -> int:
    """Return the number of words, single digits and punctuation marks: near a tokenizer's count."""
    return len(re.findall(r"\d|[^\W\d]+|[^\w\s]", text))


def shuffled(items: Iterable, purpose: str) -> list:
    """Return the items in an order fixed by the seed, the purpose and their own text."""
    return sorted(items, key=lambda item: _draw(purpose, repr(item)))


def build(folder: Path) -> None:
    """Write every file of the quickstart and the neutral control set."""
    seen = Disjoint()
    gsm8k = iter(shuffled(sources.read_gsm8k(folder), "gsm8k"))
    prior = take(gsm8k, PRIOR_ROWS, seen, "prior")
    validation = take(gsm8k, VALIDATION_ROWS, seen, "validation")
    used: dict[str, set[int]] = {"creak": set(), "qasc": set(), "tico19": set(), "gutenberg": set()}
    control = build_control(folder, [length(row.question) for row in prior], seen, used)
    pool = build_pool(folder, gsm8k, seen)
    neutral = build_neutral(folder, seen, used)
    write_jsonl(DATA / "prior.jsonl.gz", [as_question(row) for row in prior])
    write_jsonl(DATA / "validation.jsonl.gz", [as_question(row) for row in validation])
    write_jsonl(DATA / "control.jsonl.gz", control)
    write_jsonl(DATA / "pool.jsonl.gz", [as_question(row) for _, row in pool])
    labels = [
        f"{at},{source},{POOL_KIND.get(source, 'non-math')}" for at, (source, _) in enumerate(pool)
    ]
    write_gzip(DATA / "pool_labels.csv.gz", "\n".join(["ordinal,source,kind", *labels, ""]))
    write_jsonl(NEUTRAL, neutral)


def take(rows: Iterable[Exercise], count: int, seen: Disjoint, owner: str) -> list[Exercise]:
    """Return the first `count` rows whose question is admitted.

    Raises:
        ValueError: there are not that many.
    """
    kept: list[Exercise] = []
    for row in rows:
        if seen.admit(row.question, owner):
            kept.append(row)
        if len(kept) == count:
            return kept
    raise ValueError(f"{owner}: only {len(kept)} of {count} rows are left after the overlap check")


def build_control(
    folder: Path, lengths: Sequence[int], seen: Disjoint, used: dict[str, set[int]]
) -> list[dict]:
    """Return rows of four other tasks, each source as long as every fourth prior question."""
    readers = {
        "creak": sources.creak_prompts,
        "qasc": sources.qasc_prompts,
        "tico19": sources.tico_sentences,
        "gutenberg": sources.novel_paragraphs,
    }
    ranked = sorted(lengths)
    rows = []
    for offset, (name, reader) in enumerate(readers.items()):
        targets = ranked[offset :: len(readers)][:CONTROL_ROWS]
        texts = passages(reader(folder), targets, seen, f"control/{name}", used[name])
        rows += [{"question": text, "source": name} for text in texts]
    return shuffled(rows, "control")


def build_pool(folder: Path, gsm8k: Iterable[Exercise], seen: Disjoint) -> list[tuple]:
    """Return source and row of the mixed pool, shuffled."""
    low, high = DIALOGUE_WORDS
    dialogues = [
        row for row in sources.read_mts(folder) if low <= len(row.question.split()) <= high
    ]
    rows = {
        "gsm8k": gsm8k,
        "tal-scq5k": [row for row in sources.read_tal(folder) if len(row.question.split()) >= 5],
        "strategyqa": sources.read_strategyqa(folder),
        "mts-dialog": dialogues,
    }
    chosen = []
    for name, count in POOL_ROWS.items():
        candidates = rows[name] if name == "gsm8k" else shuffled(rows[name], name)
        chosen += [(name, row) for row in take(candidates, count, seen, "pool")]
    return sorted(chosen, key=lambda pair: _draw("pool", repr(pair[1])))


def build_neutral(folder: Path, seen: Disjoint, used: dict[str, set[int]]) -> list[dict]:
    """Return texts that ask for nothing: reports, novels, verse, claims, facts."""
    readers = {
        "tico19": (sources.tico_sentences, used["tico19"]),
        "gutenberg-prose": (sources.novel_paragraphs, used["gutenberg"]),
        "gutenberg-verse": (sources.verse_paragraphs, set()),
        "creak-claims": (sources.creak_claims, used["creak"]),
        "qasc-facts": (sources.qasc_facts, used["qasc"]),
    }
    low, high = NEUTRAL_LENGTHS
    targets = [low + (high - low) * rank // (NEUTRAL_ROWS - 1) for rank in range(NEUTRAL_ROWS)]
    rows = []
    for name, (reader, taken) in readers.items():
        texts = passages(reader(folder), targets, seen, f"neutral/{name}", taken)
        rows += [{"text": text, "source": name} for text in texts]
    return shuffled(rows, "neutral")


def passages(
    documents: Sequence[Document],
    targets: Sequence[int],
    seen: Disjoint,
    owner: str,
    used: set[int],
) -> list[str]:
    """Return one text a target length, within a tenth of it, cut or joined from the documents.

    Documents already used are passed over; those now used are added to them.

    Raises:
        ValueError: the documents do not yield a text of some length.
    """
    starts = shuffled(range(len(documents)), owner)
    texts = []
    for target in sorted(targets, reverse=True):  # the longest are the hardest to find
        for start in starts:
            text, span = fit(documents, start, target)
            near = abs(length(text) - target) <= max(2, target // 10)
            if near and used.isdisjoint(span) and seen.admit(text, owner.split("/")[0]):
                used.update(span)
                texts.append(text)
                break
        else:
            raise ValueError(f"{owner}: no text of length {target} is left")
    return texts


def fit(documents: Sequence[Document], start: int, target: int) -> tuple[str, range]:
    """Return the text from one document on that is nearest to a length, and the documents in it."""
    best, last = "", start
    text = ""
    for at in range(start, len(documents)):
        for unit in documents[at].units:
            joint = documents[at].separator if unit is not documents[at].units[0] else "\n"
            longer = f"{text}{joint}{unit}" if text else unit
            if best and abs(length(longer) - target) > abs(length(best) - target):
                return best, range(start, last + 1)
            text = best = longer
            last = at
    return best, range(start, last + 1)


def as_question(row: Exercise) -> dict:
    """Return a row with the fields of the task math."""
    return {"question": row.question, "answer": row.answer}


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line, gzipped."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_gzip(path, "".join(lines))


def write_gzip(path: Path, text: str) -> None:
    """Write gzipped UTF-8 whose bytes depend on the text alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def _draw(purpose: str, text: str) -> bytes:
    return hashlib.blake2b(f"{SEED}/{purpose}/{text}".encode(), digest_size=16).digest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", type=Path, required=True, help="folder of the open data sets")
    build(parser.parse_args().sources)
