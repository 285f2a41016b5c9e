"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`, JumpReLU, scaled input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from igds.errors import RequestError
from igds.saes.formats.base import Format, block_of, read_json, refuse_scale, setting
from igds.saes.stored import Encoder, StoredSAE
from igds.saes.weights import Features, WeightFile

CONFIG = "hyperparams.json"
WEIGHTS = "checkpoints/final.safetensors"


def open_llama_scope(folder: Path, layer: int | None, input_scale: float | None) -> StoredSAE:
    """Return the SAE of a folder as `Llama3_1-8B-Base-L15R-8x`, input scaling folded in.

    With s = sqrt(d_model) / mean norm the encoder reads s x. OpenMOSS states the threshold for its
    own activations, which are 1 / s of these, and gates by activation times decoder norm where
    `sparsity_include_decoder_norm` is set.

    Raises:
        RequestError: a weight is missing, or a setting is not supported.
    """
    refuse_scale(folder, input_scale)
    config = read_json(folder / CONFIG)
    _check_supported(folder, config)
    found = block_of(folder, setting(folder / CONFIG, config, "hook_point_in"), layer)
    d_in, d_sae = (int(setting(folder / CONFIG, config, name)) for name in ("d_model", "d_sae"))
    scale = _scale(folder, config, d_in)
    file = WeightFile(folder / WEIGHTS)
    encoder_shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,)}
    file.check({**encoder_shapes, "decoder.weight": (d_in, d_sae), "decoder.bias": (d_in,)})
    cut = float(config["jump_relu_threshold"]) * scale
    gate_by_norm = bool(config.get("sparsity_include_decoder_norm", True))

    def encoder(features: Features) -> Encoder:
        b_enc = file.vector("encoder.bias", features)
        threshold = b_enc.new_full(b_enc.shape, cut)
        if gate_by_norm:
            threshold /= file.matrix("decoder.weight", features, axis=1).norm(dim=1)
        rows = file.matrix("encoder.weight", features, axis=0).mul_(scale)
        return Encoder(rows.T, b_enc, threshold)

    return StoredSAE(
        path=folder,
        files=(folder / CONFIG, folder / WEIGHTS),
        layer=found,
        d_in=d_in,
        d_sae=d_sae,
        activation="jumprelu",
        apply_b_dec_to_input=bool(config.get("apply_decoder_bias_to_pre_encoder", True)),
        hook_name=config["hook_point_in"],
        unit=f"on the input times {scale:.6g}, as sae_lens; OpenMOSS's own is 1/{scale:.6g} of it",
        b_dec=file.vector("decoder.bias") / scale,
        encoder=encoder,
        decoder=lambda features: file.matrix("decoder.weight", features, axis=1).div_(scale),
    )


FORMAT = Format(name="Llama Scope", files=(CONFIG, WEIGHTS), open=open_llama_scope)


def _check_supported(folder: Path, config: dict[str, Any]) -> None:
    """Raise RequestError for what would be read wrongly."""
    if config.get("hook_point_out", config.get("hook_point_in")) != config.get("hook_point_in"):
        raise RequestError(f"{folder} is a transcoder: it does not describe a block's output")
    if config.get("act_fn") not in ("jumprelu", "topk") or not config.get("jump_relu_threshold"):
        raise RequestError(
            f"{folder}: activation function {config.get('act_fn')!r} with threshold "
            f"{config.get('jump_relu_threshold')} is not supported; supported: jumprelu"
        )
    if config.get("use_glu_encoder"):
        raise RequestError(f"{folder}: use_glu_encoder is not supported")
    if config.get("use_decoder_bias", True) is not True:
        raise RequestError(f"{folder}: use_decoder_bias: false is not supported")


def _scale(folder: Path, config: dict[str, Any], d_in: int) -> float:
    """Return the factor of the encoder's input."""
    kind = setting(folder / CONFIG, config, "norm_activation")
    if kind != "dataset-wise":
        raise RequestError(
            f"{folder}: norm_activation {kind!r} is not supported; supported: dataset-wise"
        )
    return (
        math.sqrt(d_in) / setting(folder / CONFIG, config, "dataset_average_activation_norm")["in"]
    )
