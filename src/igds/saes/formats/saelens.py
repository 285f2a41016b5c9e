"""The SAELens folder: `cfg.json` and `sae_weights.safetensors`, read and written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from igds.errors import RequestError
from igds.saes.sae import SAE, Activation

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"

_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "batchtopk": "batchtopk",
}
_ARCHITECTURES = {"relu": "standard", "jumprelu": "jumprelu", "topk": "topk"}
_L0_KEYS = ("l0", "average_l0", "expected_l0", "target_l0")
_L0_NAME = re.compile(r"average_l0_(\d+)")
_RESID_POST = re.compile(r"blocks\.(\d+)\.hook_resid_post|(?:model\.)*layers\.(\d+)")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the SAE's settings in the flat form of today, whichever version wrote them.

    Raises:
        RequestError: the folder or a file is missing, or the settings are not supported.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise RequestError(f"{folder} has no {name}: igds reads SAELens folders")
    try:
        raw = json.loads((folder / CONFIG).read_bytes())
    except json.JSONDecodeError as error:
        raise RequestError(f"{folder / CONFIG} is not JSON: {error}") from error
    config = {**raw, **raw.get("metadata", {})}
    config.setdefault("hook_name", config.get("hook_point", ""))
    config.setdefault("architecture", "standard")
    # SAELens before 6.0 wrote a TopK SAE as a standard one with another activation function.
    if config.get("activation_fn_str", config.get("activation_fn")) == "topk":
        config["architecture"] = "topk"
        config["k"] = config["activation_fn_kwargs"]["k"]
    _check_supported(folder, config)
    return config


def hook_layer(folder: Path, config: Mapping[str, Any]) -> int:
    """Return the decoder block whose output the SAE reads, from its hook name.

    Raises:
        RequestError: it reads another place than a block's output, or names none.
    """
    match = _RESID_POST.fullmatch(str(config["hook_name"]))
    if match is None:
        raise RequestError(
            f"{folder} reads {config['hook_name']!r}; igds takes SAEs on the output of a decoder "
            "block, as blocks.14.hook_resid_post"
        )
    return int(match[1] or match[2])


def revision(folder: Path) -> str:
    """Return the sha256 of the SAE's settings and weights."""
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_saelens(folder: Path, layer: int | None = None, release: str | None = None) -> SAE:
    """Return the SAE of a SAELens folder in canonical form, weights as float32.

    Args:
        folder: what `SAE.save_model` of sae_lens wrote, or `write_saelens`.
        layer: the block it must read; its own hook name decides when absent.
        release: name to quote; the folder's name when absent.

    Raises:
        RequestError: a file or weight is missing, not supported, or not finite.
    """
    config = read_config(folder)
    found = hook_layer(folder, config)
    if layer is not None and layer != found:
        raise RequestError(f"{folder} reads block {found}, not {layer}: mend saes.layer")
    weights = _weights(folder, config)
    activation = _ACTIVATIONS[config["architecture"]]
    return SAE(
        layer=found,
        activation=activation,
        **weights,
        k=int(config["k"]) if activation == "topk" else None,
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        hook_name=config["hook_name"],
        neuronpedia_id=config.get("neuronpedia_id"),
        published_l0=_published_l0(folder, config),
        prepend_bos=config.get("prepend_bos"),
        release=release or folder.name,
        revision=revision(folder),
    )


def write_saelens(
    sae: SAE,
    folder: Path,
    *,
    weights: torch.dtype = torch.float32,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the SAE as a folder that sae_lens and igds read.

    The matrices are stored as `weights`; biases and thresholds stay float32, and `cfg.json` asks
    for float32. A BatchTopK SAE is a JumpReLU one with its learned threshold, as in sae_lens.

    Raises:
        ValueError: a weight is too large for the dtype.
    """
    matrices = {name: getattr(sae, name).to(weights).contiguous() for name in ("W_enc", "W_dec")}
    if not all(matrix.isfinite().all() for matrix in matrices.values()):
        raise ValueError(f"{sae.release}: a weight is too large for {weights}")
    vectors = {name: getattr(sae, name) for name in ("b_enc", "b_dec", "threshold")}
    kept = {name: value.float() for name, value in vectors.items() if value is not None}
    config = {
        "architecture": _ARCHITECTURES.get(sae.activation, "jumprelu"),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "hook_name": sae.hook_name,
            "neuronpedia_id": sae.neuronpedia_id,
            **(metadata or {}),
        },
    }
    if sae.k is not None:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(matrices | kept, folder / WEIGHTS)


def _published_l0(folder: Path, config: Mapping[str, Any]) -> float | None:
    """Return the l0 that the settings state or that a name gives, as `average_l0_71`."""
    if config["architecture"] == "topk":
        return float(config["k"])
    stated = (config.get(key) for key in _L0_KEYS)
    number = next((value for value in stated if isinstance(value, int | float)), None)
    if number is not None:
        return float(number)
    names = [config.get("sae_id"), config.get("release"), *folder.resolve().parts[::-1]]
    found = (_L0_NAME.search(str(name)) for name in names)
    return next((float(match[1]) for match in found if match), None)


def _check_supported(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise RequestError for what would be read wrongly."""
    if config["architecture"] not in _ACTIVATIONS:
        raise RequestError(
            f"{folder}: architecture {config['architecture']!r} is not supported; supported: "
            + ", ".join(_ACTIVATIONS)
        )
    if config.get("normalize_activations") not in (None, False, "none"):
        raise RequestError(
            f"{folder}: normalize_activations {config['normalize_activations']!r} is not "
            "supported: fold the scaling into the weights with sae_lens first"
        )
    if config.get("finetuning_scaling_factor"):
        raise RequestError(f"{folder}: a finetuning_scaling_factor is not supported")


def _weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights in float32, decoder-norm rescaling folded in.

    Raises:
        RequestError: the file is damaged, a weight is missing, of another shape, or not finite.
    """
    try:
        stored = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise RequestError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    d_in, d_sae = int(config["d_in"]), int(config["d_sae"])
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}
    if config["architecture"] == "jumprelu":
        shapes["threshold"] = (d_sae,)
    if config["architecture"] == "batchtopk":
        shapes["topk_threshold"] = ()
    weights = {}
    for name, shape in shapes.items():
        if name not in stored:
            raise RequestError(f"{folder / WEIGHTS} has no {name}; it has {sorted(stored)}")
        if tuple(stored[name].shape) != shape:
            got = tuple(stored[name].shape)
            raise RequestError(f"{folder / WEIGHTS}: {name} is {got}, {CONFIG} says {shape}")
        if not stored[name].isfinite().all():
            raise RequestError(f"{folder / WEIGHTS}: {name} has values that are not finite")
        weights[name] = stored[name].float()
    if "topk_threshold" in weights:
        weights["threshold"] = weights.pop("topk_threshold").expand(d_sae).clone()
    if config.get("rescale_acts_by_decoder_norm"):
        norms = weights["W_dec"].norm(dim=1).clamp(min=1e-8)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms, weights["b_enc"] * norms
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
    # Scoring reads single columns of the encoder: they are made contiguous.
    weights["W_enc"] = weights["W_enc"].T.contiguous().T
    return weights
