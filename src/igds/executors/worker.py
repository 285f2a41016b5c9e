"""The worker process: `python -m igds.executors.worker`, fed JSON lines, answering in frames.

A line `{work, arguments, path}` builds the work that the shards after it, `{shard}`, are given to;
it may come again with other work. The process ends as soon as its standard input closes, even in
the middle of a shard, so none outlives its driver.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import IO, Any

from igds.executors.base import Work
from igds.executors.frames import Answer, encode_table, write_answer
from igds.runs.memory import peak_rss_mb

_FULL = ("can't allocate memory", "out of memory", "alloc_failed")
"""Words of an error that say so, in lower case."""


def main() -> None:
    """Serve shards until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    faulthandler.enable()
    lines, answers = _claim_pipes()
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(lines, received), daemon=True).start()
    work: Work | None = None
    try:
        while True:
            order = json.loads(received.get())
            if "work" in order:
                sys.path[:] = order["path"]
                work = None  # frees its model before the next one is loaded
                work = _load(order["work"])(**order["arguments"])
            else:
                assert work is not None, "a shard came before its work"
                _answer(answers, kind="result", payload=encode_table(work(order["shard"])))
    except ValueError as error:
        _refuse(answers, "request_error", error)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _refuse(answers, "out_of_memory", error)
    threading.Event().wait()


def _claim_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Return the driver's pipes, out of reach of stray reads and prints of the work.

    Descriptor 0 becomes empty and descriptor 1 becomes standard error; the returned duplicates are
    not inherited by processes that the work may start.
    """
    lines, answers = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)
    return os.fdopen(lines, "rb"), os.fdopen(answers, "wb")


def _receive(lines: IO[bytes], received: queue.SimpleQueue[bytes]) -> None:
    """Pass lines on, and end the process when there are no more."""
    for line in lines:
        received.put(line)
    os._exit(0)


def _load(name: str) -> type[Work]:
    """Return the class at `package.module:Class`."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _answer(answers: IO[bytes], *, payload: Any = None, **facts: Any) -> None:
    """Write one answer with the peak memory so far."""
    length = 0 if payload is None else payload.size
    write_answer(answers, Answer(peak_rss_mb=peak_rss_mb(), length=length, **facts), payload)


def _refuse(answers: IO[bytes], kind: str, error: BaseException) -> None:
    """Write why there are no rows."""
    trace = "".join(traceback.format_exception(error))
    _answer(answers, kind=kind, message=str(error), traceback=trace)


def _out_of_memory(error: BaseException) -> bool:
    """Return whether the error says that host or device memory ran out."""
    # torch.OutOfMemoryError by name: this module must not import torch. Its allocator on the CPU,
    # cuBLAS and the other libraries of a GPU raise plain RuntimeErrors.
    named = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or named or any(w in str(error).lower() for w in _FULL)


if __name__ == "__main__":
    main()
