"""Builds the data sets of the two intervention results from open data.

    python benchmarks/interventions_data.py --sources DIR

DIR is laid out as `open_sources.py` says. Written to `configs/interventions/data/`:
`math_validation`, GSM8K training rows with short solutions (prior and control rows are the
quickstart's), and `summarization_{prior,validation,control}`: MTS-Dialog dialogues with short
summaries, the validation rows from its validation and test sets, and texts of four other sources as
long as the prior dialogues.

No row shares a run of 13 words with another set, nor with a text that the quickstart's SAEs were
trained or measured on (which texts those were follows from `configs/quickstart/saes.yaml` and its
seed); no validation row shares one with another, so that S1, S2 and S3 have nothing in common.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import open_sources as sources
from _common import QUICKSTART, ROOT, read_rows
from igds.config.load import read_settings
from igds.data.tokens import encode_prompts
from igds.models.load import load_tokenizer, resolve_model
from igds.sae_training.config import SAETraining
from igds.sae_training.corpus import read_excluded, read_texts
from igds.tasks.math import split_answer
from open_sources import Document, Exercise
from quickstart_data import (
    Disjoint,
    as_question,
    length,
    passages,
    shuffled,
    take,
    words,
    write_jsonl,
)

DATA = ROOT / "configs" / "interventions" / "data"
MATH_ROWS = 240
SOLUTION_LENGTH = 40
"""Most words, digits and signs of a solution: controls cost in proportion to it."""
PRIOR_ROWS = 240
CONTROL_ROWS = 60  # of each of four sources
DIALOGUE_LENGTH = (20, 200)
SUMMARY_WORDS = (6, 40)
UNSEEN = ("ValidationSet", "TestSet-1-MEDIQA-Chat-2023", "TestSet-2-MEDIQA-Sum-2023")
"""Files of MTS-Dialog that the SAEs' training text does not name."""
MIN_WORDS = 13
"""Shorter texts have no run of 13 words by which to tell whether they were trained on."""


def build(folder: Path) -> None:
    """Write every file."""
    trained = list(trained_texts(folder))
    write_jsonl(DATA / "math_validation.jsonl.gz", build_math(folder, trained))
    for name, rows in build_summarization(folder, trained).items():
        write_jsonl(DATA / f"summarization_{name}.jsonl.gz", rows)


def trained_texts(folder: Path) -> Iterator[str]:
    """Yield each text that the quickstart's SAEs were trained or measured on, as they saw it."""
    config = read_settings(QUICKSTART / "saes.yaml", (), SAETraining)
    tokenizer = load_tokenizer(resolve_model(config.model, "cpu", QUICKSTART))
    excluded = read_excluded(QUICKSTART / path for path in config.exclude)
    for source in config.sources:
        texts = read_texts(
            source,
            folder,
            partial(encode_prompts, tokenizer),
            excluded=excluded,
            holdout=config.holdout,
            context=config.context,
            seed=config.seed,
        )
        yield from (str(tokenizer.decode(list(text.ids))) for text in texts)


def build_math(folder: Path, trained: Sequence[str]) -> list[dict]:
    """Return GSM8K rows that neither the quickstart nor the training of its SAEs has read."""
    seen = seen_texts(trained)
    for name in ("prior", "validation", "control", "pool"):
        for row in read_rows(name):
            seen.admit(row["question"], "quickstart")
    rows = [
        row
        for row in shuffled(sources.read_gsm8k(folder), "interventions/math")
        if is_long(row.question) and length(split_answer(row.answer)[0]) <= SOLUTION_LENGTH
    ]
    return [as_question(row) for row in apart(rows, seen, MATH_ROWS)]


def build_summarization(folder: Path, trained: Sequence[str]) -> dict[str, list[dict]]:
    """Return set -> rows: prior and validation dialogues, and control texts of their length."""
    seen = seen_texts(trained)
    unseen = [row for part in UNSEEN for row in sources.read_mts(folder, part)]
    validation = apart(shuffled(filter(fits, unseen), "interventions/validation"), seen, None)
    known = shuffled(filter(fits, sources.read_mts(folder)), "interventions/prior")
    prior = take(known, PRIOR_ROWS, seen, "prior")
    return {
        "prior": [as_dialogue(row) for row in prior],
        "validation": [as_dialogue(row) for row in validation],
        "control": build_control(folder, [length(row.question) for row in prior], seen),
    }


def build_control(folder: Path, lengths: Sequence[int], seen: Disjoint) -> list[dict]:
    """Return texts of four other sources, each source as long as every fourth prior dialogue."""
    questions = {"gsm8k": sources.read_gsm8k, "tal-scq5k": sources.read_tal}
    documents = {
        name: [Document(units=(row.question,)) for row in reader(folder) if is_long(row.question)]
        for name, reader in questions.items()
    }
    documents["gutenberg-prose"] = sources.novel_paragraphs(folder)
    documents["gutenberg-verse"] = sources.verse_paragraphs(folder)
    ranked = sorted(lengths)
    rows = []
    for offset, (name, texts) in enumerate(documents.items()):
        targets = ranked[offset :: len(documents)][:CONTROL_ROWS]
        owner = f"control/interventions/{name}"
        found = passages(texts, targets, seen, owner, set())
        rows += [{"dialogue": text, "source": name} for text in found]
    return shuffled(rows, "interventions/control")


def seen_texts(trained: Iterable[str]) -> Disjoint:
    """Return what admits only texts that were not trained on."""
    seen = Disjoint()
    for text in trained:
        seen.admit(text, "trained")
    return seen


def apart(rows: Iterable[Exercise], seen: Disjoint, count: int | None) -> list[Exercise]:
    """Return the first `count` rows, all when None, that share no 13 words with one before.

    Raises:
        ValueError: there are not that many.
    """
    kept = [row for place, row in enumerate(rows) if seen.admit(row.question, f"row {place}")]
    if count is not None and len(kept) < count:
        raise ValueError(f"only {len(kept)} of {count} rows are left after the overlap check")
    return kept[:count]


def fits(row: Exercise) -> bool:
    """Return whether a dialogue and its summary are short enough to measure cheaply."""
    low, high = DIALOGUE_LENGTH
    fewest, most = SUMMARY_WORDS
    return (
        is_long(row.question)
        and low <= length(row.question) <= high
        and fewest <= len(row.answer.split()) <= most
    )


def is_long(text: str) -> bool:
    """Return whether a text has a run of words by which it can be told apart."""
    return len(words(text)) >= MIN_WORDS


def as_dialogue(row: Exercise) -> dict:
    """Return a row with the fields of the task summarization."""
    return {"dialogue": row.question, "summary": row.answer}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", type=Path, required=True, help="folder of the open data sets")
    build(parser.parse_args().sources)
