"""`igds doctor`: do the model, the SAEs and the cue fit, before a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tyro.conf import Positional

from igds.cli.command import print_table
from igds.errors import RequestError, WorkError

if TYPE_CHECKING:
    from igds.doctor.diagnosis import Diagnosis

_COLUMNS = (
    "layer", "verdict", "EV at t*", "EV tokens", "EV + BOS", "l0 at t*", "l0 tokens", "l0 stated",
    "dead", "dead at t*", "features", "specific", "stability", "on task",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say of each SAE whether it fits this model, these prompts and this cue.

    Needs no stage; exits with 1 when no layer is fit, with 2 when the prompts are too few to tell.
    Any setting can follow the config.
    """

    overridable: ClassVar[bool] = True

    config: Positional[Path]
    """YAML file with the settings."""
    prompts: int = 128
    """Rows of the prior set that are read, and half as many of the control set."""
    json: Path | None = None
    """File to write all figures to."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Print the table and the reasons.

        Raises:
            RequestError: the configuration or the data cannot be used, or no layer is known to be
                fit and the prompts are too few, or too alike, to tell of each.
            WorkError: no layer is fit.
        """
        from igds.config.load import load_config
        from igds.progress import make_progress

        if self.prompts < 4:
            raise RequestError(f"--prompts must be at least 4, not {self.prompts}")
        if self.json is not None and not self.json.parent.is_dir():
            raise RequestError(f"there is no folder {self.json.parent}: make it first")
        file = load_config(self.config, overrides)
        from igds import pipeline
        from igds.doctor.verdict import FEW

        found = pipeline.diagnose(file, limit=self.prompts, progress=make_progress())
        show(found)
        if self.json is not None:
            self.json.write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
        if not found.fit and found.untold:
            raise RequestError(
                f"too few prompts to tell whether {layer_names(found.untold)} fit, or too alike: "
                f"the reasons are above. Give data.prior and data.control {FEW} different rows or "
                f"more, as unlike each other as the pool's, and --prompts {2 * FEW} or more, "
                "as half of that are controls"
            )
        if not found.fit:
            raise WorkError("no layer is fit for the method: the reasons are above")


def show(found: Diagnosis) -> None:
    """Print a diagnosis: what was read, a line a layer, the reasons, the layers worth using."""
    print(f"model: {found.model}")
    rows = f"{found.prior_prompts} prior and {found.control_prompts} control prompts"
    tokens = f"{found.tokens_read} of {found.prompt_tokens} tokens"
    print(f"read: {rows}, in the cue and {found.paraphrases} paraphrases; {tokens}")
    print(f"BOS: {_bos_words(found)}")
    if not found.paraphrases:
        print(
            "stability: not measured, as nothing asks the same in other words: set "
            "prompts.paraphrases (docs/doctor.md says what they are in chat prompts)"
        )
    print_table(_COLUMNS, _rows(found))
    for verdict in found.verdicts:
        for reason in verdict.reasons:
            print(f"L{verdict.layer} {verdict.level}: {reason}")
    print(f"layers worth using: {layer_names(found.fit)}")


def layer_names(layers: Sequence[int]) -> str:
    """Return the names of layers, `none` without any."""
    return ", ".join(f"L{layer}" for layer in layers) or "none"


def _rows(found: Diagnosis) -> list[list[object]]:
    rows: list[list[object]] = []
    for one, verdict in zip(found.figures, found.verdicts, strict=True):
        qualities = (one.read, one.tokens, one.all_tokens)
        rows.append(
            [
                f"L{one.layer}",
                verdict.level,
                *(quality["explained_variance"] for quality in qualities),
                one.read["l0"],
                one.tokens["l0"],
                one.published_l0,
                one.tokens["dead_share"],
                one.read["dead_share"],
                len(one.cue.features),
                sum(feature.specific for feature in one.cue.features),
                one.cue.stability,
                one.cue.task_stability,
            ]
        )
    return rows


def _bos_words(found: Diagnosis) -> str:
    bos = found.bos
    if bos.token is None:
        return "the tokenizer has none"
    by = "the tokenizer adds it" if bos.added else "the tokenizer does not add it"
    surplus = f"; {bos.surplus} prompts have more than one" if bos.surplus else ""
    return f"{bos.token}, {by}, {'leads' if bos.leads else 'does not lead'} the prompts{surplus}"
