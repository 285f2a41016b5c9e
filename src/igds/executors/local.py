"""Worker processes on this machine, one shard each at a time."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa

from igds.errors import RequestError, WorkError
from igds.executors.base import Shard, WorkerSpec
from igds.executors.frames import decode_table, read_answer
from igds.executors.signals import held_signals

_LAST_LINES = 20
_LAST_BYTES = 16_384
_PATIENCE = 10.0
"""Seconds a worker gets to end by itself once its input is closed."""


@dataclass(slots=True, kw_only=True)
class LocalExecutor:
    """Runs shards in worker processes of this machine, handing them out as workers come free.

    Workers wait for more work between runs, since starting one takes seconds; leaving the `with`
    block ends them.
    """

    workers: int
    """Worker processes."""
    peak_rss_mb: dict[int, float] = field(default_factory=dict)
    """Worker number -> its largest resident size so far, MB."""
    _alive: dict[int, _Worker] = field(default_factory=dict, init=False, repr=False)

    def __enter__(self) -> LocalExecutor:
        """Return the executor."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self.close()

    def close(self) -> None:
        """End the workers, dropping unfinished shards; a later run starts fresh ones."""
        while self._alive:
            self._alive.popitem()[1].stop()

    def run(
        self, spec: WorkerSpec, shards: Sequence[Shard], on_result: Callable[[int, pa.Table], None]
    ) -> None:
        """Call `on_result(position in shards, rows)` in this thread for each shard, in any order.

        A shard whose worker dies gets a second attempt on a fresh worker. When the call fails,
        Ctrl-C included, unfinished shards are dropped and no worker is left.

        Raises:
            RequestError: the work said that the request was wrong.
            WorkError: a shard's worker died twice, or memory ran out.
        """
        try:
            self._run(spec, shards, on_result)
        except BaseException:
            self.close()
            raise

    def _run(
        self, spec: WorkerSpec, shards: Sequence[Shard], on_result: Callable[[int, pa.Table], None]
    ) -> None:
        waiting = deque(range(len(shards)))
        failed: set[int] = set()
        with selectors.DefaultSelector() as selector:

            def start(number: int) -> None:
                worker = self._ready(number, spec)
                selector.register(worker.answers, selectors.EVENT_READ, worker)
                worker.assign(waiting.popleft(), shards)

            for number in range(min(self.workers, len(shards))):
                start(number)
            while selector.get_map():
                for key, _ in selector.select():
                    worker: _Worker = key.data
                    index, rows = worker.shard, worker.receive()
                    if rows is None:
                        selector.unregister(worker.answers)
                        death = worker.describe_death()
                        self._alive.pop(worker.number).stop()
                        if index in failed:
                            raise WorkError(_twice(index, shards[index], death))
                        failed.add(index)
                        waiting.appendleft(index)
                        start(worker.number)
                        continue
                    peak = self.peak_rss_mb.get(worker.number, 0.0)
                    self.peak_rss_mb[worker.number] = max(peak, worker.peak_rss_mb)
                    if waiting:  # the worker goes on while this thread writes
                        worker.assign(waiting.popleft(), shards)
                    else:
                        selector.unregister(worker.answers)
                    on_result(index, rows)

    def _ready(self, number: int, spec: WorkerSpec) -> _Worker:
        """Return the worker of a number with the spec's work built or on its way."""
        worker = self._alive.get(number)
        if worker is not None and worker.threads != spec.threads:
            self._alive.pop(number).stop()
            worker = None
        if worker is None:
            with held_signals():  # a worker not yet in `_alive` would be left
                worker = self._alive[number] = _Worker(number, spec.threads)
        worker.build(spec)
        return worker


class _InWorker(Exception):
    """The cause of an error that a worker reports: its traceback, for whoever asks to see it."""


class _Worker:
    """One worker process and the shard it has."""

    def __init__(self, number: int, threads: int) -> None:
        """Start the process."""
        self.number = number
        self.threads = threads
        self.shard = -1
        self.peak_rss_mb = 0.0
        self._spec: WorkerSpec | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "igds.executors.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | _environment(threads, number),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders = self._process.stdin
        self.answers = self._process.stdout

    def build(self, spec: WorkerSpec) -> None:
        """Tell the worker its work, unless it has it."""
        if spec != self._spec:
            self._spec = spec
            # With this process's path, an import name means there what it means here.
            self._send({"work": spec.work, "arguments": spec.arguments, "path": sys.path})

    def assign(self, index: int, shards: Sequence[Shard]) -> None:
        """Give the worker a shard."""
        self.shard = index
        self._send({"shard": shards[index]})

    def receive(self) -> pa.Table | None:
        """Return the rows of the worker's shard, None when it died.

        Raises:
            RequestError: the work said that the request was wrong.
            WorkError: memory ran out.
        """
        received = read_answer(self.answers)
        if received is None:
            return None
        answer, payload = received
        self.peak_rss_mb = answer.peak_rss_mb
        if answer.kind == "result":
            return decode_table(payload)
        error = RequestError(answer.message)
        if answer.kind == "out_of_memory":
            error = WorkError(
                f"memory ran out in shard {self.shard}: {answer.message}\n{_advice(self._spec)}"
            )
        raise error from _InWorker(answer.traceback)

    def describe_death(self) -> str:
        """Return how the dead worker ended and the last lines of its standard error."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)  # its own code, before its input closes
        self._end()
        code = self._process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        if code == -signal.SIGKILL:
            how += f", as the system does when memory runs out. {_advice(self._spec)}"
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _LAST_BYTES))
        lines = self._errors.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        return "\n  ".join([f"its worker {how}", *lines])

    def stop(self) -> None:
        """End the process, dropping its shard, and free what it held."""
        self._end()
        self.answers.close()
        self._errors.close()

    def _end(self) -> None:
        """Close the process's input, which ends it, and wait until it is gone."""
        with suppress(BrokenPipeError):
            self._orders.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, value: Shard) -> None:
        """Write one JSON line; to a dead worker nothing, as its closed output will tell."""
        with suppress(BrokenPipeError):
            self._orders.write(json.dumps(value).encode() + b"\n")
            self._orders.flush()


def _environment(threads: int, number: int) -> dict[str, str]:
    """Return the variables that a worker's libraries read when they are loaded."""
    return {
        "IGDS_WORKER": str(number),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads that spin would take other workers' cores
        "TOKENIZERS_PARALLELISM": "false",
    }


def _advice(spec: WorkerSpec | None) -> str:
    """Return what to try when memory runs out; the recorded plan is only left by --overwrite."""
    tokens = spec.arguments.get("batch_tokens") if spec else None
    value = f"to {tokens // 2} (it is {tokens})" if tokens else "to a smaller number"
    return f"Set runtime.batch_tokens {value} and run again with --overwrite."


def _twice(index: int, shard: Shard, death: str) -> str:
    """Return the message for a shard that failed on two workers."""
    text = json.dumps(shard)
    text = text if len(text) <= 200 else text[:200] + "..."
    return f"shard {index} {text} failed twice; {death}"
