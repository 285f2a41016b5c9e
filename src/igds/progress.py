"""Progress for people: a bar with rate and ETA on a terminal, plain lines elsewhere; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich import progress


@runtime_checkable
class Handle(Protocol):
    """One piece of work under way."""

    def advance(self, n: int = 1) -> None:
        """Count n more items as done."""
        ...


@runtime_checkable
class Progress(Protocol):
    """Where progress and notes go."""

    @contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Handle]:
        """Show work on `total` items (None: not known) until the block ends."""
        ...

    def note(self, text: str) -> None:
        """Show one line that stays."""
        ...


def make_progress() -> Progress:
    """Return a bar where stderr is a terminal, plain lines elsewhere."""
    return RichProgress() if sys.stderr.isatty() else PlainProgress()


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Handle]:  # noqa: ARG002
        """Show nothing until the block ends."""
        yield _Silent()

    def note(self, text: str) -> None:
        """Drop the line."""


class _Silent:
    def advance(self, n: int = 1) -> None:
        """Count nothing."""


class PlainProgress:
    """One line at the start of a task, one every few seconds, one at its end."""

    def __init__(self, every: float = 10.0) -> None:
        """Write a line each `every` seconds."""
        self._every = every

    @contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Handle]:
        """Write a line at the start, at intervals, and at the end unless the block raised."""
        self.note(f"{name}: {'started' if total is None else f'0 of {total}'}")
        counter = _Counter(self, name, total, self._every)
        yield counter
        self.note(f"{name}: {counter.done} done in {counter.seconds():.1f} s")

    def note(self, text: str) -> None:
        """Write one line."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class _Counter:
    def __init__(self, lines: PlainProgress, name: str, total: int | None, every: float) -> None:
        self._lines, self._name, self._total, self._every = lines, name, total, every
        self._start = self._last = time.monotonic()
        self.done = 0

    def seconds(self) -> float:
        """Return the time since the start."""
        return time.monotonic() - self._start

    def advance(self, n: int = 1) -> None:
        """Count n items; write a line when the last one is old enough."""
        self.done += n
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        rate = self.done / self.seconds()
        text = f"{self._name}: {self.done}"
        if self._total is not None:
            text += f" of {self._total}, {max(0, self._total - self.done) / rate:.0f} s left"
        self._lines.note(f"{text}, {rate:.1f} a second")


class RichProgress:
    """A bar with rate and ETA for each task."""

    def __init__(self) -> None:
        """Draw on stderr, a terminal."""
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Handle]:
        """Draw the bar until the block ends."""
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]} a second"),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=self._console) as bars:
            yield _Bar(bars, bars.add_task(name, total=total, rate="-"))

    def note(self, text: str) -> None:
        """Print one line above the bars."""
        self._console.print(text, markup=False, highlight=False)


class _Bar:
    def __init__(self, bars: progress.Progress, task: progress.TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, n: int = 1) -> None:
        """Move the bar by n items."""
        self._bars.advance(self._task, n)
        speed = self._bars.tasks[0].speed
        self._bars.update(self._task, rate=f"{speed:.1f}" if speed else "-")
