"""From the runtime section to an executor."""

from __future__ import annotations

import os

from igds.config.schema import Runtime
from igds.errors import RequestError
from igds.executors.base import Executor
from igds.executors.local import LocalExecutor


def make_executor(runtime: Runtime) -> Executor:
    """Return the executor that the runtime section names.

    Raises:
        RequestError: `executor: ray`.
    """
    if runtime.executor == "ray":
        raise RequestError(
            "runtime.executor: ray is not supported yet; it comes in a later release. "
            "Use runtime.executor: local"
        )
    return LocalExecutor(workers=runtime.workers)


def worker_threads(runtime: Runtime) -> int:
    """Return the threads a worker gets: as configured, else its share of this process's cores."""
    return runtime.threads or max(1, _cores() // runtime.workers)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
