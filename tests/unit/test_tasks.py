from __future__ import annotations

import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest

from igds.config.inputs import Task
from igds.config.load import load_config
from igds.data.templates import Template
from igds.errors import RequestError
from igds.tasks import base, grading
from igds.tasks.grading import Grader
from igds.tasks.math import MathTask, gold_answer
from igds.tasks.registry import load_task, task_identity
from igds.tasks.rouge import rouge
from igds.tasks.summarization import SummarizationTask

HERE = Path()
GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips.\nShe sold <<48+24=72>>72.\n#### 72"


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        (GSM8K, " Natalia sold 48/2 = 24 clips.\nShe sold 72.\nThe final answer is \\boxed{72}."),
        ("#### 1,450", " The final answer is \\boxed{1,450}."),
        ("So it is \\boxed{\\frac{1}{2}}.\n", " So it is \\boxed{\\frac{1}{2}}."),
        ("C", " C"),
        (72.0, " 72"),
        (
            "Ann has 110.\n#### 110\nThe answer is: 110",
            " Ann has 110.\n#### 110\nThe answer is: 110",
        ),
        ("#### Step 1\n1+1\n#### 2", " #### Step 1\n1+1\nThe final answer is \\boxed{2}."),
    ],
)
def test_math_responses(answer: str | float, response: str) -> None:
    assert MathTask().response({"question": "q", "answer": answer}) == response


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (GSM8K, "\\boxed{72}"),
        ("C", "\\boxed{C}"),
        ("So \\boxed{5}", "So \\boxed{5}"),
        ("long " * 30 + "5", "long " * 30 + "5"),
        ("#### Step 2\nSo 5", "#### Step 2\nSo 5"),
    ],
)
def test_math_gold_answers(answer: str, gold: str) -> None:
    assert gold_answer(answer) == gold


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (" So \\boxed{1}, no: \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        (" The final answer is \\boxed{72}.", "72"),
        (" no box", None),
        (" never closed \\boxed{{1}", None),
        ("48 + 24 = 72.\n#### 72\n", "72"),
        ("So \\boxed{1}\n#### 2", "1"),
        ("nothing after ####\n", None),
        ("#### 72\nThat is all.", None),
    ],
)
def test_math_answer_span(response: str, answer: str | None) -> None:
    span = MathTask().answer_span(response)
    assert (None if span is None else response[slice(*span)]) == answer


def test_a_chat_row_is_judged_by_its_answer() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": f" {GSM8K}\n"}]
    row = {"messages": turns}
    task = MathTask()
    assert base.scored_row(task, row) == {"answer": GSM8K, **row}
    assert task.score(" \\boxed{72}", base.scored_row(task, row)) == 1.0
    assert task.score(" \\boxed{24}", base.scored_row(task, row)) == 0.0
    assert base.scored_row(SummarizationTask(), row) == {"summary": GSM8K, **row}
    assert base.scored_row(task, {"answer": "3"}) == {"answer": "3"}
    asked = {"messages": turns[:1]}
    assert base.scored_row(task, asked) == {"answer": "", **asked}


def test_math_scores() -> None:
    task = MathTask()
    row = {"answer": GSM8K}
    outputs = {
        " She sold 72 clips.\nThe final answer is \\boxed{72}.": 1.0,
        " \\boxed{\\frac{144}{2}}": 1.0,
        " It is 72": 1.0,
        " \\boxed{71}": 0.0,
        "": 0.0,
        "x" * 100_000 + " \\boxed{72}": 1.0,
    }
    assert {output: task.score(output, row) for output in outputs} == outputs
    assert task.score(" \\boxed{C}", {"answer": "C"}) == 1.0
    assert task.score(" \\boxed{B}", {"answer": "C"}) == 0.0
    assert task.score(" \\boxed{0.5}", {"answer": "Thus \\boxed{\\frac{1}{2}}."}) == 1.0


def test_comparison_over_the_time_limit_is_wrong_and_counted() -> None:
    grader = Grader(seconds=0.0)
    assert not grader.equal("\\boxed{1}", "\\boxed{1}")
    assert grader.timeouts == 1


