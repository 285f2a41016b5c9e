"""Prompts, items and results of an evaluation, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from test_translation import environment
from tests.helpers import tiny_tokenizer

from igds.config.training import Evaluate
from igds.data.templates import Template
from igds.errors import RequestError
from igds.evaluation.comet import comet_items
from igds.evaluation.items import COLUMNS, ITEMS, generation_prompts, gold_rows
from igds.evaluation.results import judges_by_0_and_1, summarise
from igds.evaluation.tables import output_facts, output_items, usable_rows
from igds.evaluation.work import OUTPUTS
from igds.stats.bootstrap import paired_bootstrap
from igds.tasks.comet import comet
from igds.tasks.custom import configured_task
from igds.tasks.math import MathTask


def index_rows(*rows: dict[str, Any]) -> pa.Table:
    known = {"status": "ok", "prompt_hash": "p", "response": " 1"}
    made = [
        {**dict.fromkeys(COLUMNS), **known, "prompt": f"{row['row_id']}:", "fields": "{}", **row}
        for row in rows
    ]
    return pa.Table.from_pylist(made)


def item(model: str, name: str, value: float, **more: Any) -> dict[str, Any]:
    plain = {"cluster": name, "metric": "task_score", "sample": 0, "text": "t", "tokens": 3}
    made = {**dict.fromkeys(ITEMS.names), **plain, "finished": True}
    return {**made, "model": model, "item": name, "value": value, **more}


def table(*items: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(items), schema=ITEMS)


def test_means_are_over_items_and_pairs_are_by_item() -> None:
    values = [0.9, 0.1, 0.4, 0.7, 0.6, 0.2, 0.8, 0.3]
    tuned = [item("tuned", f"row{n}", value) for n, value in enumerate(values)]
    original = [item("original", f"row{n}", value / 2) for n, value in enumerate(values[:6])]
    found = summarise(table(*tuned, *original[::-1]), (), seed=0)
    mine = found["models"]["tuned"]["task_score"]
    by_hand = paired_bootstrap(np.array(values), [f"row{n}" for n in range(8)], seed=0)
    assert mine == {"mean": 0.5, "low": by_hand.low, "high": by_hand.high, "n": 8}
    assert found["models"]["original"]["task_score"]["n"] == 6
    difference = found["differences"]["task_score"]
    assert (difference["mean"], difference["n"]) == (pytest.approx(sum(values[:6]) / 12), 6)


def test_items_of_one_prompt_are_one_cluster() -> None:
    values = dict(zip("abcdef", (1.0, 1.0, 0.0, 0.0, 0.5, 0.3), strict=True))
    apart = table(*(item("tuned", name, value) for name, value in values.items()))
    same = table(
        *(
            item("tuned", name, v, cluster="ab" if name in "ab" else name)
            for name, v in values.items()
        )
    )

    def width(items: pa.Table) -> float:
        found = summarise(items, (), seed=0)["models"]["tuned"]["task_score"]
        return found["high"] - found["low"]

    assert width(same) > width(apart)


def test_pass_at_k_by_hand() -> None:
    right = {"a": 2, "b": 0}  # of 4 samples: 1 - C(2,2)/C(4,2) = 5/6, and 0
    items = table(
        *(
            item("tuned", name, float(sample < count), sample=sample)
            for name, count in right.items()
            for sample in range(4)
        )
    )
    found = summarise(items, (1, 2), seed=0)["models"]["tuned"]
    assert found["pass@2"]["mean"] == pytest.approx(5 / 12)
    assert found["pass@1"]["mean"] == pytest.approx(0.25) == found["task_score"]["mean"]
    assert found["pass@2"]["n"] == 2
    assert judges_by_0_and_1(items)
    assert not judges_by_0_and_1(table(item("tuned", "a", 0.5)))


def test_lengths_say_what_was_cut_off() -> None:
    items = table(
        item("tuned", "a", 1, tokens=4),
        item("tuned", "b", 0, tokens=8, finished=False, text=" \n"),
        item("tuned", "c", 0, metric="logprob", tokens=100),
    )
    expected = {"mean_tokens": 6.0, "cut_off_share": 0.5, "empty_share": 0.5}
    assert output_facts(items) == {"tuned": expected}


def test_outputs_are_judged_row_by_row_by_the_task() -> None:
    task = configured_task(" {answer}", "exact_match")
    outputs = pa.Table.from_pylist(
        [
            {"row_id": "a", "sample": 0, "text": " 5", "tokens": 2, "finished": True},
            {"row_id": "a", "sample": 1, "text": " 6", "tokens": 2, "finished": True},
        ],
        schema=OUTPUTS,
    )
    fields = {"a": json.dumps({"answer": "5"})}
    items = output_items("tuned", outputs, task, fields, {"a": "p"})
    assert items["value"].to_pylist() == [1.0, 0.0]
    assert items["text"].to_pylist() == [" 5", " 6"]


def test_rows_without_a_gold_response_are_left_out() -> None:
    rows = index_rows(
        {"row_id": "a"}, {"row_id": "b", "response": None}, {"row_id": "c", "status": "too_long"}
    )
    assert usable_rows(rows)["row_id"].to_pylist() == ["a"]


def test_gold_rows_mark_the_answer_and_leave_out_what_does_not_fit() -> None:
    rows = index_rows(
        {"row_id": "a", "response": " so \\boxed{42}."}, {"row_id": "b", "response": " " + "x" * 40}
    )
    (row,) = gold_rows(rows, tiny_tokenizer(), MathTask(), chat=False, context=30)
    first, stop = row.answer or (0, 0)
    assert tiny_tokenizer().decode(row.response_ids[first:stop]) == "42"
    assert row.prompt_ids[0] == 1 and row.response_ids[0] != 1


def test_a_plain_prompt_is_that_of_the_run() -> None:
    rows = index_rows({"row_id": "a"})
    template = Template(text="{q}\nA:")
    assert generation_prompts(rows, None, Evaluate(), template, 0) == ["a:"]


def test_examples_stand_before_each_prompt_in_the_published_form() -> None:
    rows = index_rows({"row_id": "t", "fields": '{"question": "1+1?"}'})
    examples = index_rows(
        *({"row_id": f"v{n}", "fields": json.dumps({"question": f"{n}?"}), "response": f" {n}"}
          for n in range(6))
    )  # fmt: skip
    settings = Evaluate(
        template="### Problem: {question}\n### Solution:", shots=2, shots_header="Examples:\n"
    )
    (prompt,) = generation_prompts(rows, examples, settings, Template(text="x{q}:"), 0)
    assert prompt.startswith("Examples:\n### Problem: ")
    assert prompt.endswith("\n\n### Problem: 1+1?\n### Solution:")
    assert prompt.count("### Solution: ") == 2 and prompt.count("### Problem:") == 3
    (again,) = generation_prompts(
        rows, examples.take([5, 4, 3, 2, 1, 0]), settings, Template(text=""), 0
    )
    assert again == prompt
    with pytest.raises(RequestError, match="shots 2: data.validation has 1 rows"):
        generation_prompts(rows, examples.slice(0, 1), settings, Template(text=""), 0)


def test_a_template_of_other_fields_is_refused() -> None:
    rows = index_rows({"row_id": "t", "fields": '{"question": "1+1?"}'})
    with pytest.raises(RequestError, match="row t has no field 'text'"):
        generation_prompts(rows, None, Evaluate(template="{text}\nA:"), Template(text=""), 0)


def test_comet_judges_each_sample_by_another_python(tmp_path: Path) -> None:
    python = environment(tmp_path, "pass")
    outputs = table(
        item("tuned", "a", 0.5, text=" ab"), item("tuned", "a", 0.5, sample=1, text=" abc ")
    )
    fields = {"a": json.dumps({"source": "s", "target": ["abcd", "xy"]})}
    items, found = comet_items(outputs, fields, comet(python), "Unbabel/wmt22-comet-da")
    assert items["value"].to_pylist() == [0.5, 0.75]
    assert items["metric"].to_pylist() == ["comet", "comet"]
    assert items["sample"].to_pylist() == [0, 1]
    assert items["text"].null_count == 2 and items.schema == ITEMS
    assert found.package == "unbabel-comet 9.9"
