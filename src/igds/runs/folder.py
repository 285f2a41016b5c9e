"""The run folder: config, manifest, events, and the tables of its stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from igds.runs.files import read_json, room_checked, whole_file, write_json


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on disk; readable while another process works in it."""

    path: Path
    """The folder `<runs_dir>/<name>`."""

    def write_config(self, text: str) -> None:
        """Write the run's resolved configuration as `config.yaml`."""
        with whole_file(self.path / "config.yaml") as file:
            file.write(text.encode())

    def manifest(self) -> dict[str, Any]:
        """Return what `manifest.json` records, empty before the first update."""
        return read_json(self.path / "manifest.json") or {}

    def update_manifest(self, changes: Mapping[str, Any]) -> None:
        """Replace top-level values of `manifest.json`, all of them or none."""
        write_json(self.path / "manifest.json", {**self.manifest(), **changes})

    def event(self, event: str, **facts: Any) -> None:
        """Append one line `{time, event, ...}` to `events.jsonl`, time in UTC."""
        line = {"time": datetime.now(UTC).isoformat(), "event": event, **facts}
        path = self.path / "events.jsonl"
        with room_checked(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b", buffering=0) as file:
                file.seek(max(0, file.seek(0, 2) - 1))
                torn = file.read() not in (b"", b"\n")  # what a kill left of the line before
                file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")

    def events(self) -> list[dict[str, Any]]:
        """Return the lines of `events.jsonl`, oldest first; none before the first event.

        A line without its end is left out: another process is writing it, or was killed then.
        """
        path = self.path / "events.jsonl"
        if not path.exists():
            return []
        found = []
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def table(self, name: str) -> pa.Table:
        """Return a Parquet file of the run, or all Parquet files of a folder in name order."""
        path = self.path / name
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        return pa.concat_tables(pq.ParquetFile(file).read() for file in files)
