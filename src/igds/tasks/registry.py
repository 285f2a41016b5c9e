"""The task a config names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from igds.config import schema
from igds.errors import RequestError
from igds.tasks.base import Task
from igds.tasks.custom import configured_task, import_class, source_sha256
from igds.tasks.math import MathTask
from igds.tasks.summarization import SummarizationTask
from igds.tasks.translation import TranslationTask

BUILT_IN: Mapping[str, Callable[[], Task]] = {
    "math": MathTask,
    "summarization": SummarizationTask,
    "translation": TranslationTask,
}
"""Tasks that come with the package, by name."""


def load_task(task: schema.Task, base: Path) -> Task:
    """Return the task that a config names.

    Args:
        task: the config's section.
        base: the config's folder, where the module of an import path may be.

    Raises:
        RequestError: the name is unknown, the class cannot be imported, or the settings do not
            go together.
    """
    given = [key for key in ("response", "metric") if getattr(task, key) is not None]
    if task.name in BUILT_IN or ":" in task.name:
        if given:
            raise RequestError(
                f"task.{given[0]} is for a task of your own, but task.name is {task.name!r}: "
                "leave it out, or give the task another name"
            )
        built_in = BUILT_IN.get(task.name)
        return built_in() if built_in else import_class(task.name, base)()
    if task.response is None or task.metric is None:
        raise RequestError(
            f"task.name {task.name!r} is none of {', '.join(BUILT_IN)} and no import path "
            "`module:Class`; a task of your own needs task.response and task.metric"
        )
    return configured_task(task.response, task.metric)


def task_identity(task: schema.Task, base: Path) -> dict[str, Any]:
    """Return what makes two tasks the same: the settings, and the source of an imported class."""
    identity = {"name": task.name, "response": task.response, "metric": task.metric}
    if ":" in task.name:
        identity["source_sha256"] = source_sha256(import_class(task.name, base))
    return identity
