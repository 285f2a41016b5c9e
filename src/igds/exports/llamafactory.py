"""LLaMA-Factory: alpaca or sharegpt rows, and their entry in `dataset_info.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from igds.errors import RequestError
from igds.exports.examples import MESSAGES, write_examples
from igds.exports.rows import Chosen
from igds.runs.files import write_json

_ALPACA = {
    "formatting": "alpaca",
    "columns": {"prompt": "instruction", "response": "output"},
}
_SHAREGPT = {
    "formatting": "sharegpt",
    "columns": {"messages": MESSAGES},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def write_llamafactory(path: Path, rows: Chosen) -> list[str]:
    """Write JSONL and add it to the `dataset_info.json` of its folder; return what to set."""
    return llamafactory_dataset(path, rows)[1]


def llamafactory_dataset(path: Path, rows: Chosen) -> tuple[bool, list[str]]:
    """Write JSONL and its entry in `dataset_info.json`; return whether rows are chats, and notes.

    Raises:
        RequestError: see `write_examples`; `dataset_info.json` is no object, or has another data
            set of that name.
        WorkError: the disk is full.
    """
    info = path.with_name("dataset_info.json")
    known = _read_info(info)
    name = path.stem
    if name in known and known[name].get("file_name") != path.name:
        raise RequestError(f"{info} has another data set {name!r}: give the file another name")
    skipped = 0

    def inspect(turns: list[dict[str, Any]]) -> None:
        nonlocal skipped
        skipped += not _alternates(turns)

    chats = write_examples(path, rows, "instruction", "output", inspect)
    write_json(info, {**known, name: {"file_name": path.name, **(_SHAREGPT if chats else _ALPACA)}})
    notes = [f"{info}: dataset {name}"]
    if chats:
        notes.append(
            "leave template out, and LLaMA-Factory takes the chat template of the tokenizer of the "
            "model to be trained; name one where that has none, or turns are joined bare"
        )
    else:
        added = " and ".join(filter(None, rows.around))
        notes.append(
            "prompts are rendered already: set template: empty"
            + (f", which adds no {added}: the rows bring them as text" if added else "")
        )
    if skipped:
        notes.append(
            f"LLaMA-Factory skips {skipped} rows: after a system turn it wants user and assistant "
            "in turn, an assistant last"
        )
    return chats, notes


def _read_info(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}") from error
    if not isinstance(known, dict) or not all(isinstance(item, dict) for item in known.values()):
        raise RequestError(f"{path} is no object of data sets")
    return known


def _alternates(turns: list[dict[str, Any]]) -> bool:
    roles = [turn["role"] for turn in turns]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    return bool(roles) and roles == ["user", "assistant"] * (len(roles) // 2)
