"""Small SAEs in the files of each release format, with what the published forward makes of them.

The layouts and forwards are those of the pages named in each function.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

D_IN, D_SAE, K = 12, 48, 5
X = 3 * torch.randn(64, D_IN, generator=torch.Generator().manual_seed(1))
MEAN_NORM = 1.5
"""Mean norm of the input that the Llama Scope SAE was trained on."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One SAE on disk, and what it should give on `X`."""

    path: Path
    acts: Tensor
    rebuilt: Tensor


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Return random weights in the canonical orientation; decoder rows of all lengths."""
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator}
    return {
        "W_enc": torch.randn(D_IN, D_SAE, **draw),
        "W_dec": torch.randn(D_SAE, D_IN, **draw) * (0.5 + torch.rand(D_SAE, 1, **draw)),
        "b_enc": torch.randn(D_SAE, **draw),
        "b_dec": torch.randn(D_IN, **draw),
        "threshold": 3 * torch.rand(D_SAE, **draw),
    }


def top(values: Tensor, k: int = K) -> Tensor:
    """Return the k largest of each row, the others 0."""
    found = values.topk(k, dim=1)
    return torch.zeros_like(values).scatter(1, found.indices, found.values)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def gemma_scope(root: Path) -> Release:
    """Return a Gemma Scope SAE: huggingface.co/google/gemma-scope-2b-pt-res, `params.npz`.

    The forward is that of the tutorial linked from that page: JumpReLU on x @ W_enc + b_enc.
    """
    w = weights()
    path = root / "google" / "gemma-scope-2b-pt-res" / "layer_2" / "width_16k" / "average_l0_71"
    path.mkdir(parents=True)
    np.savez(path / "params.npz", **{name: value.numpy() for name, value in w.items()})
    pre = X @ w["W_enc"] + w["b_enc"]
    acts = pre.relu() * (pre > w["threshold"])
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def gemma_scope_2(root: Path) -> Release:
    """Return a Gemma Scope 2 SAE: huggingface.co/google/gemma-scope-2-270m-it.

    `params.safetensors` and a `config.json`; the forward is that of Gemma Scope.
    """
    w = weights()
    path = root / "resid_post" / "layer_2_width_16k_l0_small"
    hook = {"hf_hook_point_in": "model.layers.2.output", "hf_hook_point_out": None}
    write_json(path / "config.json", {"architecture": "jump_relu", "l0": 20, **hook})
    names = {name: name.lower() if name[0] == "W" else name for name in w}
    save_file({names[name]: value for name, value in w.items()}, path / "params.safetensors")
    pre = X @ w["W_enc"] + w["b_enc"]
    acts = pre.relu() * (pre > w["threshold"])
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def llama_scope(root: Path, *, by_norm: bool = True) -> Release:
    """Return a Llama Scope SAE: huggingface.co/fnlp/Llama3_1-8B-Base-LXR-8x.

    The forward is that of github.com/OpenMOSS/Language-Model-SAEs, `sae.py`, in inference mode
    after `standardize_parameters_of_dataset_norm`: biases are divided by s, the input is not
    scaled, and the threshold is met by activation times decoder norm. Its activations times s are
    those of sae_lens.
    """
    w = weights()
    path = root / "fnlp" / "Llama3_1-8B-Base-LXR-8x" / "Llama3_1-8B-Base-L2R-8x"
    cut = 0.25
    hyperparams = {
        "d_model": D_IN,
        "d_sae": D_SAE,
        "hook_point_in": "blocks.2.hook_resid_post",
        "hook_point_out": "blocks.2.hook_resid_post",
        "act_fn": "jumprelu",
        "jump_relu_threshold": cut,
        "top_k": 50,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": MEAN_NORM, "out": MEAN_NORM},
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "sparsity_include_decoder_norm": by_norm,
    }
    write_json(path / "hyperparams.json", hyperparams)
    (path / "checkpoints").mkdir()
    stored = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
        "decoder.bias": w["b_dec"],
    }
    save_file(stored, path / "checkpoints" / "final.safetensors")
    s = math.sqrt(D_IN) / MEAN_NORM
    norms = w["W_dec"].norm(dim=1) if by_norm else torch.ones(D_SAE)
    pre = X @ w["W_enc"] + w["b_enc"] / s
    own = pre * (pre * norms > cut)
    return Release(path=path, acts=own * s, rebuilt=own @ w["W_dec"] + w["b_dec"] / s)


def qwen_scope(root: Path) -> Release:
    """Return a Qwen-Scope SAE: huggingface.co/Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50, its README."""
    w = weights()
    folder = root / "Qwen" / f"SAE-Res-Qwen3-8B-Base-W64K-L0_{K}"
    folder.mkdir(parents=True)
    kept = {"b_enc": w["b_enc"], "b_dec": w["b_dec"]}
    kept |= {name: w[name].T.contiguous() for name in ("W_enc", "W_dec")}
    torch.save(kept, folder / "layer2.sae.pt")
    acts = top((X @ w["W_enc"] + w["b_enc"]).relu())
    return Release(path=folder / "layer2.sae.pt", acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def sparsify(root: Path) -> Release:
    """Return an SAE of EleutherAI: github.com/EleutherAI/sparsify, `sparse_coder.py`.

    `num_latents` 0 means d_in x expansion_factor; b_dec is subtracted, ReLU comes before TopK.
    """
    w = weights()
    path = root / "sae-llama" / "layers.2"
    write_json(
        path / "cfg.json",
        {"activation": "topk", "expansion_factor": 4, "normalize_decoder": True}
        | {"num_latents": 0, "k": K, "transcode": False, "d_in": D_IN},
    )
    stored = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "W_dec": w["W_dec"],
        "b_dec": w["b_dec"],
    }
    save_file(stored, path / "sae.safetensors")
    acts = top(((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu())
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def _dictionary(root: Path, name: str, stored: dict[str, Tensor]) -> Path:
    """Write a folder of github.com/saprmarks/dictionary_learning: `config.json` and `ae.pt`."""
    path = root / "resid_post_layer_2" / name
    trainer = {"dict_class": name, "layer": 2, "submodule_name": "resid_post_layer_2", "k": K}
    trainer |= {"activation_dim": D_IN, "dict_size": D_SAE, "lm_name": "some/model"}
    write_json(path / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 128}})
    torch.save(stored, path / "ae.pt")
    return path


def _linear(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the matrices as nn.Linear keeps them."""
    return {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "decoder.weight": w["W_dec"].T.contiguous(),
    }


