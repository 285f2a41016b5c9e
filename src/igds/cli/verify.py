"""`igds verify`: do named features survive S3 and the controls on this model?"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tyro.conf import Positional

from igds.cli.command import print_end, print_table

_COLUMNS = (
    "feature", "position", "verdict", "delta", "low", "high", "p", "decoder 95", "residual 95",
    "ablated", "active", "frequency", "prompts needed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Test named features on split S3, against their controls; they need not be recalled.

    Features times positions are one family, declared before S3 is read. Index and recall are run
    first if they are missing. Any setting can follow.
    """

    overridable: ClassVar[bool] = True

    config: Positional[Path]
    """YAML file with the settings."""
    features: tuple[str, ...]
    """Features, as L14/11575 L25/3017."""
    positions: tuple[Literal["read", "generated", "all"], ...] = ("read", "generated", "all")
    """Where the state is edited, see intervene.position; each is a test of its own."""
    overwrite: bool = False
    """Replace stages that other settings or inputs, or other features, made."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Run what is missing and print a verdict a feature and position."""
        from igds.config.load import load_config
        from igds.progress import make_progress
        from igds.runs.readings import reading_words

        started = time.monotonic()
        file = load_config(self.config, overrides)
        from igds import pipeline

        run = pipeline.verify(
            file,
            self.features,
            positions=self.positions,
            overwrite=self.overwrite,
            progress=make_progress(),
        )
        verdicts = run.verdicts.to_pylist()
        print_table(_COLUMNS, map(_row, verdicts))
        for one in verdicts:
            print(f"{one['feature']} {one['position']}: {one['reason']}")
        tau = file.config.recall.min_frequency if file.config.recall else 0.0
        for name, frequency in _not_recalled(verdicts, tau).items():
            print(f"note: {name} is not recalled: its frequency {frequency:.3f} is under {tau:g}")
        again = reading_words(json.loads((run.folder.path / "verify/verdicts.json").read_bytes()))
        if again:
            print(f"note: {again}")
        print_end(run.folder.path, started)


def _row(one: Mapping[str, Any]) -> list[object]:
    controls = one["controls_95"]
    return [
        one["feature"],
        one["position"],
        "confirmed" if one["confirmed"] else "not confirmed",
        *(one[name] for name in ("delta", "delta_low", "delta_high", "p_family")),
        *(controls[kind] for kind in ("decoder", "residual")),
        one["ablated"],
        f"{one['active']} of {one['n']}",
        one["frequency"],
        one["prompts_needed"],
    ]


def _not_recalled(verdicts: Sequence[Mapping[str, Any]], tau: float) -> dict[str, float]:
    """Return feature -> frequency of those that are too rare to be recalled."""
    return {one["feature"]: one["frequency"] for one in verdicts if one["frequency"] < tau}
