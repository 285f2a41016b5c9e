"""The worker's answers on the pipe: a JSON header line with a length, then that many bytes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import IO, Literal

import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a worker says about its shard."""

    kind: Literal["result", "request_error", "out_of_memory"]
    """The shard's rows follow, or why there are none."""
    peak_rss_mb: float
    """Largest resident size of the worker so far, MB."""
    message: str = ""
    """The error in words."""
    traceback: str = ""
    """Where in the worker it was raised, as Python prints it."""
    length: int = 0
    """Bytes of Arrow IPC after the header."""


def write_answer(stream: IO[bytes], answer: Answer, payload: pa.Buffer | None = None) -> None:
    """Write an answer and, for a result, its rows as Arrow IPC."""
    stream.write(json.dumps(asdict(answer)).encode() + b"\n")
    if payload is not None:
        stream.write(payload)
    stream.flush()


def read_answer(stream: IO[bytes]) -> tuple[Answer, pa.Buffer] | None:
    """Return an answer and its Arrow IPC bytes, None when the worker died before its end."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    answer = Answer(**json.loads(line))
    payload = stream.read(answer.length)
    return (answer, pa.py_buffer(payload)) if len(payload) == answer.length else None


def encode_table(table: pa.Table) -> pa.Buffer:
    """Return a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def decode_table(payload: pa.Buffer) -> pa.Table:
    """Return the table of an Arrow IPC stream, without copying it."""
    return pa.ipc.open_stream(payload).read_all()
