"""Prompt templates: raw text with `{field}` places that ends in a cue."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from igds.errors import RequestError

_PLACE = re.compile(r"\{([^\W\d]\w*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    r"""Text with `{field}` places; other braces, as in `\boxed{}`, are ordinary text."""

    text: str
    """The template as written."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the names of its places, in order, each once."""
        return _places(self.text)

    @property
    def cue(self) -> str:
        r"""Return what stands behind the last line break or place, as `Solution:`."""
        return _PLACE.split(self.text.rpartition("\n")[2])[-1].strip()

    @property
    def ends_in_place(self) -> bool:
        """Return whether it ends in a place, so that its last token is another one in each row."""
        return self.text.endswith("}") and bool(_PLACE.fullmatch(self.text, self.text.rindex("{")))

    @property
    def is_place(self) -> bool:
        """Return whether it is one place and white space."""
        return bool(_PLACE.fullmatch(self.text.strip()))

    def render(self, fields: Mapping[str, Any]) -> str:
        """Return the text with each place filled once: braces inside a value stay as they are.

        Raises:
            KeyError: a place has no value.
        """
        return _PLACE.sub(lambda place: as_text(fields[place[1]]), self.text)


def parse_template(text: str, *, user_turn: bool = False) -> Template:
    """Return a prompt template that features can be read under.

    Args:
        text: as written.
        user_turn: whether it is a turn of a chat, so that it need not end in a cue.

    Raises:
        RequestError: it is empty, has no place, ends in white space, or ends in a place: the read
            position is the prompt's last token, which must be of the same cue in every row.
    """
    if not text:
        raise RequestError("prompts.template is needed: this task has no template of its own")
    template = Template(text=text)
    shown = repr(text if len(text) <= 80 else f"...{text[-77:]}")
    if not template.fields:
        raise RequestError(f"prompt template {shown} has no place for a field, as {{question}}")
    if user_turn:
        return template
    if text != text.rstrip():
        raise RequestError(
            f"prompt template {shown} ends in white space: end it in its cue; the response begins "
            "with the space"
        )
    if template.ends_in_place:
        raise RequestError(
            f"prompt template {shown} ends in a field: end it in a cue, as '\\nAnswer:', so that "
            "the read position is the same token in every row"
        )
    return template


def render_row(template: Template, row: Mapping[str, Any], setting: str) -> str:
    """Return a template filled with the fields of an index row.

    Args:
        template: other than the one that the row was indexed with.
        row: row_id, and fields as JSON.
        setting: where the template was given.

    Raises:
        RequestError: the row lacks a field of the template.
    """
    try:
        return template.render(json.loads(row["fields"]))
    except KeyError as error:
        raise RequestError(
            f"{setting}: row {row['row_id']} has no field {error}: the fields are those of the "
            "run's template and task"
        ) from error


@cache
def _places(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_PLACE.findall(text)))


def is_plain(value: Any) -> bool:
    """Return whether a row's value is text, a finite number or a boolean: fit for a template."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int)


def as_text(value: Any) -> str:
    """Return a plain value as it stands in a prompt: 2.0 as `2`, True as `true`.

    Raises:
        ValueError: the value is not plain.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not is_plain(value):
        raise ValueError(f"{value!r} is not text, a number or a boolean")
    return str(int(value)) if value == int(value) else str(value)
