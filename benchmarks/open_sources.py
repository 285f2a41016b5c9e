"""Readers of the open data sets behind the quickstart, in the layout of one folder.

| folder | what is there | where it is published |
|---|---|---|
| gsm8k/{train,test}.jsonl | GSM8K, MIT | github.com/openai/grade-school-math, grade_school_math/data |
| tal-scq5k/en_single_choice_train_3K.jsonl | TAL-SCQ5K English, MIT | github.com/math-eval/TAL-SCQ5K, en_single_choice_constructed_5K |
| flan-cot/{creak,qasc,strategyqa}_train.tsv | prompt, answer, rationale; tab-separated | github.com/google-research/FLAN, flan/v2/cot_data |
| mts-dialog/MTS-Dialog-{TrainingSet,ValidationSet,TestSet-1-MEDIQA-Chat-2023,TestSet-2-MEDIQA-Sum-2023}.csv | MTS-Dialog, CC BY 4.0 | github.com/abachaa/MTS-Dialog, Main-Dataset |
| tico19-en-zh/tico19-test.eng | TICO-19 test set, English side, a sentence a line | tico-19.github.io |
| gutenberg/*.txt | books, public domain | NLTK data package `gutenberg`, nltk.org/nltk_data |
"""  # noqa: E501 (a table)

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

NOVELS = (
    "austen-emma",
    "austen-persuasion",
    "austen-sense",
    "chesterton-ball",
    "chesterton-brown",
    "chesterton-thursday",
    "melville-moby_dick",
)
POEMS = ("milton-paradise", "whitman-leaves", "blake-poems")
_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)(?<=[.!?])\"?\s+(?=[A-Z\"])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text in pieces that may be cut between, never inside."""

    units: tuple[str, ...]
    """Sentences, lines or whole rows, in order."""
    separator: str = " "
    """What stands between two units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """One row of a pool, prior or validation set."""

    question: str
    """Text the prompt is made of."""
    answer: str
    """Response, as far as the source has one."""


def read_gsm8k(sources: Path, part: str = "train") -> list[Exercise]:
    """Return the rows of one GSM8K file, as published."""
    rows = _jsonl(sources / "gsm8k" / f"{part}.jsonl")
    return [Exercise(question=row["question"], answer=row["answer"]) for row in rows]


def read_tal(sources: Path) -> list[Exercise]:
    """Return the TAL-SCQ5K problems without their options; answer: analysis, then right option."""
    exercises = []
    for row in _jsonl(sources / "tal-scq5k" / "en_single_choice_train_3K.jsonl"):
        options = {part["aoVal"]: part["content"] for [part] in row["answer_option_list"]}
        solution = " ".join(row["answer_analysis"]).strip()
        answer = f"{solution}\nAnswer: {options[row['answer_value']].strip()}"
        exercises.append(Exercise(question=row["problem"].strip(), answer=answer))
    return exercises


def read_strategyqa(sources: Path) -> list[Exercise]:
    """Return the StrategyQA questions; answer: the facts, then yes or no."""
    return _explained(read_flan(sources, "strategyqa"))


def read_creak(sources: Path) -> list[Exercise]:
    """Return the CREAK questions, each about a claim; answer: the explanation, then yes or no."""
    return _explained(read_flan(sources, "creak"))


def read_mts(sources: Path, part: str = "TrainingSet") -> list[Exercise]:
    """Return the dialogues of one MTS-Dialog file; answer: the section of the clinical note."""
    path = sources / "mts-dialog" / f"MTS-Dialog-{part}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Exercise(question=_lines(row["dialogue"]), answer=row["section_text"].strip())
            for row in csv.DictReader(file)
        ]


def read_flan(sources: Path, name: str) -> list[tuple[str, str, str]]:
    r"""Return prompt, answer and rationale of each row, the file's `\n` marks as newlines."""
    text = (sources / "flan-cot" / f"{name}_train.tsv").read_text(encoding="utf-8")
    rows = []
    for line in text.split("\n"):
        if line:
            prompt, answer, rationale = line.replace("\\n", "\n").split("\t")
            rows.append((prompt, answer, rationale))
    return rows


def creak_prompts(sources: Path) -> list[Document]:
    """Return one document a CREAK row: the question about its claim, not to be cut."""
    return [Document(units=(prompt,)) for prompt, _, _ in read_flan(sources, "creak")]


def creak_claims(sources: Path) -> list[Document]:
    """Return one document a CREAK row: its claim alone."""
    prompts = (prompt for prompt, _, _ in read_flan(sources, "creak"))
    return [Document(units=(prompt.split('"', 1)[1].rsplit('"', 1)[0],)) for prompt in prompts]


def qasc_prompts(sources: Path) -> list[Document]:
    """Return one document a QASC row: question and options, to be cut after two options or more."""
    documents = []
    for prompt, _, _ in read_flan(sources, "qasc"):
        lines = prompt.split("\n")
        documents.append(Document(units=("\n".join(lines[:4]), *lines[4:]), separator="\n"))
    return documents


def qasc_facts(sources: Path) -> list[Document]:
    """Return one document a QASC row: the facts that its answer rests on."""
    return [Document(units=(rationale,)) for _, _, rationale in read_flan(sources, "qasc")]


def tico_sentences(sources: Path) -> list[Document]:
    """Return one document a TICO-19 sentence, in the order of the test set; no spoken fragments."""
    text = (sources / "tico19-en-zh" / "tico19-test.eng").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.split("\n")]
    return [Document(units=(line,)) for line in lines if line.endswith(".") and line[0].isupper()]


def novel_paragraphs(sources: Path) -> list[Document]:
    """Return one document a paragraph of the novels, to be cut between sentences."""
    paragraphs = [part for book in NOVELS for part in _paragraphs(sources, book)]
    joined = [" ".join(part.split()) for part in paragraphs]
    prose = [part for part in joined if part[:1].isupper() and part.endswith((".", "!", "?"))]
    return [Document(units=tuple(_SENTENCE_END.split(part))) for part in prose]


def verse_paragraphs(sources: Path) -> list[Document]:
    """Return one document a stanza or verse paragraph of the poems, to be cut between lines."""
    stanzas = [part for book in POEMS for part in _paragraphs(sources, book)]
    kept = [_lines(part) for part in stanzas if part.count("\n") > 1 and "[" not in part]
    return [Document(units=tuple(part.split("\n")), separator="\n") for part in kept]


def _explained(rows: list[tuple[str, str, str]]) -> list[Exercise]:
    return [
        Exercise(question=prompt, answer=f"{rationale}\nAnswer: {answer}")
        for prompt, answer, rationale in rows
    ]


def _paragraphs(sources: Path, book: str) -> list[str]:
    text = (sources / "gutenberg" / f"{book}.txt").read_text(encoding="latin-1")
    return re.split(r"\n\s*\n", text.replace("\r\n", "\n"))


def _jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def _lines(text: str) -> str:
    """Return the text with each line stripped, its end-of-line marks as newlines."""
    return "\n".join(line.strip() for line in text.replace("\r\n", "\n").strip().split("\n"))
