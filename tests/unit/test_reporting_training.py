"""The page's sections on training and evaluation show what the stages recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_folder import Plan, write_run
from test_reporting import Page

from igds.errors import RequestError
from igds.finetuning.results import LOG
from igds.reporting.page import write_report

TRAINED = {
    "engine": "trl", "model": "a <b>model</b>", "rows": 1200, "left_out": 3, "truncated": 4,
    "examples": 2400, "steps": 38, "tokens": 98765, "response_tokens": 4321, "learning_rate": 2e-5,
    "batch": 64, "precision": "bfloat16", "lora": False, "first_loss": 1.75, "last_loss": 0.875,
    "template": "{question}<br>?", "response": None,
}  # fmt: skip
EVALUATED = {
    "models": {
        "tuned": {"logprob": {"mean": -0.5, "low": -0.6, "high": -0.4, "n": 50}},
        "original": {"logprob": {"mean": -0.75, "low": None, "high": None, "n": 50}},
    },
    "differences": {"logprob": {"mean": 0.25, "low": 0.125, "high": 0.375, "n": 50}},
    "names": {"tuned": "path/<i>", "original": "m"},
    "dtype": "float32",
    "rows": 50,
    "outputs": {"tuned": {"mean_tokens": 12.5, "cut_off_share": 0.25, "empty_share": 0.0}},
}


def page(folder: Path, trained: dict[str, Any], evaluated: dict[str, Any]) -> Page:
    """Write a run with both stages and return its page."""
    write_run(folder, Plan())
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config + "finetune: {}\nevaluate: {}\n")
    for name, file, value in (
        ("finetune", "summary.json", trained),
        ("evaluate", "results.json", evaluated),
    ):
        (folder / name).mkdir()
        (folder / name / file).write_text(json.dumps(value))
    log = [dict.fromkeys(LOG.names, 0.5) | {"step": n, "tokens": n} for n in range(1, 39)]
    pq.write_table(pa.Table.from_pylist(log, schema=LOG), folder / "finetune" / "log.parquet")
    write_report(folder, folder / "report" / "index.html")
    return Page((folder / "report" / "index.html").read_text(encoding="utf-8"))


def test_what_was_recorded_is_shown_and_escaped(tmp_path: Path) -> None:
    found = page(tmp_path, TRAINED, EVALUATED)
    assert {"finetune", "evaluate"} <= set(found.values("id"))
    for words in ("1,200 selected rows", "1.750 in the first tenth", "38, of 64 rows", "98,765"):
        assert words in found.text
    assert "−0.500 [−0.600, −0.400]" in found.text
    assert "−0.750 [n/a, n/a]" in found.text
    assert "+0.250 [+0.125, +0.375]" in found.text
    assert "25.0 % cut off" in found.text
    assert all(text in found.text for text in ("a <b>model</b>", "path/<i>", "{question}<br>?"))
    bare = page(tmp_path / "elsewhere", {**TRAINED, "engine": "axolotl", "notes": []}, EVALUATED)
    assert found.html.count("<svg") == bare.html.count("<svg") + 2  # loss and learning rate


def test_how_responses_were_generated_is_said_where_it_is_known(tmp_path: Path) -> None:
    assert "Generated responses" not in page(tmp_path / "before", TRAINED, EVALUATED).text
    none = {**EVALUATED, "decoding": None}
    assert "Generated responses" not in page(tmp_path / "none", TRAINED, none).text
    settings = {"samples": 4, "temperature": 0.7, "top_p": 1.0, "max_new_tokens": 9, "shots": 2}
    found = page(tmp_path / "given", TRAINED, {**EVALUATED, "decoding": settings})
    words = "4 a prompt, temperature 0.7, top-p 1, at most 9 tokens, 2-shot"
    assert words in found.text and f"{words}; by" not in found.text
    other = {**EVALUATED, "decoding": settings, "vllm": "vllm <1>"}
    assert f"{words}; by vllm <1>" in page(tmp_path / "other", TRAINED, other).text


def test_another_trainers_engine_shows_its_command(tmp_path: Path) -> None:
    notes = ["to train: axolotl train x.yaml"]
    trained = {"engine": "axolotl", "model": "m", "rows": 5, "notes": notes}
    found = page(tmp_path, trained, EVALUATED)
    assert "to train: axolotl train x.yaml" in found.text


def test_a_stage_that_the_configuration_no_longer_has_is_not_shown(tmp_path: Path) -> None:
    page(tmp_path, TRAINED, EVALUATED)
    text = (tmp_path / "config.yaml").read_text().replace("finetune: {}\n", "")
    (tmp_path / "config.yaml").write_text(text)
    write_report(tmp_path, tmp_path / "report" / "index.html")
    html = (tmp_path / "report" / "index.html").read_text()
    assert 'id="finetune"' not in html and 'id="evaluate"' in html


@pytest.mark.parametrize("key", ["steps", "learning_rate"])
def test_a_summary_that_lacks_a_key_is_refused(tmp_path: Path, key: str) -> None:
    less = {name: value for name, value in TRAINED.items() if name != key}
    with pytest.raises(RequestError, match=f"no key in the summary {key}"):
        page(tmp_path, less, EVALUATED)
