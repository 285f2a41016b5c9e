"""TRL's SFTTrainer: `prompt` and `completion`, or `messages`."""

from __future__ import annotations

from pathlib import Path

from igds.exports.examples import write_examples
from igds.exports.rows import Chosen


def write_trl(path: Path, rows: Chosen) -> list[str]:
    """Write JSONL for `load_dataset("json", data_files=...)`; return what to set in the trainer.

    Raises:
        RequestError, WorkError: see `write_examples`.
    """
    if write_examples(path, rows, "prompt", "completion"):
        return ["chat rows: SFTConfig(assistant_only_loss=True) trains on the answers alone"]
    return []
