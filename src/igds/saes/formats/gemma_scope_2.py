"""Gemma Scope 2: a folder with `params.safetensors` and mostly `config.json`, JumpReLU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from igds.errors import RequestError
from igds.saes.formats.base import Format, block_in_path, block_of, read_json, refuse_scale
from igds.saes.stored import Encoder, StoredSAE
from igds.saes.weights import WeightFile

CONFIG = "config.json"
WEIGHTS = "params.safetensors"

_BLOCK_OUTPUT = r"resid_post(?:_all)?/layer_(\d+)_"
_ANOTHER_PLACE = r"(?:transcoder|clt|attn_out|mlp_out)\w*/"


def open_gemma_scope_2(folder: Path, layer: int | None, input_scale: float | None) -> StoredSAE:
    """Return the SAE of a folder as `resid_post/layer_12_width_16k_l0_small`.

    `config.json` names the hook point; where a release left it out, the folder's name does.

    Raises:
        RequestError: a weight is missing, or it does not describe a block's output.
    """
    refuse_scale(folder, input_scale)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    hook_name, found = _place(folder, config, layer)
    l0 = None if config is None else config.get("l0")
    file = WeightFile(folder / WEIGHTS)
    d_in, d_sae = file.shapes.get("w_enc", (0, 0))
    vectors = dict.fromkeys(("b_enc", "threshold"), (d_sae,))
    file.check({"w_enc": (d_in, d_sae), "w_dec": (d_sae, d_in), "b_dec": (d_in,), **vectors})
    return StoredSAE(
        path=folder,
        files=tuple(path for path in (folder / CONFIG, folder / WEIGHTS) if path.is_file()),
        layer=found,
        d_in=d_in,
        d_sae=d_sae,
        activation="jumprelu",
        apply_b_dec_to_input=False,
        hook_name=hook_name,
        published_l0=None if l0 is None else float(l0),
        b_dec=file.vector("b_dec"),
        encoder=lambda features: Encoder(
            file.matrix("w_enc", features, axis=1).T,
            file.vector("b_enc", features),
            file.vector("threshold", features),
        ),
        decoder=lambda features: file.matrix("w_dec", features, axis=0),
    )


FORMAT = Format(name="Gemma Scope 2", files=(WEIGHTS,), optional=(CONFIG,), open=open_gemma_scope_2)


def _place(folder: Path, config: dict[str, Any] | None, layer: int | None) -> tuple[str, int]:
    """Return the hook point and its block."""
    if config is None:
        if re.search(_ANOTHER_PLACE, folder.as_posix()):
            raise RequestError(f"{folder}: this Gemma Scope 2 SAE does not read a block's output")
        found = block_in_path(folder, _BLOCK_OUTPUT, layer)
        return f"model.layers.{found}.output", found
    if config.get("architecture") != "jump_relu":
        raise RequestError(
            f"{folder}: architecture {config.get('architecture')!r} is not supported; supported: "
            "jump_relu"
        )
    if config.get("hf_hook_point_out") not in (None, config.get("hf_hook_point_in")):
        raise RequestError(f"{folder} is a transcoder: it does not describe a block's output")
    hook_name = str(config.get("hf_hook_point_in"))
    return hook_name, block_of(folder, hook_name, layer)
