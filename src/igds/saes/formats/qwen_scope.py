"""Qwen-Scope: one `layer{n}.sae.pt` a block, TopK; k stands in the release's name."""

from __future__ import annotations

import re
from pathlib import Path

from igds.errors import RequestError
from igds.saes.formats.base import Format, agreed, refuse_scale
from igds.saes.stored import Encoder, StoredSAE
from igds.saes.weights import WeightFile

_FILE = r"layer(\d+)\.sae\.pt"


def open_qwen_scope(path: Path, layer: int | None, input_scale: float | None) -> StoredSAE:
    """Return the SAE of one file; only tensors are unpickled.

    Raises:
        RequestError: a weight is missing, or no folder above the file is named after the release.
    """
    refuse_scale(path, input_scale)
    match = re.fullmatch(_FILE, path.name)
    assert match is not None, "a format opens only what it matches"
    found = agreed(path, int(match[1]), layer)
    released = re.findall(r"SAE-Res-[^/]*-L0_(\d+)", path.as_posix())
    if not released:
        raise RequestError(
            f"{path}: k is not in the file: keep it in a folder named after its release, as "
            "SAE-Res-Qwen3-8B-Base-W64K-L0_50, which gives k = 50"
        )
    file, k = WeightFile(path), int(released[-1])
    d_sae, d_in = file.shapes.get("W_enc", (0, 0))
    biases = {"b_enc": (d_sae,), "b_dec": (d_in,)}
    file.check({"W_enc": (d_sae, d_in), "W_dec": (d_in, d_sae), **biases})
    return StoredSAE(
        path=path,
        files=(path,),
        layer=found,
        d_in=d_in,
        d_sae=d_sae,
        activation="topk",
        k=k,
        published_l0=float(k),
        apply_b_dec_to_input=False,
        hook_name=f"model.layers.{found}",
        b_dec=file.vector("b_dec"),
        encoder=lambda features: Encoder(
            file.matrix("W_enc", features, axis=0).T, file.vector("b_enc", features)
        ),
        decoder=lambda features: file.matrix("W_dec", features, axis=1),
    )


FORMAT = Format(name="Qwen-Scope", files=(), file_pattern=_FILE, open=open_qwen_scope)
