"""Axolotl: JSONL, and the `datasets:` section of its YAML."""

from __future__ import annotations

from pathlib import Path

from igds.config.identity import yaml_text
from igds.exports.examples import MESSAGES, write_examples
from igds.exports.rows import Chosen
from igds.runs.files import whole_file

_INSTRUCTION = {
    "type": {
        "field_instruction": "instruction",
        "field_output": "output",
        # The prompt is rendered already: `type: alpaca` would put its own words around it.
        "format": "{instruction}",
        "no_input_format": "{instruction}",
    }
}
_CHAT = {"type": "chat_template", "field_messages": MESSAGES}


def write_axolotl(path: Path, rows: Chosen) -> list[str]:
    """Write JSONL and `<name>.axolotl.yaml` beside it; return the YAML's text.

    Raises:
        RequestError, WorkError: see `write_examples`.
    """
    chats = write_examples(path, rows, "instruction", "output")
    dataset = {"path": str(path), "ds_type": "json", **(_CHAT if chats else _INSTRUCTION)}
    text = yaml_text({"datasets": [dataset]})
    snippet = path.with_name(f"{path.stem}.axolotl.yaml")
    with whole_file(snippet) as file:
        file.write(text.encode())
    return [f"{snippet}:", text.rstrip()]
