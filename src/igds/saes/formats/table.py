"""All formats that igds reads, and which of them a folder or file has."""

from __future__ import annotations

from pathlib import Path

from igds.errors import RequestError
from igds.saes.formats import (
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    qwen_scope,
    saelens,
    sparsify,
)
from igds.saes.formats.base import Format

FORMATS: tuple[Format, ...] = (
    saelens.FORMAT,
    gemma_scope.FORMAT,
    gemma_scope_2.FORMAT,
    llama_scope.FORMAT,
    qwen_scope.FORMAT,
    sparsify.FORMAT,
    dictionary_learning.FORMAT,
)


def find_format(path: Path) -> Format:
    """Return the one format that the files at `path` have.

    Raises:
        RequestError: none or several; the message lists what is there and what igds reads.
    """
    found = [one for one in FORMATS if one.matches(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and of ".join(one.name for one in found)
        raise RequestError(f"{path} has the files of {names}: keep one SAE a folder")
    raise RequestError(f"{path} {_holds(path)}; igds reads {'; '.join(map(_known_by, FORMATS))}")


def _known_by(one: Format) -> str:
    return f"{one.name} ({', '.join(one.files) or 'layer<n>.sae.pt'})"


def _holds(path: Path) -> str:
    """Return what is at a path, in words."""
    if path.is_file():
        return "is no file of an SAE by itself: name its folder"
    if not path.is_dir():
        return "is not there"
    names = sorted(item.name for item in path.iterdir())
    return (
        f"holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "is empty"
    )
