"""`igds saes`: sparse autoencoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from igds.cli.command import print_table


@dataclass(frozen=True, kw_only=True)
class Saes:
    """Train sparse autoencoders on blocks of a model: igds saes train CONFIG.

    Any setting can follow the config, as --l0 64 or --sources.0.tokens 100000; docs/saes.md lists
    them all.
    """

    overridable: ClassVar[bool] = True

    action: Positional[Literal["train"]]
    """What to do."""
    config: Annotated[Positional[Path], arg(metavar="CONFIG")]
    """YAML file that says which blocks, on which text."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Train the SAEs that the config names and print their quality."""
        from igds.progress import make_progress
        from igds.sae_training.train import train_saes

        quality = train_saes(self.config, overrides, make_progress())
        print_table(list(quality[0]), [list(row.values()) for row in quality])
