"""`igds recall`, `intervene`, `score`, `select` and on: one stage of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional

from igds.cli.run import run_stages


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """Run one stage; those before it must be done."""

    overridable: ClassVar[bool] = True

    config: Positional[Path]
    """YAML file with the settings."""
    overwrite: bool = False
    """Replace the stage if other settings or inputs made it."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Run the stage that the class is named after."""
        name = type(self).__name__.lower()
        run_stages(self.config, overrides, only=name, overwrite=self.overwrite)


@dataclass(frozen=True, kw_only=True)
class Recall(_Stage):
    """Find the features that are active on most task prompts.

    The stages before it must be done. Any setting can follow the config.
    """


@dataclass(frozen=True, kw_only=True)
class Intervene(_Stage):
    """Measure which recalled features help when amplified.

    The stages before it must be done. Any setting can follow the config.
    """


@dataclass(frozen=True, kw_only=True)
class Score(_Stage):
    """Give each pool row a pool score by each method.

    The stages before it must be done. Any setting can follow the config.
    """


@dataclass(frozen=True, kw_only=True)
class Select(_Stage):
    """Keep the best rows within the budget.

    The stages before it must be done. Any setting can follow the config.
    """


@dataclass(frozen=True, kw_only=True)
class Finetune(_Stage):
    """Train the model on the selected rows, or write what another trainer needs.

    The stages before it must be done. Any setting can follow the config.
    """


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Stage):
    """Measure the trained model on held-out rows and on benchmarks.

    The stages before it must be done. Any setting can follow the config.
    """


@dataclass(frozen=True, kw_only=True)
class Report(_Stage):
    """Write the HTML page.

    The stages before it must be done. Any setting can follow the config.
    """
