"""SAEs on the Hugging Face Hub: the files of one SAE, at one commit, in the Hub's own cache."""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape
from pathlib import Path

from igds.errors import RequestError
from igds.hub import hub_errors


def download(repo: str, path: str, revision: str | None, files: Sequence[str]) -> tuple[Path, str]:
    """Return the local place of one SAE of a repository, and the commit it belongs to.

    Only that SAE's files are downloaded. Without a network the cache serves what it has.

    Args:
        repo: owner/name.
        path: folder or file in the repository.
        revision: branch, tag or commit; the main branch when absent.
        files: names that the SAE's folder may hold.

    Raises:
        RequestError: no such repository, revision or file, no right to it, or it can neither be
            reached nor found in the cache.
    """
    from huggingface_hub import snapshot_download

    where = f"SAE {repo}/{path}" + (f" at revision {revision!r}" if revision else "")
    patterns = [escape(path), *(f"{escape(path)}/{name}" for name in files)]
    with hub_errors(
        where,
        absent=f"{where}: the Hub has no repository {repo!r}",
        unreachable=f"{where} is not on this machine and the Hub cannot be reached; where it can: "
        f"{_command(repo, path, revision)}",
    ):
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    if not (folder / path).exists():
        raise RequestError(
            f"{where} is neither on the Hub nor in the cache at commit {folder.name}; if this "
            f"machine is offline, where it is not: {_command(repo, path, revision)}"
        )
    return folder / path, folder.name


def _command(repo: str, path: str, revision: str | None) -> str:
    """Return the command line that brings an SAE into the Hub's cache."""
    at = f" --revision {revision}" if revision else ""
    return f"hf download {repo}{at} --include '{path}*'"
