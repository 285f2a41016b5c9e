"""What an executor is, and what a worker is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

Shard = Mapping[str, Any]
"""One unit of work and of resume, as a JSON object; its keys are the work's own."""


@runtime_checkable
class Work(Protocol):
    """What a worker runs: built once from the spec's arguments, then called shard by shard.

    A ValueError says that the request was wrong: its message reaches the user as it is.
    """

    def __call__(self, shard: Shard) -> pa.Table:
        """Return the shard's rows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """Everything a worker needs to build its work: names and JSON values, no live objects."""

    work: str
    """Import path `package.module:Class` of a `Work`."""
    arguments: Mapping[str, Any]
    """Keyword arguments of that class; JSON values."""
    threads: int
    """Threads a worker may use, from the recorded plan."""


@runtime_checkable
class Executor(Protocol):
    """Runs shards somewhere; only the caller's process writes."""

    workers: int
    """Worker processes."""
    peak_rss_mb: dict[int, float]
    """Worker number -> its largest resident size so far, MB."""

    def __enter__(self) -> Executor:
        """Return the executor."""
        ...

    def __exit__(self, *_: object) -> None:
        """Close it."""
        ...

    def close(self) -> None:
        """End the workers that wait for more work, and free what they hold."""
        ...

    def run(
        self, spec: WorkerSpec, shards: Sequence[Shard], on_result: Callable[[int, pa.Table], None]
    ) -> None:
        """Call `on_result(position in shards, rows)` for each shard, in any order.

        Raises:
            RequestError: the work said that the request was wrong.
            WorkError: a shard failed twice, or memory ran out.
        """
        ...
