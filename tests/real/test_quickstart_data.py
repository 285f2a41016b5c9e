"""The shipped data: sizes, no label in the pool, sets disjoint, every source's licence named."""

import csv
import gzip
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import igds
from igds.data.tokens import encode_prompts
from igds.models.load import load_tokenizer, resolve_model
from igds.stats.auroc import auroc

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "configs" / "quickstart" / "data"
NEUTRAL = ROOT / "src" / "igds" / "data"


def read(path: Path) -> list[dict]:
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    return [json.loads(line) for line in lines if line]


def labels() -> list[dict]:
    text = gzip.decompress((DATA / "pool_labels.csv.gz").read_bytes()).decode()
    return list(csv.DictReader(text.splitlines()))


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs_of_13(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + 13]) for at in range(len(found) - 12)}


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    sets = {
        name: [row["question"] for row in read(DATA / f"{name}.jsonl.gz")]
        for name in ("prior", "validation", "control", "pool")
    }
    return sets | {"neutral": [row["text"] for row in read(NEUTRAL / "neutral.jsonl.gz")]}


def test_sizes(texts):
    sizes = {name: len(rows) for name, rows in texts.items()}
    assert sizes == {"prior": 240, "validation": 200, "control": 240, "pool": 1500, "neutral": 300}
    assert sum(file.stat().st_size for file in DATA.iterdir()) < 2_000_000
    assert (NEUTRAL / "neutral.jsonl.gz").stat().st_size < 200_000


def test_no_set_shares_a_text_or_13_words_with_another(texts):
    whole = {name: {" ".join(words(text)) for text in rows} for name, rows in texts.items()}
    grams = {name: set().union(*map(runs_of_13, rows)) for name, rows in texts.items()}
    names = sorted(texts)
    for first in names:
        assert len(whole[first]) == len(texts[first]), f"{first} holds a text twice"
        for second in names:
            if first < second:
                assert not whole[first] & whole[second], (first, second)
                assert not grams[first] & grams[second], (first, second)


def test_the_pool_holds_nothing_that_names_a_source():
    for row in read(DATA / "pool.jsonl.gz"):
        assert set(row) == {"question", "answer"}
        assert row["question"].strip()
        assert row["answer"].strip()


def test_labels_name_each_pool_row_once_and_the_order_is_shuffled():
    rows = labels()
    assert [int(row["ordinal"]) for row in rows] == list(range(1500))
    counts = Counter((row["source"], row["kind"]) for row in rows)
    assert counts == {
        ("gsm8k", "math"): 500,
        ("tal-scq5k", "math"): 400,
        ("strategyqa", "non-math"): 300,
        ("mts-dialog", "non-math"): 300,
    }
    first_half = Counter(row["source"] for row in rows[:750])
    assert all(0.4 < first_half[source] / counts[source, kind] < 0.6 for source, kind in counts)


def test_labels_fit_the_rows():
    for row, label in zip(read(DATA / "pool.jsonl.gz"), labels(), strict=True):
        assert ("####" in row["answer"]) == (label["source"] == "gsm8k")


def test_controls_come_from_four_sources_outside_the_pool():
    control = Counter(row["source"] for row in read(DATA / "control.jsonl.gz"))
    assert control == dict.fromkeys(("creak", "qasc", "tico19", "gutenberg"), 60)
    assert not set(control) & {row["source"] for row in labels()}


def test_control_lengths_follow_the_prior_questions(texts):
    """Tokens alone must not part task from control: the AUROC is near one half."""
    file = igds.load_config(DATA.parent / "igds.yaml")
    tokenizer = load_tokenizer(resolve_model(file.config.model, "cpu", file.base))
    prior, control = (
        np.array([len(ids) for ids in encode_prompts(tokenizer, texts[name])], dtype=float)
        for name in ("prior", "control")
    )
    assert abs(auroc(prior, control) - 0.5) < 0.05


def test_neutral_set_has_four_sources_or_more():
    rows = read(NEUTRAL / "neutral.jsonl.gz")
    assert all(set(row) == {"text", "source"} for row in rows)
    assert min(Counter(row["source"] for row in rows).values()) >= 40
    assert len({row["source"] for row in rows}) >= 4


def test_every_source_has_its_licence():
    notice = (DATA / "LICENSES.md").read_text()
    named = {
        "gsm8k": "GSM8K",
        "tal-scq5k": "TAL-SCQ5K",
        "strategyqa": "StrategyQA",
        "mts-dialog": "MTS-Dialog",
        "creak": "CREAK",
        "qasc": "QASC",
        "tico19": "TICO-19",
        "gutenberg": "Gutenberg",
    }
    shipped = {row["source"] for row in labels() + read(DATA / "control.jsonl.gz")}
    assert shipped == set(named)
    assert all(name in notice for name in named.values())
    assert "Permission is hereby granted" in notice
    assert "Attribution 4.0 International" in (DATA / "CC-BY-4.0.txt").read_text()
    neutral = (NEUTRAL / "neutral.LICENSES.md").read_text()
    for source in {row["source"] for row in read(NEUTRAL / "neutral.jsonl.gz")}:
        assert f"| {source} |" in neutral