def dl_standard(root: Path) -> Release:
    """Return dictionary_learning's AutoEncoder (`dictionary.py`)."""
    w = weights()
    stored = _linear(w) | {"encoder.bias": w["b_enc"], "bias": w["b_dec"]}
    acts = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    path = _dictionary(root, "AutoEncoder", stored)
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def dl_april(root: Path) -> Release:
    """Return dictionary_learning's AutoEncoderNew (`dictionary.py`)."""
    w = weights()
    stored = _linear(w) | {"encoder.bias": w["b_enc"], "decoder.bias": w["b_dec"]}
    acts = (X @ w["W_enc"] + w["b_enc"]).relu()
    path = _dictionary(root, "AutoEncoderNew", stored)
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def dl_topk(root: Path) -> Release:
    """Return dictionary_learning's AutoEncoderTopK (`trainers/top_k.py`).

    Its threshold is stored too, and not used in encoding.
    """
    w = weights()
    stored = _linear(w) | {"encoder.bias": w["b_enc"], "b_dec": w["b_dec"]}
    stored |= {"k": torch.tensor(K), "threshold": torch.tensor(9.0)}
    acts = top(((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu())
    path = _dictionary(root, "AutoEncoderTopK", stored)
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def dl_batchtopk(root: Path) -> Release:
    """Return dictionary_learning's BatchTopKSAE (`trainers/batch_top_k.py`) at inference."""
    w = weights()
    stored = _linear(w) | {"encoder.bias": w["b_enc"], "b_dec": w["b_dec"]}
    stored |= {"k": torch.tensor(K), "threshold": torch.tensor(4.0)}
    acts = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    acts = acts * (acts > 4)
    path = _dictionary(root, "BatchTopKSAE", stored)
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def dl_matryoshka(root: Path) -> Release:
    """Return dictionary_learning's MatryoshkaBatchTopKSAE (`matryoshka_batch_top_k.py`)."""
    w = weights()
    stored = {name: w[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    stored |= {"k": torch.tensor(K), "threshold": torch.tensor(4.0)}
    stored |= {"group_sizes": torch.tensor([8, 40])}
    acts = ((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    acts = acts * (acts > 4)
    path = _dictionary(root, "MatryoshkaBatchTopKSAE", stored)
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def dl_jumprelu(root: Path) -> Release:
    """Return dictionary_learning's JumpReluAutoEncoder (`dictionary.py`)."""
    w = weights()
    pre = X @ w["W_enc"] + w["b_enc"]
    acts = (pre * (pre > w["threshold"])).relu()
    path = _dictionary(root, "JumpReluAutoEncoder", w)
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


def dl_gated(root: Path) -> Release:
    """Return dictionary_learning's GatedAutoEncoder (`dictionary.py`)."""
    w, other = weights(), weights(seed=3)
    gate, r_mag = other["b_enc"], 0.5 * other["threshold"] - 0.7
    stored = _linear(w) | {"decoder_bias": w["b_dec"], "mag_bias": w["b_enc"]}
    stored |= {"gate_bias": gate, "r_mag": r_mag}
    shared = (X - w["b_dec"]) @ w["W_enc"]
    acts = (shared + gate > 0) * (shared * r_mag.exp() + w["b_enc"]).relu()
    path = _dictionary(root, "GatedAutoEncoder", stored)
    return Release(path=path, acts=acts, rebuilt=acts @ w["W_dec"] + w["b_dec"])


RELEASES: dict[str, Callable[..., Release]] = {
    make.__name__: make
    for make in (
        gemma_scope, gemma_scope_2, llama_scope, qwen_scope, sparsify, dl_standard, dl_april,
        dl_topk, dl_batchtopk, dl_matryoshka, dl_jumprelu, dl_gated,
    )
}  # fmt: skip
