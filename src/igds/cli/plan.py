"""`igds plan`: what a run will cost, before it is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional

from igds.cli.command import print_table


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Show tokens, arithmetic, memory and time of each stage; the pool is indexed first.

    Times are those of this machine, from a short measurement.
    """

    overridable: ClassVar[bool] = True

    config: Positional[Path]
    """YAML file with the settings."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Index the rows, measure the model's throughput, and print the table."""
        from igds.config.load import load_config
        from igds.progress import make_progress

        file = load_config(self.config, overrides)
        from igds import pipeline
        from igds.planning.table import plan_table

        run = pipeline.run(file, until="index", progress=make_progress())
        columns, rows, notes = plan_table(file, run.folder.path)
        print_table(columns, rows)
        print("\n".join([*notes, f"run: {run.folder.path}"]))
