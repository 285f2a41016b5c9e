"""The page about `igds saes train` and `untrained`; settings from their docstrings."""

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

_CONTROLS = """## Control SAEs

Would directions that nobody learned select as well? Two controls, after
[2602.14111](https://arxiv.org/abs/2602.14111), go through the whole pipeline as `saes` of a second
run with another `name` and all else equal, which reads S3 once more and is on its record;
[methods](methods.md#by-another-sae) says what they answer.

**Untrained.** `igds saes untrained CONFIG OUTPUT` writes a double of each SAE of a run: JumpReLU,
of the same block and width, decoder rows uniform on the unit sphere by `--directions-seed`, block
and index, the encoder tied to them. It recalls first if that is not done; beyond that it needs no
pass of the model, and never the extra `saelens`.

- What is matched: each feature is active as often as its namesake, and as strongly (mean activation
  where active, times the norm of the decoder row). So recall keeps the same number of features,
  equally frequent, and amplifying pushes as hard; the direction is another.
- On what: the prior prompts at the read position, where frequency is defined and recall cuts. Rows
  of validation, control, pool and test are not looked at, so specificity, deltas and the selection
  are outcomes. Matched on all tokens instead, nearly every direction is active on no prompt or on
  all, as prompts that end in one cue are much alike there (30 prompts of the quickstart, block 15:
  3,359 of 3,383 directions under 5 % or over 95 %, and 8 recalled where the trained SAE has 24).
- How: the threshold is in the middle between the last residual that passes and the next. Where the
  namesake is never active it is just above all projections. The encoder's bias sets the strength;
  where projections spread further than the namesake is strong, the feature is `louder`, as every
  activation must be over 0.
- `frequency_gap` of the table is the largest difference of frequency that is left (0 unless several
  prompts have one residual), `louder` counts features over 1 % stronger than their namesake.
  `cfg.json` has both under `untrained`, with the SAE's name and sha256, the seed, and a digest of
  the recall's identity.
- The decoder bias is the trained SAE's. Nothing was fitted to reconstruct: explained variance is
  far below 0 (-24 to -64 in the quickstart's blocks), and recall and `igds doctor` say so.

**Frozen.** `igds saes train CONFIG --decoder frozen --output OTHER` trains the same SAE from the
same captured residuals (text, steps, l0) but for its decoder, which stays at random unit
directions, bit for bit: those of the untrained double of an equal seed. Encoder, which starts tied
to them, biases and thresholds are trained. The files hold the directions times one factor, in
float16."""


def training_page() -> str:
    """Return the Markdown page on what the commands do and on the settings of training."""
    return "\n\n".join([_INTRODUCTION, _CONTROLS, *setting_tables(SAETraining)]) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(training_page(), encoding="utf-8")
