"""What a task is: a gold response for a row, and a judgement of an output."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from igds.data.messages import MESSAGES, split_turns
from igds.data.templates import as_text
from igds.data.tokens import Prompt, token_span
from igds.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@runtime_checkable
class Task(Protocol):
    """A task. A class of your own with these four names is used by its import path.

    It may have the methods of `MarksAnswer` and `Parses` and the templates of `HasParaphrases` too.
    """

    @property
    def template(self) -> str:
        """Prompt template when the config has none: ends in a cue; "" when there is none."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """Row fields that `response` and `score` read, besides those of the template."""
        ...

    def response(self, row: Mapping[str, Any]) -> str:
        """Return the gold response, which starts with one space; not asked of chat rows.

        Args:
            row: mapped field -> value; each of `fields` is there and not null.

        Raises:
            ValueError: the row's fields make no response.
        """
        ...

    def score(self, output: str, row: Mapping[str, Any]) -> float:
        """Return the task score of a model output, 0-1, higher is better.

        Args:
            output: what the model wrote after the prompt.
            row: mapped field -> value, see `scored_row`.
        """
        ...


@runtime_checkable
class MarksAnswer(Protocol):
    """A task whose responses hold a final answer: deltas are then also given over it alone."""

    def answer_span(self, response: str) -> tuple[int, int] | None:
        """Return where the final answer stands in a gold response, None where there is none.

        Returns:
            (start, stop): characters from 0, `stop` not included.
        """
        ...


@runtime_checkable
class Parses(Protocol):
    """A task that reads an answer out of outputs: those without any count as broken."""

    def parsed(self, output: str) -> bool:
        """Return whether an output holds an answer that can be judged, right or wrong."""
        ...


def answer_tokens(
    task: Task, tokenizer: PreTrainedTokenizerBase, response: str, after: Prompt = ("", ())
) -> tuple[int, int] | None:
    """Return (first, stop) of the tokens of the final answer, None where the task marks none.

    Args:
        task: may mark the answer.
        tokenizer: as for `encode_responses`.
        response: a gold response.
        after: its chat prompt, if there is one.
    """
    span = task.answer_span(response) if isinstance(task, MarksAnswer) else None
    return None if span is None else token_span(tokenizer, response, span, after)


def texts(row: Mapping[str, Any], field: str) -> list[str]:
    """Return the references of a row: the field is a text or a list of texts.

    Raises:
        ValueError: the list is empty or holds something else.
    """
    value = row[field]
    found = [as_text(item) for item in (value if isinstance(value, list) else [value])]
    if not found:
        raise ValueError(f"{field} is an empty list")
    return found


def scored_row(task: Task, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row's fields as `score` reads them: in a chat row the answer is each of them."""
    if MESSAGES not in row or MESSAGES in task.fields:
        return row
    _, answer = split_turns(row[MESSAGES])
    return {**dict.fromkeys(task.fields, answer or ""), MESSAGES: row[MESSAGES]}


@runtime_checkable
class HasParaphrases(Protocol):
    """A task that can ask the same in other words, for `igds doctor`."""

    @property
    def paraphrases(self) -> tuple[str, ...]:
        """Return prompt templates with the places of `template`, each ending in another cue."""
        ...


def need_package(module: str, setting: str = "") -> None:
    """Check that a package of the extra `eval` is installed.

    Args:
        module: its import name.
        setting: the one that asks for it, if one does.

    Raises:
        RequestError: it is not; names the pip command.
    """
    if importlib.util.find_spec(module) is None:
        where = f"{setting}: " if setting else ""
        raise RequestError(f"{where}{module} is not installed: pip install 'igds[eval]'")
