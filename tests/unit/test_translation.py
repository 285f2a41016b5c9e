"""Translation: its responses, chrF and BLEU by hand, and COMET in another Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import other_environment

from igds.config.inputs import Source, Task
from igds.data.templates import Template
from igds.errors import RequestError, WorkError
from igds.evaluation.comet import check_comet
from igds.tasks.comet import Translation, comet, comet_scores
from igds.tasks.machine_translation import bleu, chrf
from igds.tasks.registry import load_task
from igds.tasks.summarization import SummarizationTask
from igds.tasks.translation import TranslationTask

HERE = Path()
ROWS = [
    Translation(source="a cat", output="一只猫", references=("一只猫", "猫")),
    Translation(source="two\u2028dogs", output="狗", references=("两条狗",)),
]
STAND_IN = """
# Stands for the package in COMET's own environment: a score is the share of shared characters.
import os, sys, types

def download_model(name):
    return "/cache/" + name

def load_from_checkpoint(path):
    print("noise on standard output")
    return Model(path)

class Model:
    def __init__(self, path):
        self.path = path

    def predict(self, pairs, batch_size, gpus):
        assert gpus == 0 and self.path == "/cache/Unbabel/wmt22-comet-da", self.path
        assert "igds" not in sys.modules and os.environ["CUDA_VISIBLE_DEVICES"] == ""
        {action}
        shared = [len(set(p["mt"]) & set(p["ref"])) / len(p["ref"]) for p in pairs]
        return types.SimpleNamespace(scores=shared, system_score=sum(shared) / len(shared))
"""


def environment(folder: Path, action: str | None = None) -> Path:
    """Return the Python of an environment, with a stand-in for unbabel-comet if it acts."""
    source = None if action is None else STAND_IN.replace("{action}", action)
    python = other_environment.environment(folder, "comet", "unbabel-comet", source)
    (packages,) = (folder / "comet" / "lib").glob("python*/site-packages")
    no_gpu = "class cuda:\n    is_available = staticmethod(lambda: False)\n"
    (packages / "torch.py").write_text(no_gpu)
    return python


def test_translation() -> None:
    task = load_task(Task(name="translation"), HERE)
    row = {"source": "a cat", "target": [" 一只猫 ", "猫"]}
    assert task.template.endswith("\nTranslation:") and "{source}" in task.template
    assert task.response(row) == " 一只猫"
    assert task.response({"target": "猫"}) == " 猫"
    assert task.score(" 一只猫\n", row) == task.score("猫", row) == 1.0
    assert task.score("dog", row) == 0.0
    assert 0 < task.score("一只狗", row) < 1
    for bad in ([], [None]):
        with pytest.raises(ValueError, match="target|is not text"):
            task.response({"target": bad})


def test_chrf_by_hand() -> None:
    # Runs of 1, 2, 3 characters: 2 of 3, 1 of 2, 0 of 1 shared, both ways; longer ones: none.
    assert chrf("abc", ["abd"]) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert chrf("abc", ["xyz", "abc"]) == 1.0
    assert chrf("", ["abc"]) == 0.0


def test_bleu_by_hand() -> None:
    # 3 of 4 words, 1 of 3 pairs, smoothed beyond; Chinese characters are words of their own.
    assert bleu("the cat sat", ["the cat sat"]) == pytest.approx(1.0)
    assert bleu("一只猫", ["一只猫"]) == pytest.approx(1.0)
    assert bleu("一只狗", ["一只猫"]) == bleu("a b c", ["a b d"])
    assert bleu("the cat", ["the cat sat on the mat"]) < bleu("the cat sat", ["the cat sat on"])


@pytest.mark.parametrize("metric", ["chrf", "bleu"])
def test_metrics_of_a_task_of_ones_own(metric: str) -> None:
    task = load_task(Task(name="french", response=" {french}", metric=metric), HERE)
    row = {"french": "le chat est assis"}
    assert task.score(" le chat est assis", row) == pytest.approx(1.0)
    assert task.score("le chien est assis", row) < 0.9


def test_comet_runs_in_its_own_python(tmp_path: Path) -> None:
    found = comet_scores(comet(environment(tmp_path, "pass")), ROWS)
    assert found.scores == (1.0, pytest.approx(1 / 3))
    assert found.package == "unbabel-comet 9.9"
    assert found.checkpoint == "Unbabel/wmt22-comet-da"


def test_comet_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="python -m venv comet"):
        comet_scores(comet(tmp_path / "python"), ROWS)
    with pytest.raises(RequestError, match="bin/python -m pip install unbabel-comet"):
        comet_scores(comet(environment(tmp_path)), ROWS)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("raise OSError('disk full')", "ended with 1:(.|\n)*disk full"),
        ("import time; time.sleep(60)", "COMET took over 2 s"),
        ("pairs = pairs[:1]", "ended with 1:(.|\n)*StopIteration"),
    ],
)
def test_comet_that_fails(action: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=message):
        comet_scores(comet(environment(tmp_path, action)), ROWS, seconds=2.0)


def test_comet_wants_rows_with_references() -> None:
    for rows in ([], [Translation(source="a", output="b", references=())]):
        with pytest.raises(ValueError, match="a reference for each"):
            comet_scores(comet(Path("python")), rows)


def test_comet_is_refused_before_any_work_where_no_source_is_named() -> None:
    chrf_task, other = TranslationTask(), SummarizationTask()
    template, rows = Template(text=TranslationTask.template), [Source(path="a.jsonl")]
    check_comet(chrf_task, template, rows)
    for task, text, sources in (
        (other, template, rows),
        (chrf_task, Template(text="{text}\nTranslation:"), rows),
        (chrf_task, template, [Source(path="a.jsonl", messages="messages")]),
    ):
        with pytest.raises(RequestError, match="judges translations: it needs"):
            check_comet(task, text, sources)
