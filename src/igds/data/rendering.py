"""From a row's mapped fields to its status, prompt and gold response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from igds.data.templates import Template, as_text, is_plain
from igds.errors import RequestError
from igds.rows import Status


@runtime_checkable
class GoldResponses(Protocol):
    """The part of a task that the index needs."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Row fields that `response` reads, besides those of the template."""
        ...

    def response(self, row: Mapping[str, Any]) -> str:
        """Return the gold response; ValueError when the fields make none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How the rows of one set become prompts."""

    template: Template
    """The task's template: its places are the row's prompt fields."""
    task: GoldResponses
    """Gives the gold response."""
    others: tuple[Template, ...] = ()
    """Templates of other tasks; when there are any, row n is rendered in number n modulo their
    count, `{text}` being the prompt fields joined by newlines."""
    require_response: bool
    """Whether a row without a gold response is of no use."""

    def __post_init__(self) -> None:
        """Refuse places that no row can fill."""
        known = {"text", *self.template.fields}
        for other in self.others:
            unknown = [name for name in other.fields if name not in known]
            if unknown:
                raise RequestError(
                    f"prompts.control_templates: {other.text!r} has a place for "
                    f"{', '.join(unknown)}; it can have {', '.join(sorted(known))}"
                )

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the mapped fields: those of the template, then those of the task."""
        return tuple(dict.fromkeys((*self.template.fields, *self.task.fields)))

    def render(self, fields: Mapping[str, Any], ordinal: int) -> tuple[Status, str, str | None]:
        """Return status, prompt and gold response; the prompt is "" unless the status is ok."""
        names = self.template.fields
        if not all(is_plain(fields.get(name)) for name in names):
            return Status.MISSING_FIELD, "", None
        if not any(str(fields[name]).strip() for name in names):
            return Status.EMPTY_PROMPT, "", None
        response = self._response(fields)
        if response is None and self.require_response:
            return Status.MISSING_FIELD, "", None
        return Status.OK, self._prompt(fields, names, ordinal), response

    def _prompt(self, fields: Mapping[str, Any], names: Sequence[str], ordinal: int) -> str:
        if not self.others:
            return self.template.render(fields)
        text = "\n".join(as_text(fields[name]) for name in names)
        return self.others[ordinal % len(self.others)].render({**fields, "text": text})

    def _response(self, fields: Mapping[str, Any]) -> str | None:
        """Return the gold response, None when the row has none or a blank one."""
        if not all(name in fields for name in self.task.fields):
            return None
        try:
            response = self.task.response(fields)
        except ValueError:
            return None
        return response if response.strip() else None