def test_output_that_ends_the_process_is_wrong_and_the_next_is_judged() -> None:
    grader = Grader()
    assert grader.equal("\\boxed{1}", "\\boxed{1}")
    assert grader._process is not None
    os.kill(grader._process.pid, signal.SIGSTOP)
    threading.Timer(0.2, grader._process.kill).start()
    assert not grader.equal("\\boxed{1}", "\\boxed{1}")
    assert grader.timeouts == 1
    assert grader.equal("\\boxed{1}", "\\boxed{1}")


def test_grader_process_that_died_is_started_again() -> None:
    patient = Grader()
    assert patient.equal("\\boxed{1}", "\\boxed{1}")
    process = patient._process
    assert process is not None
    process.kill()
    process.wait()
    assert patient.equal("\\boxed{1}", "\\boxed{1}")
    assert patient.timeouts == 0


def test_grader_process_ends_with_its_grader() -> None:
    grader = Grader()
    grader.equal("\\boxed{1}", "\\boxed{1}")
    process = grader._process
    assert process is not None
    del grader
    assert process.poll() is not None


def test_missing_package_prints_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        RequestError, match=r"math_verify is not installed: pip install 'igds\[eval\]'"
    ):
        grading.Grader().equal("1", "1")


def test_rouge_by_hand() -> None:
    # unigrams: 3 of 4 and 3 of 3 shared (cats = cat by stemming); bigrams: 1 of 3 and 1 of 2
    scores = rouge("the cats sat", ["the black cat sat"])
    assert scores["1"] == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert scores["2"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (5 / 6))
    assert scores["L"] == pytest.approx(2 * 1 * 0.75 / 1.75)


def test_rouge_takes_the_best_reference() -> None:
    assert rouge("a cat", ["nothing alike", "a cat", "cat"])["1"] == 1.0
    assert rouge("", ["a cat"]) == {"1": 0.0, "2": 0.0, "L": 0.0}


def test_summarization() -> None:
    task = SummarizationTask()
    row = {"dialogue": "...", "summary": ["They met.", "A meeting took place."]}
    assert task.response(row) == " They met."
    assert task.score("a meeting took place", row) == 1.0
    assert task.response({"summary": "One."}) == " One."
    for bad in ([], [None], {}):
        with pytest.raises(ValueError, match="summary|is not text"):
            task.response({"summary": bad})


@pytest.mark.parametrize(
    ("metric", "output", "score"),
    [
        ("exact_match", " Paris \n", 1.0), ("exact_match", "paris", 0.0), ("rouge1", "paris", 1.0),
        ("rouge2", "paris", 0.0), ("rougeL", "in paris", 2 / 3),
    ],
)  # fmt: skip
def test_task_from_the_config(metric: str, output: str, score: float) -> None:
    task = load_task(Task(name="capitals", response=" {answer}", metric=metric), HERE)
    row = {"question": "France?", "answer": "Paris"}
    assert (task.template, task.fields, task.response(row)) == ("", ("answer",), " Paris")
    assert task.score(output, row) == pytest.approx(score)


def test_task_from_the_config_with_mathematics() -> None:
    task = load_task(Task(name="sums", response=" \\boxed{{answer}}", metric="math"), HERE)
    assert task.score("\\boxed{4/2}", {"answer": 2}) == 1.0


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("C", "\\boxed{C}", "\\boxed{B}"),
        ("x^2+1", "So \\boxed{1+x^2}.", "So \\boxed{x^2-1}."),
        ("3\\sqrt{2}", "\\boxed{3\\sqrt{2}}", "\\boxed{3}"),
        ("5 apples", "\\boxed{5}", "\\boxed{6}"),
        ("The answer is 5.", "\\boxed{5}", "\\boxed{6}"),
        (
            "\\begin{pmatrix}\n1 \\\\ 2\n\\end{pmatrix}",
            "\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}",
            "1",
        ),
    ],
)
def test_a_bare_answer_is_compared_as_mathematics(answer: str, right: str, wrong: str) -> None:
    task = load_task(Task(name="own", response=" {answer}", metric="math"), HERE)
    assert [task.score(output, {"answer": answer}) for output in (right, wrong)] == [1.0, 0.0]


