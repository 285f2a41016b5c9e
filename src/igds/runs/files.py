"""Whole-file writes: a file has its name only once all of its bytes are on disk."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from igds.errors import WorkError

TEMPORARY = ".tmp"
"""Ending of a file that is still being written."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the name `path` when the block ends without an error.

    Raises:
        WorkError: the disk is full, or a quota or size limit is reached.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with room_checked(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def room_checked(path: Path) -> Iterator[None]:
    """Turn a full disk met in the block into an error that names the file and how to go on.

    Raises:
        WorkError: the disk is full, or a quota or size limit is reached.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise WorkError(
            f"cannot write {path}: {os.strerror(error.errno)}. Free some space and run the same "
            "command again: it goes on from the last finished file."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all; NaN and infinity are ValueErrors."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with whole_file(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any | None:
    """Return the JSON value of a file, None when there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def shard_files(folder: Path, kind: str = "shard") -> list[Path]:
    """Return the files `<kind>-<number>.parquet` of a folder by their numbers, of any length."""
    return sorted(folder.glob(f"{kind}-*.parquet"), key=lambda path: (len(path.name), path.name))
