"""The page about `igds saes train`, made from the docstrings of its settings."""

from __future__ import annotations

import sys
from pathlib import Path

from igds.config.reference import setting_tables
from igds.sae_training.config import SAETraining

_INTRODUCTION = """# Training sparse autoencoders

Made from `src/igds/sae_training/config.py` by `make docs`; do not edit.

`igds saes train CONFIG` runs a model once over open text, keeps the residual stream after the
blocks that the file names, and trains one SAE a block on it with sae-lens (extra `saelens`).
[configs/quickstart/saes.yaml](../configs/quickstart/saes.yaml) is the file behind the quickstart's
SAEs. Any setting can follow on the command line, as `--l0 64` or `--sources.0.tokens 100000`.
Relative paths start from the config file's folder, those of sources from `text_root`.

`<output>/L<layer>` are SAELens folders, which `saes` of a run's config takes as they are;
`<output>/quality.json` is the table that the command prints: explained variance, l0 and dead share
on held-out text and, as `read_...`, at the read position of held-out prompts. A killed run goes on
from the residuals in `cache`."""


def training_page() -> str:
    """Return the Markdown page on what the command does and on its settings."""
    return "\n\n".join([_INTRODUCTION, *setting_tables(SAETraining)]) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(training_page(), encoding="utf-8")
