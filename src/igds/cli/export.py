"""`igds export`: the selected rows as a file for a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional

from igds.exports.formats import Format, Order


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the selected rows for a trainer, their scores beside them."""

    overridable: ClassVar[bool] = False

    run: Positional[Path]
    """Run folder."""
    output: Path
    """File to write, `.parquet` for that format and `.jsonl` for all others; one that is there is
    replaced."""
    format: Format = "jsonl"
    """jsonl: rows as they were read; parquet: prompt, completion and original; the others as that
    trainer reads them."""
    order: Order = "pool"
    """As in the pool, or best first."""

    def execute(self, overrides: Sequence[str]) -> None:  # noqa: ARG002
        """Write the file and print what was written.

        Raises:
            RequestError: nothing is selected yet, or the rows cannot be written there.
        """
        from igds.exports.run import export_run
        from igds.runs.folder import RunFolder

        for line in export_run(RunFolder(self.run), self.output, self.format, self.order):
            print(line)
