"""Recall: residuals at t* of every set of prompts, then each SAE's feature frequencies (eq. 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.numpy import load_file

from igds.data.index import load_index
from igds.data.splits import SPLITS, confirmation_rows
from igds.errors import RequestError
from igds.models.load import describe
from igds.reading.statistics import PromptSets, feature_statistics, highest_frequency
from igds.reading.work import RESIDUAL_COLUMN, as_matrix
from igds.runs.stage import Stage
from igds.saes.quality import sae_quality
from igds.stages.context import Context

VERSION = 1
SETS = {
    "prior": "prior",
    "validation": "validation",
    "control_task_template": "control",
    "control_other_template": "control_other",
    "task_other_template": "task_other",
}
"""Name of a set of residuals -> folder of the index it comes from."""
OF_VALIDATION = ("validation", "task_other_template")
"""Sets made of the validation rows where there are any. Row ids are unique within a set only: in
the others rows that equal a sealed one are found by their content."""
MIN_PRIOR = 200
"""Prior rows under which a frequency near the cut is mostly chance."""


def run(context: Context) -> None:
    """Write `recall/`: residuals of each block, `features.parquet`, `quality.json`."""
    settings = context.config.recall
    assert settings is not None, "the pipeline runs only stages that have a section"
    identity = context.stage_identity(
        VERSION,
        recall=settings,
        # Rows of S3 are sealed, so another split is another recall.
        intervene={SPLITS[split]: size for split, size in context.split_sizes.items()},
        seed=context.config.seed,
        index=context.input_identity("index"),
        model=context.model_identity,
        saes=context.sae_identity,
        releases=[sae.release for sae in context.config.saes],
    )
    stage = context.open_stage("recall", identity, scratch=["shards"])
    if stage.done:
        return
    _read_residuals(context, stage)
    context.executor.close()  # frees the model before SAEs are loaded
    tables, quality, n_prior = [], {}, 0
    for layer in context.saes:
        sae = context.load_sae(layer)
        arrays = load_file(stage.path / "residuals" / f"L{layer}.safetensors")
        sets = {name: torch.from_numpy(array) for name, array in arrays.items()}
        n_prior = len(sets["prior"])
        tables.append(
            feature_statistics(
                sae,
                PromptSets(**sets),
                settings.min_frequency,
                context.config.seed if settings.candidates == "random" else None,
            )
        )
        quality[f"L{layer}"] = {
            "release": sae.release,
            "revision": sae.revision,
            "unit": sae.unit,
            "neuronpedia_id": sae.neuronpedia_id,
            **sae_quality(sae, sets["prior"]),
        }
    features = pa.concat_tables(tables)
    if not pc.any(features["recalled"]).as_py():
        best = highest_frequency(features)
        raise RequestError(
            f"no feature is active on {settings.min_frequency:.0%} of the prior prompts: the "
            f"highest frequency is {best['frequency']:.3f}, of {best['feature']}; lower "
            "recall.min_frequency (and say --overwrite) or add SAEs of other blocks"
        )
    stage.write_table("features.parquet", features)
    stage.write_json("quality.json", quality)
    stage.commit()
    for line in _said(features, quality, n_prior, settings.candidates):
        context.progress.note(line)


def _said(
    features: pa.Table, quality: Mapping[str, Mapping[str, Any]], n_prior: int, candidates: str
) -> Iterator[str]:
    """Yield the result as one line, and a line for each reason to doubt it."""
    chosen = features.filter(features["recalled"])
    recalled = Counter(chosen["layer"].to_pylist())
    counts = ", ".join(f"{name}: {recalled[int(name[1:])]}" for name in quality)
    done = "drawn at random, as many as recall finds" if candidates == "random" else "recalled"
    yield f"recall: {recalled.total()} of {len(features)} features {done} ({counts})"
    silent = pc.sum(pc.equal(chosen["frequency"], 0)).as_py()
    if silent:
        yield f"note: {silent} of them are active on no prior prompt"
    if n_prior < MIN_PRIOR:
        yield f"note: {n_prior} prior rows; frequencies want at least {MIN_PRIOR}"
    for name, facts in quality.items():
        if (facts["explained_variance"] or 0) < 0:
            yield (
                f"note: the SAE of {name} explains {facts['explained_variance']:.2f} of the "
                f"variance of {n_prior} prior prompts at the read position, less than their mean "
                "does: does it belong to this model?"
            )


def _read_residuals(context: Context, stage: Stage) -> None:
    """Write one safetensors file a block, each set of prompts a tensor [prompts, d_model]."""
    shards = context.run_sets(
        "igds.reading.work:ResidualWork",
        {"layers": list(context.saes)},
        stage,
        SETS,
        "recall: reading prompts",
    )
    index = context.run.path / "index"
    rows = confirmation_rows(index / "validation", context.config.seed, context.split_sizes)
    sealed = {name: _sealed(rows, index, name) for name in SETS if shards[name]}
    d_model = describe(context.model).d_model
    for layer in context.saes:
        column = RESIDUAL_COLUMN.format(layer=layer)
        sets = {
            name: _matrix(shards[name], column, sealed[name])
            if shards[name]
            else np.empty((0, d_model), dtype=np.float32)
            for name in SETS
        }
        stage.write_tensors(f"residuals/L{layer}.safetensors", sets)


def _sealed(rows: pa.Table, index: Path, name: str) -> pa.Array:
    """Return the ids of a set's rows that are, or equal, the given rows of the split S3."""
    if name not in OF_VALIDATION:
        wanted = rows["content_hash"].combine_chunks()
        rows = load_index(index / SETS[name], ["row_id", "content_hash"])
        rows = rows.filter(pc.is_in(rows["content_hash"], value_set=wanted))
    return rows["row_id"].combine_chunks()


def _matrix(shards: Sequence[Path], column: str, sealed: pa.Array) -> np.ndarray:
    """Return one set's residuals at one block, [prompts, d_model], without the sealed rows."""
    rows = pa.concat_tables([pq.read_table(shard, columns=["row_id", column]) for shard in shards])
    rows = rows.filter(pc.invert(pc.is_in(rows["row_id"], value_set=sealed)))
    return as_matrix(rows[column])
