"""`igds export`: the selected rows as a file for a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import Positional

from igds.cli.command import print_doubt
from igds.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the selected rows, in pool order, as they were in their sources."""

    overridable: ClassVar[bool] = False

    run: Positional[Path]
    """Run folder."""
    output: Path
    """File to write, ending as the format does; one that is there is replaced."""
    format: Literal["jsonl", "parquet"] = "jsonl"
    """File format."""

    def execute(self, overrides: Sequence[str]) -> None:  # noqa: ARG002
        """Write the file and print how many rows it has.

        Raises:
            RequestError: nothing is selected yet, or the output cannot be written there.
        """
        from igds.exports.rows import write_selected
        from igds.runs.folder import RunFolder

        if not (self.run / "select" / "selection.parquet").exists():
            raise RequestError(f"{self.run} has no selection yet: see `igds status {self.run}`")
        if self.output.suffix != f".{self.format}":
            raise RequestError(f"{self.output} does not end in .{self.format}, its --format")
        if not self.output.parent.is_dir():
            raise RequestError(f"{self.output.parent} is not a folder")
        selected = RunFolder(self.run).table("select/selection.parquet")["selected"].to_numpy()
        write_selected(self.output, self.run / "index", selected)
        print(f"{self.output}: {selected.sum()} rows")
        print_doubt(self.run)
