"""The lock of a run folder: one run at a time, freed by the system whenever its holder dies."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from igds.errors import InUse
from igds.runs.files import read_json, write_json

LOCK, HOLDER = ".lock", ".lock.json"
"""Names in a run folder: the file that is locked, and who holds it."""


@dataclass(frozen=True, slots=True)
class RunLock:
    """Context manager that holds a run folder; readers need no lock.

    The lock belongs to this process alone: workers start without its file descriptor.
    """

    folder: Path
    """The run folder, made if absent."""
    waits: Callable[[str], None] | None = None
    """Told who holds the folder before the lock is waited for; when absent it is not waited for."""
    _lock: BaseFileLock = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Name the lock file."""
        # A soft lock would outlive a killed holder, so a file system without locks is an error.
        object.__setattr__(self, "_lock", FileLock(self.folder / LOCK, fallback_to_soft=False))

    def __enter__(self) -> RunLock:
        """Take the lock and leave this process's host and pid beside it.

        Raises:
            InUse: another process, named by host and pid, works in the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            holder = read_json(self._holder)
            who = f"pid {holder['pid']} on {holder['host']}" if holder else "another process"
            if self.waits is None:
                raise InUse(
                    f"{self.folder} is in use by {who}: wait for it to end or stop it, or give "
                    "this run another name",
                    who,
                ) from error
            self.waits(who)
            self._lock.acquire()
        write_json(self._holder, {"host": socket.gethostname(), "pid": os.getpid()})
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        self._holder.unlink(missing_ok=True)
        self._lock.release()

    @property
    def _holder(self) -> Path:
        """File with the holder's host and pid, stale when there is no holder."""
        return self.folder / HOLDER
