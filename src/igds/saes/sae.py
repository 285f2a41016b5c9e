"""The canonical sparse autoencoder: encode, encode some columns, decode; always in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from igds.saes.topk import BLOCK, EncoderBlock, largest, topk_columns

Activation = Literal["relu", "jumprelu", "topk", "batchtopk"]

AS_STORED = "as stored"
"""Unit of an activation whose encoder and decoder were not rescaled in reading."""


@runtime_checkable
class FeatureEncoder(Protocol):
    """What scoring and interventions need of an SAE: whole, or some of its features."""

    @property
    def layer(self) -> int:
        """Return the decoder block whose output is read."""
        ...

    @property
    def d_sae(self) -> int:
        """Return the number of features of the whole SAE."""
        ...

    def encode_columns(
        self, x: Float[Tensor, "n d_in"], indices: Sequence[int]
    ) -> Float[Tensor, "n columns"]:
        """Return the activations of the named features, in their order, 0 or more."""
        ...

    def decoder_rows(self, indices: Sequence[int]) -> Float[Tensor, "columns d_in"]:
        """Return the directions that the named features write."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SAE:
    """One SAE on the output of one decoder block, in the spelling and orientation of SAELens.

    Readers of release formats leave this one form: input scaling and decoder-norm rescaling are
    folded into the weights.
    """

    layer: int
    """Decoder block whose output is read, from 0."""
    activation: Activation
    """What turns pre-activations into activations; batchtopk uses its learned threshold."""
    W_enc: Float[Tensor, "d_in d_sae"]
    """Encoder, float32; column-contiguous from our readers, so that reading columns is cheap."""
    W_dec: Float[Tensor, "d_sae d_in"]
    """Decoder, float32."""
    b_enc: Float[Tensor, " d_sae"]
    """Encoder bias, float32."""
    b_dec: Float[Tensor, " d_in"]
    """Decoder bias, float32."""
    threshold: Float[Tensor, " d_sae"] | None = None
    """A feature is active over it (jumprelu, batchtopk); float32, whatever the weights were."""
    k: int | None = None
    """Features kept a token (topk)."""
    apply_b_dec_to_input: bool = False
    """Whether `b_dec` is subtracted before encoding."""
    hook_name: str
    """Hook point as the release names it."""
    unit: str = AS_STORED
    """Convention of the activations' size, where readers of the release differ in it."""
    neuronpedia_id: str | None = None
    """Name on Neuronpedia, as `gemma-2-2b/14-gemmascope-res-16k`."""
    release: str
    """Name of the release or folder."""
    published_l0: float | None = None
    """Mean active features a token that the release states; k where k are always kept."""
    prepend_bos: bool | None = None
    """Whether a BOS led each text in training, where the release says so."""
    revision: str
    """sha256 of the SAE's files: part of a feature's identity."""

    def __post_init__(self) -> None:
        """Refuse an activation without its parameter.

        Raises:
            ValueError: as said.
        """
        if self.activation in ("jumprelu", "batchtopk") and self.threshold is None:
            raise ValueError(f"{self.release}: {self.activation} needs a threshold")
        if self.activation == "topk" and not 1 <= (self.k or 0) <= self.d_sae:
            raise ValueError(f"{self.release}: k should be 1 to {self.d_sae}, not {self.k}")

    def __repr__(self) -> str:
        """Return block, activation, sizes and release: `SAE(L9, topk k=32, 576 -> 4096, mine)`."""
        kind = f"{self.activation} k={self.k}" if self.k else self.activation
        return f"SAE(L{self.layer}, {kind}, {self.d_in} -> {self.d_sae}, {self.release})"

    @property
    def d_in(self) -> int:
        """Return the width of the residual stream that is read."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Return the number of features."""
        return self.W_enc.shape[1]

    def encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_sae"]:
        """Return the activations of all features, 0 or more."""
        return self.activate(self.pre_activations(x))

    def pre_activations(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_sae"]:
        """Return what the activation function is given (`hidden_pre`)."""
        return self.centred(x) @ self.W_enc + self.b_enc

    def activate(self, pre: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_sae"]:
        """Return the activations that pre-activations become."""
        if self.activation == "relu":
            return pre.relu()
        if self.threshold is not None:
            return pre.relu() * (pre > self.threshold)
        return pre.relu() * largest(pre, self.k or 0)

    def near_cut(
        self, pre: Float[Tensor, "n d_sae"], tolerance: float = 1e-5
    ) -> Bool[Tensor, "n d_sae"]:
        """Return where rounding could turn a feature on or off.

        The distance to the cut is under `tolerance` times the row's largest pre-activation; the
        cut is 0, the threshold, or the middle between the k-th and the next value.
        """
        cut = torch.zeros_like(pre[:, :1])
        if self.threshold is not None:
            cut = self.threshold.clamp(min=0)[None]
        elif self.k is not None and self.k < self.d_sae:
            cut = pre.topk(self.k + 1, dim=1).values[:, -2:].mean(dim=1, keepdim=True).clamp(min=0)
        return (pre - cut).abs() < tolerance * pre.abs().amax(dim=1, keepdim=True)

    def encode_columns(
        self, x: Float[Tensor, "n d_in"], indices: Sequence[int]
    ) -> Float[Tensor, "n columns"]:
        """Return the activations of the named features, in their order, 0 or more.

        Only their encoder columns are multiplied; TopK has to see all columns, a block at a time.
        """
        columns = torch.as_tensor(indices, dtype=torch.long)
        centred = self.centred(x)
        pre = centred @ self.W_enc.T[columns].T + self.b_enc[columns]
        if self.threshold is not None:
            return pre.relu() * (pre > self.threshold[columns])
        if self.activation == "topk":
            return topk_columns(pre, centred, columns, self.k or 0, self._blocks)
        return pre.relu()

    def decode(self, acts: Float[Tensor, "n d_sae"]) -> Float[Tensor, "n d_in"]:
        """Return the reconstruction of the residual stream."""
        return acts @ self.W_dec + self.b_dec

    def decoder_rows(self, indices: Sequence[int]) -> Float[Tensor, "columns d_in"]:
        """Return the directions that the named features write."""
        return self.W_dec[torch.as_tensor(indices, dtype=torch.long)]

    def centred(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
        """Return the encoder's input in float32."""
        return x.float() - self.b_dec if self.apply_b_dec_to_input else x.float()

    def _blocks(self) -> Iterator[EncoderBlock]:
        """Yield the encoder, some features at a time."""
        for start in range(0, self.d_sae, BLOCK):
            block = slice(start, start + BLOCK)
            yield EncoderBlock(start, self.W_enc[:, block], self.b_enc[block])


def check_saes(saes: object) -> None:
    """Refuse what is no list of SAEs.

    Raises:
        ValueError: it is one SAE, or it is empty.
    """
    if isinstance(saes, SAE):
        raise ValueError("saes is one SAE: give a list, [sae]")
    if not saes:
        raise ValueError("saes is empty: give at least one SAE")
