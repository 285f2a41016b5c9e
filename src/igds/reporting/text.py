"""Numbers and hostile text as a reader can take them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

Number = float | int
"""What JSON and Parquet call a number."""
JOINERS = "\u200c\u200d"
"""Invisible characters that emoji and some scripts need."""
LONGEST_TOKEN = 80
"""Characters of one token that are shown."""


def number(value: Number | None, digits: int = 3) -> str:
    """Return a number with a true minus sign, or n/a where there is none."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: Number | None, digits: int = 3) -> str:
    """Return a number with its sign, plus included."""
    text = number(value, digits)
    return f"+{text}" if value is not None and round(value, digits) > 0 else text


def compact(value: Number | None) -> str:
    """Return a number with four significant digits, whatever its size."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:,.4g}".replace("-", "−")


def percent(value: Number | None, digits: int = 1) -> str:
    """Return a share as a percentage."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{100 * value:.{digits}f} %"


def count(value: int | None) -> str:
    """Return a whole number with commas."""
    return "n/a" if value is None else f"{value:,}"


def duration(seconds: Number) -> str:
    """Return a time in the unit a reader thinks in."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def decoding(settings: Mapping[str, Number]) -> str:
    """Return how responses were generated in words.

    Args:
        settings: `decoding` of `evaluate/results.json`.
    """
    how = "greedy"
    if settings["temperature"] > 0:
        how = f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}"
    return (
        f"{settings['samples']} a prompt, {how}, at most {settings['max_new_tokens']:,} tokens, "
        f"{settings['shots']}-shot"
    )


def visible(text: str) -> str:
    """Return text in which no character hides, reorders or ends a line unseen.

    Newline and tab stay; other control characters become their pictures, and invisible ones,
    direction marks and unpaired surrogates are named by code point.
    """
    return "".join(map(_visible, text))


def token(text: str) -> str:
    """Return a token of a prompt as shown in running text, long ones cut."""
    if len(text) > LONGEST_TOKEN:
        text = f"{text[:LONGEST_TOKEN]}…[{len(text):,} characters]"
    return visible(text).replace("\n", "↵\n").replace("\t", "⇥\t")


def chip(text: str) -> str:
    """Return a token standing alone, its spaces and newlines visible."""
    return token(text).replace("\n", "").replace("\t", "").replace(" ", "␣")


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted key and text of every leaf of nested objects and lists, in order."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, list) and any(isinstance(part, dict | list) for part in item):
            item = {str(place): part for place, part in enumerate(item)}
        if isinstance(item, Mapping):
            yield from flatten(item, f"{name}.")
        else:
            yield name, ", ".join(map(str, item)) if isinstance(item, list) else str(item)


def _visible(character: str) -> str:
    if character in "\n\t" or character in JOINERS:
        return character
    category = unicodedata.category(character)
    if category == "Cc" and ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    if category in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨U+{ord(character):04X}⟩"
    return character
