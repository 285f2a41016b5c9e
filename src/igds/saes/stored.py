"""An SAE on disk, read by features: all of them as an `SAE`, or some as `SAEColumns`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from igds.saes.sae import AS_STORED, SAE, Activation
from igds.saes.topk import BLOCK, Blocks, EncoderBlock, topk_columns
from igds.saes.weights import ALL, Features

HELD = 1 << 26
"""Weights of a TopK encoder, 256 MB, up to which it is held in memory rather than read again."""


class Encoder(NamedTuple):
    """Encoder of some features, every scaling folded in."""

    W_enc: Float[Tensor, "d_in features"]
    b_enc: Float[Tensor, " features"]
    threshold: Float[Tensor, " features"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredSAE:
    """What a reader of a release format leaves: the settings, and weights by features."""

    path: Path
    """Folder or file."""
    files: tuple[Path, ...]
    """Files that the numbers depend on."""
    layer: int
    """Decoder block whose output is read, from 0."""
    d_in: int
    """Width of the residual stream that is read."""
    d_sae: int
    """Number of features."""
    activation: Activation
    """As in `SAE`."""
    k: int | None = None
    """Features kept a token (topk)."""
    apply_b_dec_to_input: bool
    """Whether `b_dec` is subtracted before encoding."""
    hook_name: str
    """Hook point as the release names it."""
    neuronpedia_id: str | None = None
    """Name on Neuronpedia, where the files have it."""
    unit: str = AS_STORED
    """As in `SAE`."""
    published_l0: float | None = None
    """As in `SAE`."""
    prepend_bos: bool | None = None
    """As in `SAE`."""
    b_dec: Float[Tensor, " d_in"]
    """Decoder bias."""
    encoder: Callable[[Features], Encoder]
    """Reads the encoder of the named features."""
    decoder: Callable[[Features], Float[Tensor, "features d_in"]]
    """Reads the decoder rows of the named features."""

    def whole(self, release: str, revision: str) -> SAE:
        """Return the SAE with all features in memory."""
        return self._sae(ALL, release, revision)

    def columns(self, indices: Sequence[int]) -> SAEColumns:
        """Return some features, the others left on disk.

        Raises:
            ValueError: the SAE has no such feature.
        """
        wrong = [index for index in indices if not 0 <= index < self.d_sae]
        if wrong:
            raise ValueError(f"no feature L{self.layer}/{wrong[0]}: that SAE has {self.d_sae}")
        places = {index: place for place, index in enumerate(dict.fromkeys(indices))}
        part = self._sae(list(places), release=str(self.path), revision="")
        blocks = self.blocks
        if self.activation == "topk" and self.d_in * self.d_sae <= HELD:
            held = list(self.blocks())
            blocks = lambda: held  # noqa: E731
        return SAEColumns(stored=self, places=places, part=part, blocks=blocks)

    def decoder_rows(self, indices: Sequence[int]) -> Float[Tensor, "columns d_in"]:
        """Return the directions that the named features write."""
        return self.decoder(list(indices))

    def blocks(self) -> Iterator[EncoderBlock]:
        """Yield the encoder of all features, some at a time."""
        for start in range(0, self.d_sae, BLOCK):
            encoder = self.encoder(slice(start, min(start + BLOCK, self.d_sae)))
            yield EncoderBlock(start, encoder.W_enc, encoder.b_enc)

    def _sae(self, features: Features, release: str, revision: str) -> SAE:
        """Return the named features as an SAE; some of a TopK SAE as a ReLU one."""
        encoder = self.encoder(features)
        topk = self.activation == "topk"
        return SAE(
            layer=self.layer,
            activation="relu" if topk and features is not ALL else self.activation,
            W_enc=encoder.W_enc,
            b_enc=encoder.b_enc,
            threshold=encoder.threshold,
            W_dec=self.decoder(features),
            b_dec=self.b_dec,
            k=self.k if features is ALL else None,
            apply_b_dec_to_input=self.apply_b_dec_to_input,
            hook_name=self.hook_name,
            unit=self.unit,
            neuronpedia_id=self.neuronpedia_id,
            published_l0=self.published_l0,
            prepend_bos=self.prepend_bos,
            release=release,
            revision=revision,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SAEColumns:
    """Some features of an SAE in memory; TopK reads the others by blocks when it must."""

    stored: StoredSAE
    """The SAE on disk."""
    places: dict[int, int]
    """Index of a feature in the SAE -> its place in `part`."""
    part: SAE
    """The features held; their ReLU where the SAE is a TopK one."""
    blocks: Blocks
    """The encoder of all features, for TopK."""

    @property
    def layer(self) -> int:
        """Return the decoder block whose output is read."""
        return self.part.layer

    @property
    def d_sae(self) -> int:
        """Return the number of features of the whole SAE."""
        return self.stored.d_sae

    def encode_columns(
        self, x: Float[Tensor, "n d_in"], indices: Sequence[int]
    ) -> Float[Tensor, "n columns"]:
        """Return the activations of the named features, in their order, 0 or more.

        Raises:
            ValueError: a feature is not held.
        """
        acts = self.part.encode_columns(x, self._places(indices))
        if self.stored.activation != "topk":
            return acts
        columns = torch.as_tensor(indices, dtype=torch.long)
        return topk_columns(acts, self.part.centred(x), columns, self.stored.k or 0, self.blocks)

    def decoder_rows(self, indices: Sequence[int]) -> Float[Tensor, "columns d_in"]:
        """Return the directions that the named features write.

        Raises:
            ValueError: a feature is not held.
        """
        return self.part.decoder_rows(self._places(indices))

    def _places(self, indices: Sequence[int]) -> list[int]:
        missing = [index for index in indices if index not in self.places]
        if missing:
            raise ValueError(f"L{self.layer}/{missing[0]} is not among the features that were read")
        return [self.places[index] for index in indices]
