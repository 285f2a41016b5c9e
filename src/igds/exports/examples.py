"""Rows as trainers read them: prompt and completion, or the turns of a chat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from igds.errors import RequestError
from igds.exports.rows import Chosen
from igds.runs.files import whole_file

MESSAGES = "messages"
"""Key of a chat row's turns, each with `role` and `content`."""

_BREAKS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""Line breaks of Unicode that JSON does not escape and careless readers split at."""


def write_examples(
    path: Path,
    rows: Chosen,
    prompt: str,
    completion: str,
    inspect: Callable[[list[dict[str, Any]]], None] = lambda _: None,
) -> bool:
    """Write one JSON object a row, whole or not at all; return whether the rows are chats.

    Args:
        path: file to write.
        rows: what to write.
        prompt: key of the rendered prompt; a chat row has only `messages`.
        completion: key of the gold response, which starts with a space.
        inspect: shown the turns of each chat row.

    Raises:
        RequestError: a row without a response, with a value that is no JSON, or of another kind
            than the first.
        WorkError: the disk is full.
    """
    chats = None
    with whole_file(path) as file:
        for row_id, text, response, turns in _examples(rows):
            chats = turns is not None if chats is None else chats
            if chats != (turns is not None):
                raise RequestError(
                    f"row {row_id}: some rows are chats and some are not, and a trainer reads one "
                    "kind; export them as jsonl or parquet"
                )
            if turns is not None:
                inspect(turns)
                value: dict[str, Any] = {MESSAGES: turns}
            elif response is None:
                raise RequestError(f"row {row_id} has no response to train on")
            else:
                before, behind = rows.around
                value = {prompt: f"{before}{text}", completion: f"{response}{behind}"}
            file.write(_line(value, row_id))
    return bool(chats)


def _examples(
    rows: Chosen,
) -> Iterator[tuple[str, str | None, str | None, list[dict[str, Any]] | None]]:
    """Yield row id, prompt, response, and the turns of a chat row."""
    for batch in rows.batches(["row_id", "prompt", "response", "fields"]):
        for row in batch.to_pylist():
            yield row["row_id"], row["prompt"], row["response"], _turns(row["fields"])


def _turns(fields: str | None) -> list[dict[str, Any]] | None:
    """Return the turns of a chat row, None for any other row."""
    # Most rows are no chats: their JSON need not be parsed.
    if fields is None or f'"{MESSAGES}":[' not in fields:
        return None
    turns = json.loads(fields).get(MESSAGES)
    if not isinstance(turns, list) or not turns or not all(map(_is_turn, turns)):
        return None
    return turns


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and "role" in turn and "content" in turn


def _line(value: dict[str, Any], row_id: str) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise RequestError(f"row {row_id} holds a number that JSON cannot: {error}") from error
    return text.translate(_BREAKS).encode() + b"\n"
