"""`igds run`: every stage of a configuration."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from igds.cli.command import of_earlier, print_end


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run all stages; what is done and unchanged is skipped, what was cut short is resumed.

    Any setting can follow the config, as --recall.min-frequency 0.9 or --data.pool.0.path x.
    """

    overridable: ClassVar[bool] = True

    config: Positional[Path]
    """YAML file with the settings."""
    until: Annotated[str | None, arg(metavar="STAGE")] = None
    """Last stage to run: index, recall, intervene, score, select, finetune, evaluate or
    report."""
    overwrite: bool = False
    """Replace stages that other settings or inputs made."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Run and print the time, the run folder and the page."""
        run_stages(self.config, overrides, until=self.until, overwrite=self.overwrite)


def run_stages(
    path: Path,
    overrides: Sequence[str],
    *,
    until: str | None = None,
    only: str | None = None,
    overwrite: bool = False,
) -> None:
    """Run the stages asked for and print the time and where the results are."""
    from igds.config.load import load_config
    from igds.progress import make_progress

    started = time.monotonic()
    file = load_config(path, overrides)
    from igds import pipeline

    run = pipeline.run(file, until=until, only=only, overwrite=overwrite, progress=make_progress())
    print_end(run.folder.path, started)
    if run.report.exists():
        print(f"report: {run.report}{of_earlier(run.report.parent)}")
