"""What makes two readings of the rows the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igds.config.schema import Source
from igds.data.chat import ChatTemplate
from igds.data.files import find_files
from igds.data.templates import Template
from igds.data.tokens import added_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def source_identity(source: Source, base: Path) -> dict[str, Any]:
    """Return a source's mapping and the name, size and sha256 of each of its files.

    Raises:
        RequestError: see `find_files`.
    """
    return {
        "columns": dict(source.columns),
        "messages": source.messages,
        "limit": source.limit,
        "id_column": source.id_column,
        "files": [
            {
                "name": file.name,
                "format": file.format,
                "bytes": file.path.stat().st_size,
                "sha256": file_sha256(file.path),
            }
            for file in find_files(source, base)
        ],
    }


def rendering_hash(
    template: Template, tokenizer: PreTrainedTokenizerBase, chat: ChatTemplate | None = None
) -> str:
    """Return the sha256 of the template, the tokens that the tokenizer adds, and the chat."""
    parts = [template.text, added_tokens(tokenizer), chat.identity if chat else None]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
