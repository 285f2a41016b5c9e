"""What makes two readings of the rows the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igds.cache import file_digest
from igds.config.inputs import Source
from igds.data.chat import ChatTemplate
from igds.data.files import SourceFile, find_files
from igds.data.hub import pinned
from igds.data.remote import reached, remote_version
from igds.data.templates import Template
from igds.data.tokens import added_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def source_identity(source: Source, base: Path) -> dict[str, Any]:
    """Return a source's mapping, its draw, and what tells its rows from changed ones.

    Raises:
        RequestError: see `find_files` and `pinned`.
    """
    drawn = {} if source.sample is None else {"sample": source.sample, "seed": source.sample_seed}
    skipped = {"skip": source.skip} if source.skip else {}
    return {
        "columns": dict(source.columns),
        "messages": source.messages,
        "limit": source.limit,
        **skipped,
        **drawn,
        "id_column": source.id_column,
        **_content(source, base),
    }


def rendering_hash(
    template: Template, tokenizer: PreTrainedTokenizerBase, chat: ChatTemplate | None = None
) -> str:
    """Return the sha256 of the template, the tokens that the tokenizer adds, and the chat."""
    parts = [template.text, added_tokens(tokenizer), chat.identity if chat else None]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _content(source: Source, base: Path) -> dict[str, Any]:
    if not source.on_hub:
        return {"files": [_file_identity(file) for file in find_files(source, base)]}
    return {
        "hub": source.path,
        "config": source.config,
        "split": source.split,
        "commit": pinned(source).revision,
    }


def _file_identity(file: SourceFile) -> dict[str, Any]:
    """Return a file's name, format, size, and sha256 or what its file system says of changes."""
    known = {"name": file.name, "format": file.format}
    if file.is_local:
        path = Path(file.path)
        return known | {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    with reached(file.name):
        version = remote_version(file.fs, file.path)
        if not version:
            with file.raw() as stream:
                version = {"sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
        return known | {"bytes": file.fs.size(file.path), **version}
