"""JSONL: the rows as they were read."""

from __future__ import annotations

from pathlib import Path

from igds.exports.rows import Chosen
from igds.runs.files import whole_file


def write_jsonl(path: Path, rows: Chosen) -> list[str]:
    """Write each row's original bytes and a newline, whole or not at all; return no notes.

    Raises:
        WorkError: the disk is full.
    """
    with whole_file(path) as file:
        for batch in rows.batches(["original"]):
            file.writelines(original + b"\n" for original in batch["original"].to_pylist())
    return []
