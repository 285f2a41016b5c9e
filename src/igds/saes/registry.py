"""The registry of public SAEs that the installed sae-lens carries, read without importing it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from igds.errors import RequestError, did_you_mean

_FORMATS = {
    None: "SAELens",
    "gemma_2": "Gemma Scope",
    "gemma_3": "Gemma Scope 2",
    "llama_scope": "Llama Scope",
    "qwen_scope": "Qwen-Scope",
    "dictionary_learning_1": "dictionary_learning",
}
"""Name of the registry's reader -> format of igds."""
_ELSEWHERE = ("mlp", "att", "lxa", "lxm", "hook_z", "resid_mid", "resid-mid", "embed")
"""What stands in names of SAEs that read another place than a block's output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One SAE of the registry."""

    release: str
    """Name of the release."""
    id: str
    """Name of the SAE in it."""
    model: str
    """The model it was trained on."""
    repo: str
    """Hub repository."""
    path: str
    """Folder or file in the repository."""
    format: str | None
    """Name of igds' format; None when igds does not read it."""
    l0: float | None
    """Published mean number of active features."""
    neuronpedia_id: str | None
    """Name on Neuronpedia."""
    input_scale: float | None
    """Factor of the input that a SAELens folder does not hold itself."""
    unsupported: str | None
    """Why igds cannot use it; None when it can."""


def find_entry(release: str, sae_id: str) -> Entry:
    """Return one SAE of the registry.

    Raises:
        RequestError: sae-lens is not installed, no such release or SAE in it, or igds cannot use
            it.
    """
    entries = {entry.id: entry for entry in find_releases(None, release)[release]}
    if sae_id not in entries:
        raise RequestError(
            f"release {release} has no SAE {sae_id!r}; {did_you_mean(sae_id, entries)}"
        )
    entry = entries[sae_id]
    if entry.unsupported is not None:
        raise RequestError(f"release {release}, id {sae_id}: {entry.unsupported}")
    return entry


def find_releases(model: str | None, release: str | None) -> dict[str, tuple[Entry, ...]]:
    """Return release -> its SAEs, of those for a model and of one name.

    Raises:
        RequestError: sae-lens is not installed, or nothing matches.
    """
    releases = registry()
    if release is not None and release not in releases:
        raise RequestError(
            f"the registry of sae-lens has no release {release!r}; "
            + did_you_mean(release, releases)
        )
    found = {
        name: entries
        for name, entries in releases.items()
        if release in (None, name) and (model or "").lower() in entries[0].model.lower()
    }
    if not found:
        raise RequestError(f"the registry of sae-lens has no release for a model {model!r}")
    return found


@cache
def registry() -> Mapping[str, tuple[Entry, ...]]:
    """Return release -> its SAEs, in the registry's order.

    Raises:
        RequestError: sae-lens is not installed.
    """
    spec = importlib.util.find_spec("sae_lens")
    if spec is None or spec.origin is None:
        raise RequestError(
            "the registry of SAEs needs a package: pip install 'igds[saelens]' "
            "(in a clone '.[saelens]')"
        )
    # PyYAML comes with sae-lens; its C loader reads the 1.5 MB in a second.
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (Path(spec.origin).parent / "pretrained_saes.yaml").read_bytes()
    releases: dict[str, Any] = yaml.load(text, Loader=loader)
    return {
        name: tuple(_entry(name, release, sae) for sae in release["saes"])
        for name, release in releases.items()
    }


def _entry(release: str, about: Mapping[str, Any], sae: Mapping[str, Any]) -> Entry:
    reader = about.get("conversion_func")
    return Entry(
        release=release,
        id=str(sae["id"]),
        model=about["model"],
        repo=about["repo_id"],
        path=str(sae["path"]),
        format=_FORMATS.get(reader),
        l0=_number(sae.get("l0")),
        neuronpedia_id=sae.get("neuronpedia"),
        # The other formats hold their own factor.
        input_scale=_number(sae.get("norm_scaling_factor")) if reader is None else None,
        unsupported=_unsupported(release, about, sae),
    )


def _number(value: float | int | None) -> float | None:
    return None if value is None else float(value)


def _unsupported(release: str, about: Mapping[str, Any], sae: Mapping[str, Any]) -> str | None:
    """Return why igds cannot use an SAE, as far as the registry tells."""
    reader, overrides = about.get("conversion_func"), about.get("config_overrides") or {}
    names = f"{release} {sae['id']} {sae['path']}".lower()
    if "transcoder" in names or "clt" in names:
        return "a transcoder: it does not describe a block's output"
    if any(word in names for word in _ELSEWHERE):
        return "reads another place than a block's output"
    if "resid_pre" in names:
        return "reads a block's input"
    if reader not in _FORMATS:
        return f"igds has no reader for the format {reader}"
    if overrides.get("model_from_pretrained_kwargs", {}).get("center_writing_weights"):
        return "trained on a model with centred weights, which transformers does not run"
    if overrides.get("normalize_activations", "none") != "none":
        return f"normalize_activations {overrides['normalize_activations']}"
    return None
