"""The configs of the small experiment load, and their committed rows are what their README says."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from igds.config.experiment import split_arm
from igds.config.load import load_config
from igds.data.overlap import word_runs
from open_sources import Exercise
from small_data import permuted

FOLDER = Path(__file__).parents[2] / "configs" / "small"
SETS = ("prior", "validation", "control", "pool", "test")
TASKS = ("math", "summarization")
NAMES = ("math", "summarization", "noise-prompt", "noise-response")
VARIANTS = {"summarization-variants": "summarization", "math-variants": "math"}


def rows(path: Path) -> list[dict[str, str]]:
    text = gzip.decompress(path.read_bytes()).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def answers(name: str) -> dict[str, str]:
    return {row["question"]: row["answer"] for row in rows(FOLDER / "data" / f"{name}.jsonl.gz")}


def labels(name: str) -> list[dict[str, str]]:
    text = gzip.decompress((FOLDER / "data" / f"{name}_labels.csv.gz").read_bytes()).decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_there_is_one_config_a_pool() -> None:
    others = {*(f"{task}-dev" for task in TASKS), *VARIANTS}
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*NAMES, *others}


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_a_config_has_its_inputs_and_cells_have_sixty_updates(name: str) -> None:
    config = load_config(FOLDER / f"{name}.yaml").config
    config.check_stages(["recall", "intervene", "score", "select", "finetune", "evaluate"])
    assert config.finetune and config.select and config.select.budget.ratio
    (source,) = config.data.pool
    chosen = int(len(rows(FOLDER / source.path)) * config.select.budget.ratio)
    assert chosen >= 60 * config.finetune.batch


@pytest.mark.parametrize("name", NAMES)
def test_no_two_sets_share_a_run_of_words(name: str) -> None:
    data = load_config(FOLDER / f"{name}.yaml").config.data
    field = "dialogue" if name == "summarization" else "question"
    runs = {
        part: {run for row in rows(FOLDER / source.path) for run in word_runs(row[field])}
        for part in SETS
        for source in getattr(data, part)
    }
    task = name if name == "summarization" else "math"
    dev = rows(FOLDER / "data" / f"{task}_dev.jsonl.gz")
    runs["dev"] = {run for row in dev for run in word_runs(row[field])}
    assert len(runs) == len(SETS) + 1
    assert [pair for pair in combinations(runs, 2) if runs[pair[0]] & runs[pair[1]]] == []


@pytest.mark.parametrize("task", TASKS)
def test_rates_are_tuned_by_random_and_full_alone_and_never_on_the_test_set(task: str) -> None:
    config = load_config(FOLDER / f"{task}.yaml").config
    dev = load_config(FOLDER / f"{task}-dev.yaml").config
    assert dev.experiment and dev.finetune and config.finetune
    methods = {split_arm(arm)[0] for arm in dev.experiment.arms}
    assert methods == {"original", "random", "full"}
    assert dev.data.pool == config.data.pool
    assert [source.path for source in dev.data.test] == [f"data/{task}_dev.jsonl.gz"]
    rate = config.finetune.learning_rate
    assert replace(dev.finetune, learning_rate=rate) == config.finetune
    assert f"--finetune.learning-rate {rate:.0e}".replace("e-0", "e-") in (
        dev.experiment.variants.values()
    )
    assert dev.seed > config.seed + 5


@pytest.mark.parametrize(("name", "task"), VARIANTS.items())
def test_variants_differ_from_the_tested_igds_by_what_they_name_alone(name: str, task: str) -> None:
    tested = load_config(FOLDER / f"{task}.yaml").config
    tried = load_config(FOLDER / f"{name}.yaml").config
    assert [source.path for source in tried.data.test] == [f"data/{task}_dev.jsonl.gz"]
    assert replace(tried.data, test=tested.data.test) == tested.data
    for section in ("seed", "model", "saes", "task", "recall", "intervene", "select", "finetune"):
        assert getattr(tried, section) == getattr(tested, section)
    assert tried.experiment
    assert {split_arm(arm)[0] for arm in tried.experiment.arms} == {"original", "random", "igds"}


@pytest.mark.parametrize("task", TASKS)
def test_no_two_test_rows_share_a_run_of_words(task: str) -> None:
    test = rows(FOLDER / "data" / f"{task}_test.jsonl.gz")
    runs = [set(word_runs(next(iter(row.values())))) for row in test]
    assert max(Counter(run for found in runs for run in found).values()) == 1


def test_no_config_names_the_noise() -> None:
    assert {path.name for path in (FOLDER / "data").glob("*labels*")} == {
        "noise_prompt_labels.csv.gz",
        "noise_response_labels.csv.gz",
    }
    assert not any("labels" in path.read_text() for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", ["noise_prompt", "noise_response"])
def test_the_labels_say_which_rows_are_noise(name: str) -> None:
    right = answers("math_pool")
    pool = rows(FOLDER / "data" / f"{name}.jsonl.gz")
    named = labels(name)
    assert [row["ordinal"] for row in named] == [str(place) for place in range(1200)]
    noise = [right.get(row["question"]) != row["answer"] for row in pool]
    assert noise == [row["noise"] == "1" for row in named]
    assert sum(noise) == 600
    assert len({row["question"] for row in pool}) == 1200


def test_off_task_prompts_are_of_two_other_tasks() -> None:
    noise = Counter(row["source"] for row in labels("noise_prompt") if row["noise"] == "1")
    assert noise == {"creak": 300, "mts-dialog": 300}


def test_wrong_answers_are_those_of_other_questions() -> None:
    right = answers("math_pool")
    pool, named = rows(FOLDER / "data" / "noise_response.jsonl.gz"), labels("noise_response")
    wrong = [row for row, label in zip(pool, named, strict=True) if label["noise"] == "1"]
    own = [right[row["question"]] for row in wrong]
    assert Counter(own) == Counter(row["answer"] for row in wrong)
    assert not any(
        one.split("####")[1].strip() == row["answer"].split("####")[1].strip()
        for one, row in zip(own, wrong, strict=True)
    )


@pytest.mark.parametrize(
    ("task", "prompt", "answer"),
    [("math", "question", "answer"), ("summarization", "dialogue", "summary")],
)
def test_permuted_validation_rows_keep_prompts_and_exchange_answers(
    task: str, prompt: str, answer: str
) -> None:
    interventions = FOLDER.parent / "interventions" / "data"
    given = {
        row[prompt]: row[answer] for row in rows(interventions / f"{task}_validation.jsonl.gz")
    }
    found = rows(FOLDER / "data" / f"{task}_validation_permuted.jsonl.gz")
    assert {row[prompt] for row in found} == given.keys()
    assert Counter(row[answer] for row in found) == Counter(given.values())
    assert not any(given[row[prompt]] == row[answer] for row in found)


def test_answers_are_exchanged_among_those_of_like_length_and_never_kept() -> None:
    given = [
        Exercise(question=f"q{place}", answer=f"{'word ' * (place // 30)}end #### {place // 2}")
        for place in range(90)
    ]
    own = {row.question: row.answer for row in given}
    for row in permuted(given, "test"):
        assert row.answer.count("word") == own[row.question].count("word")
        assert row.answer.split("####")[1] != own[row.question].split("####")[1]


def test_answers_that_are_all_alike_cannot_be_exchanged() -> None:
    alike = [Exercise(question=f"q{place}", answer="so #### 1") for place in range(4)]
    with pytest.raises(ValueError, match="no rotation of 4 answers"):
        permuted(alike, "test")


def test_the_data_stay_small() -> None:
    assert sum(path.stat().st_size for path in (FOLDER / "data").iterdir()) < 1_500_000
