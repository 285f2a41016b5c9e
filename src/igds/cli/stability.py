"""`igds stability`: does identification find the same features from other priors and seeds?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional

from igds.cli.command import print_table


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Identify features from several prior sets and seeds, and say how far they agree.

    Each identification is a run of its own below the run folder. Any setting can follow.
    """

    overridable: ClassVar[bool] = True

    config: Positional[Path]
    """YAML file with the settings."""
    priors: tuple[str, ...]
    """Two or more prior sets: files or Hub sets whose columns are the task's fields, or data.prior,
    data.test, data.pool.1: sets and sources of the config. label=PATH names one."""
    seeds: int = 3
    """Seeds for each, from the config's own."""
    rows: int | None = None
    """Rows of each source, drawn anew for each seed; all of them when absent."""
    top: int = 5
    """Features that count as the best."""
    overwrite: bool = False
    """Replace identifications that other settings made."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Run what is missing, and print the best features and the agreement."""
        from igds.config.load import load_config
        from igds.progress import make_progress

        file = load_config(self.config, overrides)
        from igds.stability.identify import stability

        found = stability(
            file,
            self.priors,
            seeds=self.seeds,
            rows=self.rows,
            top=self.top,
            overwrite=self.overwrite,
            progress=make_progress(),
        )
        results = found.results
        print_table(
            ("prior", "seed", "recalled", "outcome", f"best {self.top}"),
            [
                (one["prior"], one["seed"], one["recalled"], one["outcome"], ", ".join(one["best"]))
                for one in results["identifications"]
            ],
        )
        print_table(
            ("prior", "and", "pairs", "recalled Jaccard", "best Jaccard", "delta Spearman"),
            [
                (
                    one["a"],
                    one["b"] if one["b"] != one["a"] else "other seeds",
                    one["pairs"],
                    one["recalled_jaccard"],
                    one["top_jaccard"],
                    one["delta_spearman"],
                )
                for one in results["between"]
            ],
        )
        print(f"page: {found.folder / 'index.html'}")
