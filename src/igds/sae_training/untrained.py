"""`igds saes untrained`: an untrained double of each SAE of a run, matched on its prior prompts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from igds.config.identity import digest
from igds.config.load import ConfigFile
from igds.errors import RequestError
from igds.models.load import describe, resolve_model
from igds.runs.stage import committed_identity
from igds.saes.formats.saelens import write_saelens
from igds.saes.load import SAESpec, locate_saes, read_sae
from igds.saes.sae import SAE
from igds.saes.untrained import STORED, activity, untrained_sae

MATCHED = (
    "frequency, and mean activation where active times decoder norm, at the read position of the "
    "prior prompts"
)
_LOUDER = 1.01
"""A feature over this many times as strong as its namesake counts as louder."""


def write_untrained(
    file: ConfigFile, recall: Path, output: Path, seed: int
) -> list[dict[str, Any]]:
    """Write the doubles of a configuration's SAEs, `<output>/L<layer>`; return a row a block.

    Each row has layer, prompts, features, active (features active on a prompt), frequency_gap (the
    largest difference of frequency to the namesake, 0-1) and louder (active features over 1 %
    stronger than it); these and where the SAE comes from are in its `cfg.json` too. The folder
    has its name only once all of it is written.

    Args:
        file: what `igds.load_config` returns.
        recall: folder of its committed recall.
        output: folder to make.
        seed: root of the directions.

    Raises:
        RequestError: the output is there already, or an SAE or the recall is not.
        ValueError: there are fewer than two prior prompts.
    """
    if output.exists():
        raise RequestError(f"{output} is there already: name another folder")
    made_from = digest(committed_identity(recall))
    model = resolve_model(file.config.model, file.config.runtime.device, file.base)
    shape = describe(model)
    specs = locate_saes(file.config.saes, file.base, shape.d_model, shape.n_blocks)
    part, rows = output.with_name(f"{output.name}.part"), []
    shutil.rmtree(part, ignore_errors=True)
    for layer, spec in specs.items():
        prior = load_file(recall / "residuals" / f"L{layer}.safetensors")["prior"]
        trained = read_sae(spec)
        double = untrained_sae(trained, prior, seed)
        rows.append({"layer": layer, **_measures(trained, double, prior)})
        metadata = {
            "model_name": model.id,
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "prepend_bos": trained.prepend_bos,
            "untrained": {**_origin(spec, trained, seed), "recall": made_from, **rows[-1]},
        }
        write_saelens(double, part / f"L{layer}", weights=STORED, metadata=metadata)
    part.rename(output)
    return rows


def _measures(trained: SAE, double: SAE, prior: torch.Tensor) -> dict[str, Any]:
    """Return how well a double matches."""
    theirs, own = activity(trained, prior), activity(double, prior)
    gap = float((own.count - theirs.count).abs().max()) / len(prior)
    louder = (own.strength > _LOUDER * theirs.strength) & (own.count > 0)
    return {
        "prompts": len(prior),
        "features": double.d_sae,
        "active": int((own.count > 0).sum()),
        "frequency_gap": gap,
        "louder": int(louder.sum()),
    }


def _origin(spec: SAESpec, trained: SAE, seed: int) -> dict[str, Any]:
    return {
        "double_of": spec.release,
        "double_of_sha256": trained.revision,
        "seed": seed,
        "matched": MATCHED,
    }
