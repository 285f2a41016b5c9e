"""From `saes` in the configuration to SAEs that fit the model, whole or some of their features."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from igds.cache import file_digest
from igds.config import schema
from igds.errors import RequestError
from igds.saes.formats.saelens import needs_input_scale
from igds.saes.formats.table import FORMATS, find_format
from igds.saes.hub import download
from igds.saes.registry import find_entry
from igds.saes.sae import SAE
from igds.saes.stored import StoredSAE


@dataclass(frozen=True, slots=True, kw_only=True)
class SAESpec:
    """One SAE found on this machine: all that a worker needs to read it; plain JSON values."""

    path: str
    """Local folder or file."""
    source: str
    """Where it comes from: as configured, a Hub repository with its commit."""
    release: str
    """Name to quote."""
    layer: int | None = None
    """Decoder block, where the configuration or the files state it."""
    neuronpedia_id: str | None = None
    """Name on Neuronpedia, where the registry has it."""
    published_l0: float | None = None
    """Mean number of active features, where the registry has it."""
    input_scale: float | None = None
    """Factor of the input that the files do not hold."""


def locate_saes(
    configs: Sequence[schema.SAE], base: Path, d_model: int, n_blocks: int
) -> dict[int, SAESpec]:
    """Return block -> SAE, in block order; of the weights no matrix is read.

    Args:
        configs: the `saes` section.
        base: folder that relative paths start from.
        d_model: width of the model's residual stream.
        n_blocks: decoder blocks of the model.

    Raises:
        RequestError: a file is missing or not supported, `d_in` is not the model's, the model
            lacks the block, or two SAEs read one block.
    """
    if not configs:
        raise RequestError("saes is empty: name at least one SAE")
    found: dict[int, SAESpec] = {}
    for place, config in enumerate(configs):
        try:
            spec = find_sae(config, base)
            stored = open_sae(spec)
        except RequestError as error:
            raise RequestError(f"saes.{place}: {error}") from error
        layer = stored.layer
        if stored.d_in != d_model:
            raise RequestError(
                f"{spec.source} was trained on d_in = {stored.d_in}, but the model's d_model is "
                f"{d_model}: it belongs to another model"
            )
        if layer >= n_blocks:
            raise RequestError(
                f"{spec.source} reads block {layer}, but the model has blocks 0 to {n_blocks - 1}"
            )
        if layer in found:
            raise RequestError(
                f"two SAEs read block {layer}: {found[layer].source} and {spec.source}"
            )
        found[layer] = dataclasses.replace(spec, layer=layer)
    return dict(sorted(found.items()))


def find_sae(config: schema.SAE, base: Path) -> SAESpec:
    """Return the SAE that an entry of `saes` names, downloaded if it is on the Hub.

    Raises:
        RequestError: it is nowhere, or the registry says that igds cannot use it.
    """
    if config.id is not None and config.release is not None:
        return _from_registry(config, config.release, config.id)
    assert config.path is not None, "the schema asks for a path or an id"
    if config.hub is not None:
        names = [name for one in FORMATS for name in (*one.files, *one.optional)]
        place, commit = download(config.hub, config.path, config.revision, names)
        source = f"{config.hub}@{commit}/{config.path}"
        release = config.release or f"{config.hub}/{config.path}"
    else:
        # Not resolved: the name that a link has in a cache of the Hub says what it is.
        place = Path(os.path.abspath(base / Path(config.path).expanduser()))  # noqa: PTH100
        source, release = str(place), config.release or place.name
    return SAESpec(
        path=str(place),
        source=source,
        release=release,
        layer=config.layer,
        input_scale=config.input_scale,
    )


def open_sae(spec: SAESpec) -> StoredSAE:
    """Return the SAE on disk, of which features can be read.

    Raises:
        RequestError: a file is missing, damaged or not supported, or it reads another block.
    """
    path = Path(spec.path)
    stored = find_format(path).open(path, spec.layer, spec.input_scale)
    return dataclasses.replace(
        stored,
        neuronpedia_id=spec.neuronpedia_id or stored.neuronpedia_id,
        published_l0=spec.published_l0 or stored.published_l0,
    )


def read_sae(spec: SAESpec) -> SAE:
    """Return the whole SAE in canonical float32 form.

    Raises:
        RequestError: as `open_sae`, or a weight is not finite.
    """
    stored = open_sae(spec)
    return stored.whole(spec.release, revision(stored))


def load_sae(path: str | Path, layer: int | None = None, release: str | None = None) -> SAE:
    """Return the SAE of a local folder or file, in any format igds reads, in float32.

    Args:
        path: folder or file of one SAE.
        layer: the block it reads, where neither its files nor their folder name it.
        release: name to quote; the folder's name when absent.

    Raises:
        RequestError: the folder, a file or a weight is missing, not supported, or not finite, or
            the SAE reads another block than `layer`.
    """
    return read_sae(find_sae(schema.SAE(path=str(path), layer=layer, release=release), Path()))


def revision(stored: StoredSAE) -> str:
    """Return the sha256 of the SAE's settings and weights: part of a feature's identity."""
    digest = hashlib.sha256()
    for path in stored.files:
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def _from_registry(config: schema.SAE, release: str, sae_id: str) -> SAESpec:
    """Return an SAE of the registry of sae-lens, downloaded."""
    entry = find_entry(release, sae_id)
    (files,) = ((*one.files, *one.optional) for one in FORMATS if one.name == entry.format)
    place, commit = download(entry.repo, entry.path, config.revision, files)
    scale = config.input_scale
    if scale is None and entry.input_scale is not None and needs_input_scale(place):
        scale = entry.input_scale
    return SAESpec(
        path=str(place),
        source=f"{entry.repo}@{commit}/{entry.path}",
        release=f"{release}/{sae_id}",
        layer=config.layer,
        neuronpedia_id=entry.neuronpedia_id,
        published_l0=entry.l0,
        input_scale=scale,
    )
