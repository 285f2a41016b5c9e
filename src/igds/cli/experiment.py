"""`igds experiment`: methods, budgets and seeds, trained and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Select, fine-tune and evaluate every cell of the grid; finished cells are not run again.

    The grid is the config's section `experiment`. Any setting can follow.
    """

    overridable: ClassVar[bool] = True

    config: Positional[Path]
    """YAML file with the settings."""
    tables: bool = False
    """Run nothing: name the missing cells, and write tables and figures of the finished ones."""
    overwrite: bool = False
    """Make again the cells that other settings or inputs made, and what they have in common."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Run what is missing, write tables and figures, and print where they are."""
        from igds.config.load import load_config
        from igds.progress import make_progress

        file = load_config(self.config, overrides)
        from igds.experiments.comparison import contrasts
        from igds.experiments.pages import write_pages
        from igds.experiments.run import run_experiment
        from igds.experiments.tables import stamps, verdict

        if not self.tables:
            run_experiment(file, overwrite=self.overwrite, progress=make_progress())
        found, page = write_pages(file)
        print(f"cells: {found.done} of {len(found.plan.cells)} are finished")
        if found.missing:
            print(f"missing: {', '.join(cell.name for cell in found.missing)}")
        for one in contrasts(found):
            print(f"{one.arm} - {one.against} at {one.budget}: {verdict(one)}")
        for line in stamps(found):
            print(line.replace("*", ""))
        print(f"tables: {page}")
