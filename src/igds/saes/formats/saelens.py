"""The SAELens folder: `cfg.json` and `sae_weights.safetensors`, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from igds.errors import RequestError
from igds.saes.formats.base import Format, block_of, l0_in_path, read_json, setting
from igds.saes.sae import AS_STORED, SAE, Activation
from igds.saes.stored import Encoder, StoredSAE
from igds.saes.weights import Features, WeightFile

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"

_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu",
    "gated": "jumprelu",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
}
_ARCHITECTURES = {"relu": "standard", "jumprelu": "jumprelu", "topk": "topk"}
_BY_ROW = "scales each input by its own norm, which no fixed weights can hold"
_NORMALIZATIONS = {
    "expected_average_only_in": "its weights are for inputs scaled to norm sqrt(d_in), and the "
    "folder does not say by what factor: set saes.input_scale to sqrt(d_in) / mean norm, or name "
    "it by release and id where the registry has the factor",
    "layer_norm": _BY_ROW,
    "constant_norm_rescale": _BY_ROW,
    "covariance_whitening": "fold the whitening into the weights with sae_lens first",
}


def read_config(folder: Path) -> dict[str, Any]:
    """Return the SAE's settings in the flat form of today, whichever version wrote them.

    Raises:
        RequestError: the file is damaged, or its settings are not supported.
    """
    raw = read_json(folder / CONFIG)
    config = {**raw, **raw.get("metadata", {})}
    config.setdefault("hook_name", config.get("hook_point", ""))
    config.setdefault("architecture", "standard")
    # SAELens before 6.0 wrote a TopK SAE as a standard one with another activation function.
    function = config.get("activation_fn_str", config.get("activation_fn"))
    if function == "topk":
        config["architecture"] = "topk"
        config["k"] = config["activation_fn_kwargs"]["k"]
    elif function not in (None, "relu"):
        raise RequestError(f"{folder}: activation function {function!r} is not supported")
    if config["architecture"] not in _ACTIVATIONS:
        raise RequestError(
            f"{folder}: architecture {config['architecture']!r} is not supported; supported: "
            + ", ".join(_ACTIVATIONS)
        )
    if (config.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights"):
        raise RequestError(
            f"{folder}: it was trained on a model with centred writing weights, whose residuals "
            "are not those of the transformers model"
        )
    if config.get("finetuning_scaling_factor"):
        raise RequestError(f"{folder}: a finetuning_scaling_factor is not supported")
    return config


def open_saelens(folder: Path, layer: int | None, input_scale: float | None) -> StoredSAE:
    """Return the SAE that `SAE.save_model` of sae_lens wrote, or `write_saelens`.

    Raises:
        RequestError: a weight is missing or of another shape, or a setting is not supported.
    """
    config = read_config(folder)
    scale = _input_scale(folder, config, input_scale)
    d_in, d_sae = (int(setting(folder / CONFIG, config, name)) for name in ("d_in", "d_sae"))
    activation = _ACTIVATIONS[config["architecture"]]
    file = WeightFile(folder / WEIGHTS)
    file.check(_shapes(config["architecture"], d_in, d_sae))
    weights = _Weights(
        file=file,
        architecture=config["architecture"],
        scale=scale,
        by_norm=bool(config.get("rescale_acts_by_decoder_norm")),
    )
    return StoredSAE(
        path=folder,
        files=(folder / CONFIG, folder / WEIGHTS),
        layer=block_of(folder, str(config["hook_name"]), layer),
        d_in=d_in,
        d_sae=d_sae,
        activation=activation,
        k=int(config["k"]) if activation == "topk" else None,
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        hook_name=config["hook_name"],
        neuronpedia_id=config.get("neuronpedia_id"),
        published_l0=_published_l0(folder, config),
        prepend_bos=config.get("prepend_bos"),
        unit=_unit(config, scale, weights.by_norm),
        b_dec=file.vector("b_dec") / scale,
        encoder=weights.encoder,
        decoder=weights.decoder,
    )


FORMAT = Format(name="SAELens", files=(CONFIG, WEIGHTS), open=open_saelens)


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
            "unit": sae.unit,
            **(metadata or {}),
        },
    }
    if sae.k is not None:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(matrices | kept, folder / WEIGHTS)


def needs_input_scale(folder: Path) -> bool:
    """Return whether the weights are for an input scaled by a factor that the folder lacks."""
    return _normalization(read_config(folder)) == "expected_average_only_in"


def _normalization(config: Mapping[str, Any]) -> str:
    """Return `normalize_activations` as it is spelled today."""
    kind = config.get("normalize_activations")
    return str({None: "none", False: "none", True: "expected_average_only_in"}.get(kind, kind))


def _input_scale(folder: Path, config: Mapping[str, Any], given: float | None) -> float:
    """Return the factor of the encoder's input.

    Raises:
        RequestError: the input is scaled otherwise than by a known factor, or a factor is given
            for an SAE that has none.
    """
    kind = _normalization(config)
    if kind == "expected_average_only_in" and given is not None:
        return given
    if kind != "none":
        why = _NORMALIZATIONS.get(kind, "igds does not know it")
        raise RequestError(f"{folder}: normalize_activations {kind!r}: {why}")
    if given is not None:
        raise RequestError(f"{folder}: saes.input_scale, but normalize_activations is 'none'")
    return 1.0


def _published_l0(folder: Path, config: Mapping[str, Any]) -> float | None:
    """Return the l0 that the settings state or that a name gives, as `average_l0_71`."""
    if config["architecture"] == "topk":
        return float(config["k"])
    stated = (config.get(key) for key in ("l0", "average_l0", "expected_l0", "target_l0"))
    number = next((value for value in stated if isinstance(value, int | float)), None)
    if number is not None:
        return float(number)
    return l0_in_path(Path(str(config.get("sae_id", "")))) or l0_in_path(folder)


def _unit(config: Mapping[str, Any], scale: float, by_norm: bool) -> str:
    words = [config.get("unit", AS_STORED)]
    if by_norm:
        words = ["times decoder norm, as sae_lens with rescale_acts_by_decoder_norm"]
    if scale != 1:
        words.append(f"on the input times {scale:.6g}, as sae_lens")
    return "; ".join(words)


def _shapes(architecture: str, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight that must be there."""
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
    }
    vectors = ("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",)
    if architecture == "jumprelu":
        vectors += ("threshold",)
    if _ACTIVATIONS[architecture] == "batchtopk":
        shapes["topk_threshold"] = ()
    return shapes | dict.fromkeys(vectors, (d_sae,))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """The weights of one folder, with the input's scale and the decoder's norms folded in."""

    file: WeightFile
    architecture: str
    scale: float
    by_norm: bool
    """Whether features compete, and are given, times their decoder norm."""

    def encoder(self, features: Features) -> Encoder:
        rows = self.file.matrix("W_enc", features, axis=1).mul_(self.scale)
        if self.architecture == "gated":
            names = ("r_mag", "b_mag", "b_gate")
            return gated_encoder(rows, *(self.file.vector(name, features) for name in names))
        b_enc, threshold = self.file.vector("b_enc", features), None
        if self.architecture == "jumprelu":
            threshold = self.file.vector("threshold", features)
        elif _ACTIVATIONS[self.architecture] == "batchtopk":
            threshold = self.file.vector("topk_threshold").expand(len(b_enc)).clone()
        if self.by_norm:
            norms = _norms(self._decoder(features))
            rows, b_enc = rows.mul_(norms[:, None]), b_enc * norms
        return Encoder(rows.T, b_enc, threshold)

    def decoder(self, features: Features) -> Float[Tensor, "features d_in"]:
        rows = self._decoder(features)
        return rows.div_(_norms(rows)[:, None]) if self.by_norm else rows

    def _decoder(self, features: Features) -> Float[Tensor, "features d_in"]:
        return self.file.matrix("W_dec", features, axis=0).div_(self.scale)


def _norms(rows: Float[Tensor, "features d_in"]) -> Float[Tensor, " features"]:
    return rows.norm(dim=1).clamp(min=1e-8)


def gated_encoder(
    rows: Float[Tensor, "features d_in"],
    r_mag: Float[Tensor, " features"],
    b_mag: Float[Tensor, " features"],
    b_gate: Float[Tensor, " features"],
) -> Encoder:
    """Return a gated encoder, exactly, as a JumpReLU one.

    With u = x W_enc a gated SAE gives relu(u e^r + b_mag) where u + b_gate > 0. Let
    pre = u e^r + b_mag: the gate is open where pre > b_mag - b_gate e^r.
    """
    gain = r_mag.exp()
    return Encoder(rows.mul_(gain[:, None]).T, b_mag, b_mag - b_gate * gain)
