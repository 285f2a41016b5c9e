"""Digests of files, remembered and not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from igds.cache import file_digest


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IGDS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "rows.jsonl"


def test_a_file_that_just_changed_is_read_again(file: Path) -> None:
    file.write_text("one")
    changed = file.stat().st_mtime_ns
    assert file_digest(file) == sha256("one")
    file.write_text("two")  # of the same size, and within one tick of the file system's clock
    os.utime(file, ns=(changed, changed))
    assert file_digest(file) == sha256("two")


def test_a_settled_file_is_read_once_until_its_size_or_time_changes(file: Path) -> None:
    file.write_text("one")
    os.utime(file, ns=(10**18, 10**18))
    assert file_digest(file) == sha256("one")
    (note,) = (file.parent / "cache" / "digests").iterdir()
    note.write_text("remembered")
    assert file_digest(file) == "remembered"
    os.utime(file, ns=(10**18, 10**18 + 1))
    assert file_digest(file) == sha256("one")
    file.write_text("longer")
    os.utime(file, ns=(10**18, 10**18))
    assert file_digest(file) == sha256("longer")
