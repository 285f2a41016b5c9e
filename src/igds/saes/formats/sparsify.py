"""EleutherAI sparsify: `cfg.json` and `sae.safetensors`, TopK."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from igds.errors import RequestError
from igds.saes.formats.base import Format, agreed, read_json, refuse_scale, setting
from igds.saes.stored import Encoder, StoredSAE
from igds.saes.weights import WeightFile

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"

_BLOCK = r"(?:\w+\.)*layers[._](\d+)"
_UNSUPPORTED = {
    "transcode": "it is a transcoder: it does not describe a block's output",
    "skip_connection": "a linear skip connection is not part of an SAE",
    "signed": "TopK by absolute value keeps negative activations",
}


def open_sparsify(folder: Path, layer: int | None, input_scale: float | None) -> StoredSAE:
    """Return the SAE of a folder as `layers.5`, whose name is the hook point.

    `num_latents` 0 or absent means `d_in` times `expansion_factor`.

    Raises:
        RequestError: a weight is missing, or a setting is not supported.
    """
    refuse_scale(folder, input_scale)
    config = read_json(folder / CONFIG)
    _check_supported(folder, config)
    found = _block(folder, layer)
    d_in = int(setting(folder / CONFIG, config, "d_in"))
    d_sae = int(config.get("num_latents") or d_in * config.get("expansion_factor", 32))
    file, k = WeightFile(folder / WEIGHTS), int(setting(folder / CONFIG, config, "k"))
    matrices = dict.fromkeys(("encoder.weight", "W_dec"), (d_sae, d_in))
    file.check({**matrices, "encoder.bias": (d_sae,), "b_dec": (d_in,)})
    return StoredSAE(
        path=folder,
        files=(folder / CONFIG, folder / WEIGHTS),
        layer=found,
        d_in=d_in,
        d_sae=d_sae,
        activation="topk",
        k=k,
        published_l0=float(k),
        apply_b_dec_to_input=True,
        hook_name=f"layers.{found}",
        b_dec=file.vector("b_dec"),
        encoder=lambda features: Encoder(
            file.matrix("encoder.weight", features, axis=0).T, file.vector("encoder.bias", features)
        ),
        decoder=lambda features: file.matrix("W_dec", features, axis=0),
    )


FORMAT = Format(name="sparsify", files=(CONFIG, WEIGHTS), open=open_sparsify)


def _check_supported(folder: Path, config: dict[str, Any]) -> None:
    """Raise RequestError for what would be read wrongly."""
    for name, why in _UNSUPPORTED.items():
        if config.get(name):
            raise RequestError(f"{folder}: {name} is not supported: {why}")
    if config.get("activation", "topk") != "topk":
        raise RequestError(
            f"{folder}: activation {config['activation']!r} is not supported; supported: topk"
        )


def _block(folder: Path, stated: int | None) -> int:
    """Return the block that the folder is named after, or that `saes.layer` states."""
    match = re.fullmatch(_BLOCK, folder.name)
    if match is not None:
        return agreed(folder, int(match[1]), stated)
    if stated is None or re.match(r"(?:\w+\.)*(?:layers[._]\d+[._]|embed_tokens)", folder.name):
        raise RequestError(
            f"{folder}: sparsify names the folder after its hook point, as layers.5 for the "
            "output of block 5; igds takes SAEs on the output of a decoder block"
        )
    return stated
