"""The user's cache folder: converted models and SAEs, and digests of large files."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

_SETTLED_NS = 2_000_000_000


def cache_dir() -> Path:
    """Return `~/.cache/igds`, or the folder that the environment variable IGDS_CACHE names."""
    return Path(os.environ.get("IGDS_CACHE") or Path.home() / ".cache" / "igds").expanduser()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file as hex; remembered by path, size and time of change.

    A file that changed within the last seconds may change again at what its file system calls the
    same time, and is not remembered.
    """
    real = path.resolve()
    stat = real.stat()
    key = hashlib.blake2b(f"{real}|{stat.st_size}|{stat.st_mtime_ns}".encode(), digest_size=16)
    note = cache_dir() / "digests" / key.hexdigest()
    if note.is_file():
        return note.read_text()
    settled = time.time_ns() - stat.st_mtime_ns > _SETTLED_NS
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not settled:
        return digest
    note.parent.mkdir(parents=True, exist_ok=True)
    part = note.with_name(f"{note.name}.{os.getpid()}")
    part.write_text(digest)
    part.replace(note)
    return digest
