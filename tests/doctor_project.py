"""The tiny project with SAEs that do fit: the principal directions of a block's own residuals."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tests.helpers import tiny_model, tiny_tokenizer
from tests.tiny_project import build_project, sums

from igds.data.tokens import encode_prompts
from igds.reading.residuals import residuals_at_tokens
from igds.saes.formats.saelens import write_saelens
from igds.saes.sae import SAE

RANK = 20
PARAPHRASES = ["{question}\nTotal:", "Add up: {question}\nIt is:", "{question}\nThat makes:"]


def build(folder: Path, blocks: dict[int, int], scale: float = 1.0) -> Path:
    """Write the tiny project with SAEs: block each is configured for -> block it was made for."""
    build_project(folder)
    residuals = block_residuals()
    for configured, made_for in blocks.items():
        sae = principal_sae(residuals[made_for], configured, scale)
        write_saelens(sae, folder / "saes" / f"L{configured}", metadata={"prepend_bos": True})
    text = (folder / "igds.yaml").read_text()
    place = "prompts: {"
    assert place in text
    text = text.replace(place, f"{place}paraphrases: {json.dumps(PARAPHRASES)}, ")
    (folder / "igds.yaml").write_text(text)
    return folder


def block_residuals() -> dict[int, torch.Tensor]:
    """Return block -> residuals of all tokens but BOS of 60 prompts that the project lacks."""
    prompts = [f"{row['question']}\nSum:" for row in sums(60, 9)]
    ids = encode_prompts(tiny_tokenizer(), prompts)
    wanted = torch.cat([torch.arange(len(row)) > 0 for row in ids])
    return residuals_at_tokens(tiny_model(), ids, range(4), wanted, 512)


def principal_sae(residuals: torch.Tensor, layer: int, scale: float) -> SAE:
    """Return the SAE that rebuilds residuals times `scale` from their first RANK directions.

    Each direction is two features, one a sign, that are off near 0 as JumpReLU features are. The
    mean is in `b_dec` alone, across the directions: at another scale it is wrong.
    """
    mean = residuals.mean(dim=0)
    across = torch.eye(32) - torch.outer(mean, mean) / mean.square().sum()
    centred = (residuals - mean) @ across
    basis = torch.linalg.svd(centred, full_matrices=False).Vh[:RANK]
    spread = (centred @ basis.T).std(dim=0) * scale
    directions = torch.cat([basis, -basis])
    return SAE(
        layer=layer,
        activation="jumprelu",
        W_enc=directions.T.contiguous(),
        W_dec=directions,
        b_enc=torch.zeros(2 * RANK),
        b_dec=mean * scale,
        threshold=0.1 * torch.cat([spread, spread]),
        apply_b_dec_to_input=True,
        hook_name=f"blocks.{layer}.hook_resid_post",
        release="principal",
        revision="0",
    )
