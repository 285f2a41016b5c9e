"""The funnel's steps as shards that are written once and read again on resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from igds.config.identity import digest
from igds.interventions.controls import Controls
from igds.interventions.examples import Example
from igds.interventions.groups import Across
from igds.interventions.outputs import Generation
from igds.interventions.rules import Position
from igds.interventions.work import (
    control_shards,
    example_shards,
    generate_shards,
    group_shards,
    neutral_shard,
    promoted_shard,
)
from igds.runs.stage import Stage

FOLDER = "shards"
"""Where shards are kept: scratch of their stage, whose tables hold what they held."""

ShardFiles = Callable[
    [Sequence[Mapping[str, Any]], Sequence[str], str, Sequence[int]], Sequence[Path]
]
"""(shards, names, label, prompts of each) -> the file of each in the stage, run where missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Measurements of one intervene stage."""

    stage: Stage
    """Where shards are kept until the stage is done."""
    splits: Mapping[str, Sequence[Example]]
    """Split -> its examples."""
    shard_files: ShardFiles
    """How they are computed."""
    position: Position | None = None
    """Where the state is edited, if not where the run's own edit says."""

    def screen(self, features: Sequence[str]) -> pa.Table:
        """Return the gradient screen of features on S1."""
        shards = example_shards("screen", features, self.splits["S1"])
        return self._tables("screen", shards, "intervene: gradient screen on S1")

    def exact(self, split: str, features: Sequence[str], contrast: bool) -> pa.Table:
        """Return exact deltas of features on a split, with the contrast when asked."""
        shards = example_shards("exact", features, self.splits[split], contrast=contrast)
        return self._tables("exact", shards, f"intervene: exact deltas on {split}")

    def group(self, features: Sequence[str], across: Across) -> pa.Table:
        """Return exact deltas and contrasts of features edited together, on S3."""
        shards = group_shards(features, self.splits["S3"], across)
        return self._tables("group", shards, "intervene: the task features together on S3")

    def controls(self, feature: str, controls: Controls) -> tuple[np.ndarray, list[str]]:
        """Return deltas [prompts, controls] of a feature's controls on S3, and the row ids."""
        name = f"{FOLDER}/controls-{feature.replace('/', '-')}.safetensors"
        if not self.stage.has(name):
            doses = np.array([kind == "dose" for kind in controls.kinds])
            self.stage.write_tensors(name, {"vectors": controls.vectors, "doses": doses})
        shards = control_shards(feature, str(self.stage.path / name), self.splits["S3"])
        label = f"intervene: doses and controls of {feature} on S3"
        table = self._tables("controls", shards, label)
        return np.stack(table["delta"].to_numpy()), table["row_id"].to_pylist()

    def generate(self, features: Sequence[str], split: str, generation: Generation) -> pa.Table:
        """Return generated outputs under each feature at each position, and unedited ones."""
        shards = generate_shards(features, self.splits[split], generation)
        return self._tables("generate", shards, f"intervene: generating outputs on {split} rows")

    def pilot(self, examples: Sequence[Example], generation: Generation) -> pa.Table:
        """Return outputs of the model as it is."""
        shards = generate_shards([], examples, generation)
        return self._tables("generate", shards, "intervene: pilot of the unedited model")

    def neutral(self, features: Sequence[str]) -> dict[str, float]:
        """Return feature -> perplexity on neutral texts, edited over unedited; {} for none."""
        if not features:
            return {}
        label = "intervene: perplexity on neutral texts"
        table = self._tables("neutral", [neutral_shard(features)], label)
        return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def promoted(self, features: Sequence[str]) -> pa.Table:
        """Return the tokens that each feature's direction promotes."""
        return self._tables("promoted", [promoted_shard(features)], "intervene: promoted tokens")

    def _tables(
        self,
        step: Literal["screen", "exact", "group", "controls", "generate", "neutral", "promoted"],
        shards: Sequence[Mapping[str, Any]],
        label: str,
    ) -> pa.Table:
        """Return the shards' tables in order, computing those that are not on disk."""
        if self.position is not None:
            shards = [{**shard, "position": self.position} for shard in shards]
            label = f"{label}, {self.position}"
        # The name holds what is computed, so a shard is only ever read back for the same work.
        names = [f"{FOLDER}/{step}-{digest(shard)[:32]}.parquet" for shard in shards]
        # Neutral texts and promoted tokens are one shard without examples.
        weights = [len(shard.get("examples", "1")) for shard in shards]
        files = self.shard_files(shards, names, label, weights)
        return pa.concat_tables([pq.read_table(file) for file in files])
