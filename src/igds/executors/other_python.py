"""Work in another Python, whose packages and igds exclude each other: JSON lines, both ways."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import TIMEOUT_MAX, Event, Timer
from typing import Any, BinaryIO

from igds.errors import RequestError, WorkError

_RUNNER = Path(__file__).with_name("other_process.py")
_MISSING = 3
"""Exit code of the probe where the package is not installed."""
_NO_PYTHON = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC)
"""Why a file cannot be started as a Python; other reasons are the machine's."""
_PATIENCE = 60.0
"""Seconds that a process which has answered gets to end by itself."""
_LAST_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherPython:
    """A process in an environment of its own, which imports nothing of igds.

    It reads values from its standard input and writes others to the descriptor that is its first
    argument, each as a line of JSON.
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
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables beside those of this process."""

    def check(self) -> None:
        """Raise RequestError unless the Python is there and has the package."""
        probe = (
            "import importlib.util, sys; "
            f"sys.exit({_MISSING} if importlib.util.find_spec({self.module!r}) is None else 0)"
        )
        try:
            done = subprocess.run([self.python, "-I", "-c", probe], capture_output=True)
        except OSError as error:
            if error.errno not in _NO_PYTHON:
                raise
            raise RequestError(
                f"{self.python} is not a Python for {self.name}: {error}; make an environment of "
                f"its own by `python -m venv {self.module} && {self.module}/bin/python -m pip "
                f"install {self.package}` and name its {self.module}/bin/python"
            ) from error
        if done.returncode == _MISSING:
            raise RequestError(
                f"{self.python} has no {self.package}: {self.python} -m pip install {self.package}"
            )
        if done.returncode:
            said = _last_lines(done.stderr)
            raise RequestError(f"{self.python} does not start for {self.name}:\n  {said}")

    def answers(
        self, values: Iterable[Any], arguments: Sequence[str] = (), seconds: float | None = None
    ) -> Generator[Any, None, None]:
        """Yield what the process writes, value by value as it comes.

        The process and all that it started end with the iteration, when the iterator is closed, and
        when this process dies.

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
                timer = Timer(TIMEOUT_MAX if seconds is None else seconds, _kill, [started, late])
                timer.daemon = True
                try:
                    timer.start()
                    # A line that was cut short is of a process that died, which its code tells.
                    yield from (json.loads(line) for line in lines if line.endswith("\n"))
                    with suppress(subprocess.TimeoutExpired):
                        started.wait(_PATIENCE)
                finally:
                    timer.cancel()
                    _kill(started)  # and what it started, if it is done
                    started.wait()
                    assert started.stdin is not None, "it is a pipe"
                    started.stdin.close()
            if late.is_set():
                raise WorkError(f"{self.name} took over {seconds:g} s")
            if started.returncode:
                said.seek(0)
                raise WorkError(
                    f"{self.name} in {self.python} ended with {started.returncode}:\n"
                    f"  {_last_lines(said.read())}"
                )

    def _start(
        self, given: BinaryIO, said: BinaryIO, writer: int, arguments: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        """Start the process in a group of its own; only it keeps the writer open."""
        # Isolated: neither this Python's PYTHONPATH nor the folder of the process, whose math.py
        # is not the standard library's, leads it to packages.
        words = [self.python, "-I", _RUNNER, self.process, given.fileno(), writer, *arguments]
        try:
            return subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env={**os.environ, **self.variables},
                pass_fds=[given.fileno(), writer],
                start_new_session=True,
            )
        finally:
            os.close(writer)


def visible_gpus(device: str) -> dict[str, str]:
    """Return the environment variable that shows a process the device of a `ModelSpec` alone.

    Of `cuda` and `map` all that this process sees stay visible; nothing else than GPUs has any.
    """
    kind, _, number = device.partition(":")
    if kind not in ("cuda", "map"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    if not number:
        return {}
    known = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"CUDA_VISIBLE_DEVICES": known[int(number)] if known != [""] else number}


def _last_lines(said: bytes) -> str:
    return "\n  ".join(said.decode(errors="replace").splitlines()[-_LAST_LINES:])


def _kill(started: subprocess.Popen[bytes], late: Event | None = None) -> None:
    """End a process and its group; say so in `late` first."""
    if late is not None:
        late.set()
    with suppress(ProcessLookupError, PermissionError):  # macOS says so of one that has ended
        os.killpg(started.pid, signal.SIGKILL)
