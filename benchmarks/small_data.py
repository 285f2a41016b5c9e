"""Builds the data sets of the small experiment from open data.

    python benchmarks/small_data.py --sources DIR

DIR is laid out as `open_sources.py` says. Written to `configs/small/data/`:

- `{math,summarization}_{pool,dev,test}`: rows of GSM8K and MTS-Dialog.
- `{math,summarization}_validation_permuted`: the validation sets of `configs/interventions`, their
  answers exchanged.
- `noise_prompt`, `noise_response`: two pools, half of each clean rows of the math pool. The
  rest are rows of two other tasks with answers of their own, or else questions of the math pool
  with their answers exchanged. Which these are stands in `noise_*_labels.csv.gz` alone, by a row's
  place from 0; no config names that file.

Prior, validation and control sets are those of `configs/quickstart` and `configs/interventions`. No
row shares a run of 13 words with another set of its config, and no two test rows share one. No row
shares one with a text that the quickstart's SAEs were trained or measured on, but for the pool of
summarization: how many of its rows do is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import open_sources as sources
from _common import ROOT, read_rows
from igds.tasks.math import split_answer
from interventions_data import UNSEEN, apart, as_dialogue, is_long, seen_texts, trained_texts
from open_sources import Exercise
from quickstart_data import (
    DIALOGUE_WORDS,
    Disjoint,
    as_question,
    length,
    shuffled,
    take,
    words,
    write_gzip,
    write_jsonl,
)

DATA = ROOT / "configs" / "small" / "data"
INTERVENTIONS = ROOT / "configs" / "interventions"
MATH_TEST_ROWS = 300
MATH_ROWS = {"dev": 150, "pool": 1500}
SUMMARIZATION_DEV_ROWS = 50
SUMMARY_WORDS = 3
"""Fewest words of a section: those of one or two are `None.` and the like, no summaries."""
MOST = 880
"""Most words, digits and signs of dialogue and summary: prompt and response fit 1,024 tokens."""
CLEAN_ROWS = 600
OFF_TASK_ROWS = {"creak": 300, "mts-dialog": 300}
BIN_ROWS = 30
"""Rows of like length that exchange their answers, about."""

Labelled = tuple[str, bool, Exercise]
"""Source of a row, whether it is noise, and the row."""


def build(folder: Path) -> None:
    """Write every file."""
    trained = list(trained_texts(folder))
    known = [row["question"] for row in math_rows()]
    seen = seen_texts([*trained, *known])
    math = build_math(folder, seen)
    off_task = build_off_task(folder, seen, trained)
    summarization = build_summarization(folder, trained)
    for name, rows in math.items():
        write_jsonl(DATA / f"math_{name}.jsonl.gz", map(as_question, rows))
    for name, rows in summarization.items():
        write_jsonl(DATA / f"summarization_{name}.jsonl.gz", map(as_dialogue, rows))
    clean = [("gsm8k", False, row) for row in math["pool"][:CLEAN_ROWS]]
    others = permuted(math["pool"][CLEAN_ROWS : 2 * CLEAN_ROWS], "noise/response")
    write_noisy("noise_prompt", clean + off_task)
    write_noisy("noise_response", clean + [("gsm8k", True, row) for row in others])
    unread = seen_texts(trained)
    fresh = sum(unread.admit(row.question, "pool") for row in summarization["pool"])
    print(f"of {len(summarization['pool'])} rows of summarization_pool the SAEs never read {fresh}")


def math_rows() -> list[dict[str, str]]:
    """Return the rows of other math configs, and those that the small ones share with them."""
    names = ("prior", "validation", "control", "pool")
    return [row for name in names for row in read_rows(name)] + read_rows(
        "math_validation", INTERVENTIONS
    )


def build_math(folder: Path, seen: Disjoint) -> dict[str, list[Exercise]]:
    """Return set -> GSM8K rows that no other config has read."""
    held_out = [row for row in sources.read_gsm8k(folder, "test") if is_long(row.question)]
    rows = [row for row in sources.read_gsm8k(folder) if is_long(row.question)]
    sets = {"test": apart(shuffled(held_out, "small/math/test"), seen, MATH_TEST_ROWS)}
    rest = iter(shuffled(rows, "small/math"))
    for name, count in MATH_ROWS.items():
        sets[name] = take(rest, count, seen, name)
    validation = [Exercise(**row) for row in read_rows("math_validation", INTERVENTIONS)]
    return {**sets, "validation_permuted": permuted(validation, "small/math/validation")}


def build_summarization(folder: Path, trained: Iterable[str]) -> dict[str, list[Exercise]]:
    """Return set -> MTS-Dialog rows; those of dev and test are not of its training set."""
    known = {
        name: read_rows(f"summarization_{name}", INTERVENTIONS)
        for name in ("prior", "validation", "control")
    }
    texts = [row["dialogue"] for rows in known.values() for row in rows]
    unseen = [row for part in UNSEEN for row in sources.read_mts(folder, part)]
    ordered = shuffled(filter(is_summary, unseen), "small/summarization/test")
    held_out = apart(ordered, seen_texts([*trained, *texts]), None)
    seen = seen_texts([*texts, *(row.question for row in held_out)])
    rows = shuffled(filter(is_summary, sources.read_mts(folder)), "small/summarization")
    validation = [
        Exercise(question=row["dialogue"], answer=row["summary"]) for row in known["validation"]
    ]
    return {
        "test": held_out[SUMMARIZATION_DEV_ROWS:],
        "dev": held_out[:SUMMARIZATION_DEV_ROWS],
        "pool": [row for row in rows if seen.admit(row.question, "pool")],
        "validation_permuted": permuted(validation, "small/summarization/validation"),
    }


def build_off_task(folder: Path, seen: Disjoint, trained: Iterable[str]) -> list[Labelled]:
    """Return rows of two other tasks, new ones too: the control set has CREAK, and no dialogues.

    Some questions are too short for a run of 13 words, so all are looked for as a whole too.
    """
    low, high = DIALOGUE_WORDS
    dialogues = [row for part in ("TrainingSet", *UNSEEN) for row in sources.read_mts(folder, part)]
    candidates = {
        "creak": sources.read_creak(folder),
        "mts-dialog": [row for row in dialogues if low <= len(row.question.split()) <= high],
    }
    read = "\n".join(" ".join(words(text)) for text in trained)
    chosen = []
    for name, count in OFF_TASK_ROWS.items():
        rows = [row for row in candidates[name] if " ".join(words(row.question)) not in read]
        kept = take(shuffled(rows, f"noise/{name}"), count, seen, "off task")
        chosen += [(name, True, row) for row in kept]
    return chosen


def permuted(rows: Sequence[Exercise], purpose: str) -> list[Exercise]:
    """Return the rows with answers exchanged among those of like length, none with its own result.

    The length is that of the solution, without calculator marks.
    """
    ranked = sorted(rows, key=lambda row: (length(split_answer(row.answer)[0]), row.question))
    bins = max(1, len(ranked) // BIN_ROWS)
    edges = [len(ranked) * place // bins for place in range(bins + 1)]
    exchanged = [
        row
        for start, stop in pairwise(edges)
        for row in rotated(shuffled(ranked[start:stop], purpose))
    ]
    return shuffled(exchanged, purpose)


def rotated(rows: Sequence[Exercise]) -> list[Exercise]:
    """Return the rows, each with the answer of the row a fixed number of places on.

    Raises:
        ValueError: whatever the number, some row would keep its result.
    """
    for shift in range(1, len(rows)):
        pairs = list(zip(rows, [*rows[shift:], *rows[:shift]], strict=True))
        if all(result(row) != result(donor) for row, donor in pairs):
            return [Exercise(question=row.question, answer=donor.answer) for row, donor in pairs]
    raise ValueError(f"no rotation of {len(rows)} answers gives each row another result")


def result(row: Exercise) -> str:
    """Return the final answer; where none is marked, the words of the answer."""
    solution, final = split_answer(row.answer)
    return " ".join(words(solution)) if final is None else final


def is_summary(row: Exercise) -> bool:
    """Return whether a dialogue is summarized, not too long, and can be told apart by its words."""
    return (
        is_long(row.question)
        and len(row.answer.split()) >= SUMMARY_WORDS
        and length(row.question) + length(row.answer) <= MOST
    )


def write_noisy(name: str, rows: Sequence[Labelled]) -> None:
    """Write a pool in an order that tells nothing of its noise, and which rows are noise."""
    ordered = shuffled(rows, name)
    write_jsonl(DATA / f"{name}.jsonl.gz", (as_question(row) for _, _, row in ordered))
    lines = [f"{at},{source},{noisy:d}" for at, (source, noisy, _) in enumerate(ordered)]
    write_gzip(DATA / f"{name}_labels.csv.gz", "\n".join(["ordinal,source,noise", *lines, ""]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", type=Path, required=True, help="folder of the open data sets")
    build(parser.parse_args().sources)
