"""Tasks of the user's own: a section of the config, or a class named by its import path."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igds.data.messages import MESSAGES, split_turns
from igds.data.templates import Template
from igds.errors import RequestError
from igds.tasks.grading import Grader
from igds.tasks.machine_translation import bleu, chrf
from igds.tasks.math import gold_answer
from igds.tasks.rouge import rouge

Metric = Callable[[str, str], float]
"""Output and reference -> task score, 0-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredTask:
    """A task given as `task: {name, response, metric}`."""

    gold: Template
    """Template of the gold response."""
    metric: Metric
    """Judges an output against the gold response."""

    @property
    def template(self) -> str:
        """Return "": the prompt template is `prompts.template`."""
        return ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the places of the response's template."""
        return self.gold.fields

    def response(self, row: Mapping[str, Any]) -> str:
        """Return the filled template."""
        return self.gold.render(row)

    def score(self, output: str, row: Mapping[str, Any]) -> float:
        """Return the metric of the output against the gold response, a chat row's last turn."""
        if MESSAGES in row and MESSAGES not in self.fields:
            return self.metric(output, (split_turns(row[MESSAGES])[1] or "").strip())
        return self.metric(output, self.response(row).strip())


def configured_task(response: str, metric: str) -> ConfiguredTask:
    """Return a task from its two settings.

    Raises:
        RequestError: the response has no place or no leading space, or the metric is unknown.
    """
    gold = Template(text=response)
    if not gold.fields or not response.startswith(" ") or response.startswith("  "):
        raise RequestError(
            f"task.response {response!r} must start with one space and have a place for a field, "
            "as ' {answer}'"
        )
    metrics = metrics_by_name()
    if metric not in metrics:
        raise RequestError(f"task.metric {metric!r} is unknown: take one of {', '.join(metrics)}")
    judge = metrics[metric]
    if metric == "math" and gold.is_place:
        judge = _of_bare_answers(judge)
    return ConfiguredTask(gold=gold, metric=judge)


def _of_bare_answers(metric: Metric) -> Metric:
    """Return the metric math for responses that are answers alone, as those of the task math."""
    return lambda output, gold: metric(output, gold_answer(gold))


def metrics_by_name() -> dict[str, Metric]:
    """Return the metrics a configured task can name."""
    grader = Grader()
    return {
        "exact_match": lambda output, gold: float(output.split() == gold.split()),
        "math": lambda output, gold: float(grader.equal(gold, output)),
        "rouge1": lambda output, gold: rouge(output, [gold])["1"],
        "rouge2": lambda output, gold: rouge(output, [gold])["2"],
        "rougeL": lambda output, gold: rouge(output, [gold])["L"],
        "chrf": lambda output, gold: chrf(output.strip(), [gold]),
        "bleu": lambda output, gold: bleu(output.strip(), [gold]),
    }


def import_class(path: str, base: Path) -> type:
    """Return the class named `package.module:Class`, looked for beside the config first.

    Raises:
        RequestError: the module cannot be imported, or it lacks the class or the class lacks one
            of `fields`, `response`, `score`.
    """
    module_name, _, class_name = path.partition(":")
    try:
        with _on_path(base):
            module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, ValueError) as error:
        raise RequestError(f"task.name {path!r}: {error}; looked beside the config too") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise RequestError(f"task.name {path!r}: {module_name} has no class {class_name!r}")
    missing = [
        name for name in ("template", "fields", "response", "score") if not hasattr(found, name)
    ]
    if missing:
        raise RequestError(
            f"task.name {path!r}: the class lacks {', '.join(missing)}; a task has a prompt "
            '`template` ("" to use prompts.template), the row `fields` it reads, and the methods '
            "`response(row)` and `score(output, row)`"
        )
    return found


def source_sha256(found: type) -> str:
    """Return the sha256 of the file that a class is written in, 64 hex digits."""
    return hashlib.sha256(Path(inspect.getfile(found)).read_bytes()).hexdigest()


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
