"""Gemma Scope 1: a folder with `params.npz`, JumpReLU, no settings file."""

from __future__ import annotations

import re
from pathlib import Path

from igds.errors import RequestError
from igds.saes.formats.base import Format, block_in_path, l0_in_path, refuse_scale
from igds.saes.stored import Encoder, StoredSAE
from igds.saes.weights import WeightFile, convert_npz

WEIGHTS = "params.npz"
_BLOCK_OUTPUT = r"gemma-scope-\w+-\w+-res/(?:.*/)?layer_(\d+)(?:/|$)"
_ANOTHER_PLACE = r"gemma-scope-\w+-\w+-(?:mlp|att|transcoders)/|/embedding/"


def open_gemma_scope(folder: Path, layer: int | None, input_scale: float | None) -> StoredSAE:
    """Return the SAE of a folder as `layer_14/width_16k/average_l0_84`.

    The block is that of the folder's path in the release; without it `saes.layer` must state it.
    The arrays are converted once to safetensors in the cache, since .npz cannot be mapped.

    Raises:
        RequestError: the file is damaged, or does not describe a block's output.
    """
    refuse_scale(folder, input_scale)
    if re.search(_ANOTHER_PLACE, folder.as_posix()):
        raise RequestError(f"{folder}: this Gemma Scope SAE does not read a block's output")
    found = block_in_path(folder, _BLOCK_OUTPUT, layer)
    file = WeightFile(convert_npz(folder / WEIGHTS))
    d_in, d_sae = file.shapes.get("W_enc", (0, 0))
    vectors = dict.fromkeys(("b_enc", "threshold"), (d_sae,))
    file.check({"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,), **vectors})
    return StoredSAE(
        path=folder,
        files=(folder / WEIGHTS,),
        layer=found,
        d_in=d_in,
        d_sae=d_sae,
        activation="jumprelu",
        apply_b_dec_to_input=False,
        hook_name=f"blocks.{found}.hook_resid_post",
        published_l0=l0_in_path(folder),
        b_dec=file.vector("b_dec"),
        encoder=lambda features: Encoder(
            file.matrix("W_enc", features, axis=1).T,
            file.vector("b_enc", features),
            file.vector("threshold", features),
        ),
        decoder=lambda features: file.matrix("W_dec", features, axis=0),
    )


FORMAT = Format(name="Gemma Scope", files=(WEIGHTS,), open=open_gemma_scope)
