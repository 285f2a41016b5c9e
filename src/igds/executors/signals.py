"""Signals that wait until a process that was just started is known to whoever must end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager


@contextmanager
def held_signals() -> Generator[None, None, None]:
    """Hold back SIGINT and SIGTERM until the block is done; then they do what they would have done.

    Python hands signals to the main thread alone, so a block in another thread is left as it is,
    and so are signals that are ignored, or handled by other code than Python's.
    """
    came: list[int] = []
    with ExitStack() as restored:
        restored.callback(_raise, came)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):
                    restored.callback(signal.signal, number, handler)
                    signal.signal(number, lambda number, _frame: came.append(number))
        yield


def _raise(numbers: Iterable[int]) -> None:
    for number in numbers:
        signal.raise_signal(number)
