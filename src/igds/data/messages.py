"""Conversations as rows bring them, brought to one form: turns of `role` and `content`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from igds.data.sources import RawRow
from igds.rows import Status

MESSAGES = "messages"
"""The mapped field of a chat row; its value is a list of turns."""

Turn = dict[str, str]
"""`role` (system, user, assistant, tool or the row's own word) and `content`."""

_ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}
_SYSTEM = ("system", "developer")
_UNTOLD = ("tool_calls", "function_call", "reasoning_content", "thinking")
"""Keys that are part of what a turn says and have no place in `content`."""


def with_turns(row: RawRow) -> RawRow:
    """Return a raw row with its conversation in one form; `bad_messages` when it has none."""
    if row.fields is None or MESSAGES not in row.fields:
        return row
    turns = read_turns(row.fields[MESSAGES])
    if turns is None:
        return replace(row, status=Status.BAD_MESSAGES)
    return replace(row, fields={MESSAGES: turns})


def read_turns(value: Any) -> list[Turn] | None:
    """Return the turns of a conversation, None when it is none or is not of text alone.

    Args:
        value: a list of turns `{role, content}` or `{from, value}`, a mapping that holds one
            under `messages` or `conversations`, or either as JSON text. Content is text or a list
            of `{type: text, text}` parts.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, Mapping):
        value = value.get("messages") or value.get("conversations")
    if not isinstance(value, list) or not value:
        return None
    turns = [turn for turn in map(_turn, value) if turn is not None]
    return turns if len(turns) == len(value) else None


def split_turns(turns: Sequence[Turn]) -> tuple[list[Turn], str | None]:
    """Return the turns of the prompt, and the answer without white space around it.

    The answer is the last turn where that is the assistant's, "" when it says nothing; None where
    the last turn is someone else's, and then all turns are the prompt.
    """
    if turns[-1]["role"] != "assistant":
        return list(turns), None
    return list(turns[:-1]), turns[-1]["content"].strip()


def says_something(turns: Sequence[Turn]) -> bool:
    """Return whether a prompt's last turn has text and is no system prompt."""
    return bool(turns) and turns[-1]["role"] not in _SYSTEM and bool(turns[-1]["content"].strip())


def without_system(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns without system prompts."""
    return [turn for turn in turns if turn["role"] not in _SYSTEM]


def _turn(item: Any) -> Turn | None:
    """Return one turn, None when it says anything but text."""
    if not isinstance(item, Mapping) or any(item.get(key) for key in _UNTOLD):
        return None
    role = item.get("role") or item.get("from")
    # Files of both kinds that were merged have all four keys, two of them null.
    content = _text(item["content"] if item.get("content") is not None else item.get("value"))
    if not isinstance(role, str) or content is None:
        return None
    return {"role": _ROLES.get(role, role), "content": content}


def _text(content: Any) -> str | None:
    """Return a turn's text, its parts joined; None when a part is not text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if _is_text(part)]
    return "".join(parts) if len(parts) == len(content) else None


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    )
