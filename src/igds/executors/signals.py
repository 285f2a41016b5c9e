"""Signals that wait until a process that was just started is known to whoever must end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def held_signals() -> Generator[None, None, None]:
    """Hold back SIGINT and SIGTERM until the block is done; then they do what they would have done.

    Python hands signals to the main thread alone, so a block in another thread is left as it is.
    """
    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)
