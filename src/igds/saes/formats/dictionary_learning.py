"""dictionary_learning: `config.json` and `ae.pt`, of which only the tensors are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from igds.errors import RequestError
from igds.saes.formats.base import (
    Format,
    agreed,
    block_in_path,
    block_of,
    read_json,
    refuse_scale,
    setting,
)
from igds.saes.formats.saelens import gated_encoder
from igds.saes.sae import Activation
from igds.saes.stored import Encoder, StoredSAE
from igds.saes.weights import Features, WeightFile

CONFIG = "config.json"
WEIGHTS = "ae.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Where one dictionary class keeps its weights."""

    activation: Activation
    centred: bool = True
    """Whether the decoder bias is subtracted before encoding."""
    linear: bool = True
    """nn.Linear weights, [out, in], or plain W_enc [d_in, d_sae] and W_dec."""
    b_dec: str = "b_dec"
    vectors: tuple[str, ...] = ()
    """Further vectors of d_sae values, in the order that the encoder takes them."""


_KINDS = {
    "AutoEncoder": _Kind(activation="relu", b_dec="bias"),
    "AutoEncoderNew": _Kind(activation="relu", b_dec="decoder.bias", centred=False),
    "AutoEncoderTopK": _Kind(activation="topk"),
    "BatchTopKSAE": _Kind(activation="batchtopk"),
    "MatryoshkaBatchTopKSAE": _Kind(activation="batchtopk", linear=False),
    "JumpReluAutoEncoder": _Kind(activation="jumprelu", linear=False, centred=False),
    "GatedAutoEncoder": _Kind(
        activation="jumprelu", b_dec="decoder_bias", vectors=("r_mag", "mag_bias", "gate_bias")
    ),
}


def open_dictionary_learning(
    folder: Path, layer: int | None, input_scale: float | None
) -> StoredSAE:
    """Return the SAE of a folder as `resid_post_layer_12/trainer_0`.

    Activations are those of the stored weights: some versions of the library multiply them by the
    decoder norm of each feature in loading or encoding, which the SAE's output does not depend on.

    Raises:
        RequestError: a weight is missing, or the class of dictionary is not supported.
    """
    refuse_scale(folder, input_scale)
    trainer = setting(folder / CONFIG, read_json(folder / CONFIG), "trainer")
    name = setting(folder / CONFIG, trainer, "dict_class")
    if name not in _KINDS:
        raise RequestError(
            f"{folder}: dict_class {name!r} is not supported; supported: {', '.join(_KINDS)}"
        )
    kind = _KINDS[name]
    found = _block(folder, trainer, layer)
    d_in = int(setting(folder / CONFIG, trainer, "activation_dim"))
    d_sae = int(setting(folder / CONFIG, trainer, "dict_size"))
    weights = _Weights(file=WeightFile(folder / WEIGHTS), kind=kind)
    weights.check(d_in, d_sae)
    return StoredSAE(
        path=folder,
        files=(folder / CONFIG, folder / WEIGHTS),
        layer=found,
        d_in=d_in,
        d_sae=d_sae,
        activation=kind.activation,
        k=int(setting(folder / CONFIG, trainer, "k")) if kind.activation == "topk" else None,
        apply_b_dec_to_input=kind.centred,
        hook_name=f"resid_post_layer_{found}",
        b_dec=weights.file.vector(kind.b_dec),
        encoder=weights.encoder,
        decoder=weights.decoder,
    )


FORMAT = Format(name="dictionary_learning", files=(CONFIG, WEIGHTS), open=open_dictionary_learning)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """The weights of one folder in the canonical orientation."""

    file: WeightFile
    kind: _Kind

    def check(self, d_in: int, d_sae: int) -> None:
        """Raise RequestError unless all weights are there."""
        if self.kind.linear:
            shapes = {"encoder.weight": (d_sae, d_in), "decoder.weight": (d_in, d_sae)}
        else:
            shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in)}
        vectors = dict.fromkeys(self.kind.vectors or (self._b_enc,), (d_sae,))
        cut = {"batchtopk": (), "jumprelu": (d_sae,)}.get(self.kind.activation)
        threshold = {} if cut is None or self.kind.vectors else {"threshold": cut}
        self.file.check({**shapes, self.kind.b_dec: (d_in,), **vectors, **threshold})

    def encoder(self, features: Features) -> Encoder:
        """Return the encoder of the named features."""
        if self.kind.linear:
            rows = self.file.matrix("encoder.weight", features, axis=0)
        else:
            rows = self.file.matrix("W_enc", features, axis=1)
        if self.kind.vectors:
            return gated_encoder(rows, *(self.file.vector(v, features) for v in self.kind.vectors))
        b_enc = self.file.vector(self._b_enc, features)
        threshold = None
        if self.kind.activation == "batchtopk":
            threshold = self.file.vector("threshold").expand(len(b_enc)).clone()
        elif self.kind.activation == "jumprelu":
            threshold = self.file.vector("threshold", features)
        return Encoder(rows.T, b_enc, threshold)

    def decoder(self, features: Features) -> Float[Tensor, "features d_in"]:
        """Return the decoder rows of the named features."""
        if self.kind.linear:
            return self.file.matrix("decoder.weight", features, axis=1)
        return self.file.matrix("W_dec", features, axis=0)

    @property
    def _b_enc(self) -> str:
        return "encoder.bias" if self.kind.linear else "b_enc"


def _block(folder: Path, trainer: dict[str, Any], stated: int | None) -> int:
    """Return the block that the trainer read, if it read a block's output."""
    hook_name = trainer.get("submodule_name")
    if hook_name is not None:
        return block_of(folder, hook_name, stated)
    found = block_in_path(folder, r"resid_post_layer_(\d+)(?:_|/|$)", stated)
    return agreed(folder, int(setting(folder / CONFIG, trainer, "layer")), found)
