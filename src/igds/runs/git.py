"""The state of the user's own repository, for the record of a run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

_PATIENCE = 5.0
"""Seconds that git gets: a status over a slow disk must not hold a run up."""


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether tracked files differ from it; None outside a repository.

    `dirty` is None when git did not answer in time.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"sha": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    """Return what git prints, None when it fails, is not installed or takes too long."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
