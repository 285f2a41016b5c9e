from __future__ import annotations

import subprocess
from pathlib import Path

from igds.runs.git import git_state


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_changes_of_a_repository(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert git_state(tmp_path) is None  # nothing is committed yet
    file = tmp_path / "a.txt"
    file.write_text("one")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "untracked").write_text("x")
    sha = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path / "runs") == {"sha": sha, "dirty": False}
    file.write_text("two")
    assert git_state(tmp_path) == {"sha": sha, "dirty": True}


def test_outside_a_repository(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "absent") is None