@pytest.mark.parametrize("response", [" A: {answer}", " So {answer} m/s", " It is {answer}."])
def test_an_answer_in_a_sentence_is_looked_for(response: str) -> None:
    task = load_task(Task(name="own", response=response, metric="math"), HERE)
    row = {"answer": "5"}
    assert [task.score(output, row) for output in ("\\boxed{5}", "\\boxed{6}")] == [1.0, 0.0]


def test_the_mark_is_found_at_once_in_a_long_line() -> None:
    hostile = "####a" * 200_000
    assert gold_answer(f"{hostile}\nz") == f"{hostile}\nz"
    assert gold_answer(f"{' ' * 500_000}#### 5 #### 6{' ' * 500_000}") == "\\boxed{6}"


def test_a_chat_row_of_a_configured_task_is_judged_by_its_last_turn() -> None:
    response = " Because {reason}. It is {answer}."
    task = load_task(Task(name="own", response=response, metric="exact_match"), HERE)
    turns = [{"role": "user", "content": "France?"}, {"role": "assistant", "content": "Paris"}]
    row = base.scored_row(task, {"messages": turns})
    assert [task.score(output, row) for output in (" Paris\n", "It is Paris.")] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Task(name="maths"), "none of math, summarization.*needs task.response and task.metric"),
        (Task(name="math", metric="rouge1"), "task.metric is for a task of your own"),
        (Task(name="own", response="{a}", metric="math"), "must start with one space"),
        (Task(name="own", response=" yes", metric="math"), "have a place"),
        (
            Task(name="own", response=" {a}", metric="comet"),
            "'comet' is unknown: take one of exact_match",
        ),
        (Task(name="no_such_module:Task"), "No module named 'no_such_module'"),
        (Task(name="json:Nothing"), "json has no class 'Nothing'"),
        (Task(name="json:JSONDecoder"), "lacks template, fields, response, score"),
    ],
)
def test_refused_tasks(task: Task, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        load_task(task, HERE)


def test_task_class_beside_the_config(tmp_path: Path) -> None:
    source = tmp_path / "planted_task_module.py"
    source.write_text(
        "class Shout:\n"
        "    template = '{word} in capitals:'\n"
        "    fields = ('word',)\n"
        "    def response(self, row):\n"
        "        return ' ' + row['word'].upper()\n"
        "    def score(self, output, row):\n"
        "        return float(output.strip() == row['word'].upper())\n"
    )
    before = list(sys.path)
    named = Task(name="planted_task_module:Shout")
    task = load_task(named, tmp_path)
    assert sys.path == before
    assert task.response({"word": "a"}) == " A"
    assert task.score("A", {"word": "a"}) == 1.0
    first = task_identity(named, tmp_path)
    assert first == task_identity(named, tmp_path)
    source.write_text(source.read_text() + "# changed\n")
    assert task_identity(named, tmp_path) != first
    assert task_identity(Task(), HERE) == {"name": "math", "response": None, "metric": None}


def test_the_tasks_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    settings, source = (
        re.search(f"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("yaml", "python")
    )
    assert settings is not None and source is not None
    (tmp_path / "igds.yaml").write_text(settings[1])
    config = load_config(tmp_path / "igds.yaml").config
    task = load_task(config.task, tmp_path)
    row = {"instruction": "Greet.", "output": "Hello there"}
    assert task.response(row) == " Hello there" and task.score("hello there", row) == 1.0
    assert config.prompts.template is not None
    assert Template(text=config.prompts.template).render(row) == "Greet.\nAnswer:"
    (tmp_path / "capitals.py").write_text(source[1])
    [named] = re.findall('task: {name: "(.*?)"}', page)
    capitals = load_task(Task(name=named), tmp_path)
    row = {"country": "Bolivia", "capitals": ["Sucre", "La Paz"]}
    assert Template(text=capitals.template).render(row) == "Bolivia: its capital is"
    assert capitals.response(row) == " Sucre"
    assert (capitals.score(" La Paz\n", row), capitals.score("Lima", row)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("so it is \\boxed{12}", True),
        ("The answer is 7", True),
        ("I do not know", False),
        ("", False),
    ],
)
def test_an_output_without_an_answer_is_not_parsed(output, parsed):
    assert MathTask().parsed(output) == parsed
