"""Work in another Python, whose packages and igds exclude each other: JSON lines, both ways."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import TIMEOUT_MAX, Event, Timer
from typing import Any, BinaryIO

from igds.errors import RequestError, WorkError

_LAST_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherPython:
    """A process in an environment of its own: `PYTHON PROCESS DESCRIPTOR ARGUMENTS...`.

    It imports nothing of igds, reads values from its standard input and writes others to the
    descriptor, each as a line of JSON.
    """

    name: str
    """What is asked for there, as people call it."""
    package: str
    """What must be installed there, as pip calls it."""
    module: str
    """The same as it is imported."""
    python: Path
    """Interpreter of the environment."""
    process: Path
    """File that it runs."""

    def check(self) -> None:
        """Raise RequestError unless the Python is there and has the package."""
        probe = f"import importlib.util as u, sys; sys.exit(u.find_spec({self.module!r}) is None)"
        try:
            done = subprocess.run([self.python, "-I", "-c", probe], capture_output=True)
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            raise RequestError(
                f"{self.python} is not a Python for {self.name}: {error}; make an environment of "
                f"its own by `python -m venv {self.module} && {self.module}/bin/python -m pip "
                f"install {self.package}` and name its {self.module}/bin/python"
            ) from error
        if done.returncode:
            raise RequestError(
                f"{self.python} has no {self.package}: {self.python} -m pip install {self.package}"
            )

    def answers(
        self, values: Iterable[Any], arguments: Sequence[str] = (), seconds: float | None = None
    ) -> Iterator[Any]:
        """Yield what the process writes, value by value as it comes.

        The process ends with the iteration, also where that is given up.

        Args:
            values: what it reads; plain JSON values.
            arguments: what follows the descriptor.
            seconds: time limit; None for none.

        Raises:
            RequestError: as `check`.
            WorkError: the process failed, or took too long.
        """
        self.check()
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.writelines(json.dumps(value).encode() + b"\n" for value in values)
            given.seek(0)
            reader, writer = os.pipe()
            with os.fdopen(reader, encoding="utf-8") as lines:
                started, late = self._start(given, said, writer, arguments), Event()
                timer = Timer(TIMEOUT_MAX if seconds is None else seconds, _end, [started, late])
                timer.daemon = True
                timer.start()
                try:
                    # A line that was cut short is of a process that died, which its code tells.
                    yield from (json.loads(line) for line in lines if line.endswith("\n"))
                    code = started.wait()
                finally:
                    timer.cancel()
                    if started.poll() is None:
                        _end(started)
            if late.is_set():
                raise WorkError(f"{self.name} took over {seconds:g} s")
            self._blame(code, said)

    def _start(
        self, given: BinaryIO, said: BinaryIO, writer: int, arguments: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        """Start the process in a group of its own; only it keeps the writer open."""
        # Isolated: neither this Python's PYTHONPATH nor the folder of the process, whose math.py
        # is not the standard library's, leads it to packages.
        command = [str(self.python), "-I", str(self.process), str(writer), *arguments]
        try:
            return subprocess.Popen(
                command,
                stdin=given,
                stdout=said,
                stderr=said,
                pass_fds=[writer],
                start_new_session=True,
            )
        finally:
            os.close(writer)

    def _blame(self, code: int, said: BinaryIO) -> None:
        if code != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            last = "\n  ".join(lines[-_LAST_LINES:])
            raise WorkError(f"{self.name} in {self.python} ended with {code}:\n  {last}")


def _end(started: subprocess.Popen[bytes], late: Event | None = None) -> None:
    """End the process and all that it started; say so in `late` first."""
    if late is not None:
        late.set()
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()
