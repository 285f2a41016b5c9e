"""The template engine of all pages: everything is escaped, and nothing hides."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from igds.reporting import summaries, text

FILTERS = (
    "number", "signed", "compact", "percent", "count", "duration", "decoding", "chip", "flatten",
)  # fmt: skip
"""Functions of `igds.reporting.text` that templates use."""


def environment() -> Environment:
    """Return the template engine: all is escaped, unknown names fail, hidden characters show."""
    environment = Environment(
        loader=PackageLoader("igds.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(text, name) for name in FILTERS}
    for function in (
        summaries.whisker, summaries.control_bars, summaries.doses, summaries.edit_words,
        summaries.edited, summaries.equally_frequent,
    ):  # fmt: skip
        environment.globals[function.__name__] = function
    environment.globals["control_words"] = summaries.CONTROL_WORDS
    return environment


def _finalize(value: Any) -> Any:
    """Return a value as the page may hold it: its own markup as is, strings made visible."""
    hostile = isinstance(value, str) and not isinstance(value, Markup)
    return text.visible(value) if hostile else value
