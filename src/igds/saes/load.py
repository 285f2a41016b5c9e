"""From `saes` in the configuration to SAEs that fit the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from igds.config import schema
from igds.errors import RequestError
from igds.saes.formats.saelens import hook_layer, read_config, read_saelens, revision
from igds.saes.sae import SAE


def locate_saes(
    configs: Sequence[schema.SAE], base: Path, d_model: int, n_blocks: int
) -> dict[int, str]:
    """Return block -> absolute SAE folder, in block order; weights are not read.

    Args:
        configs: the `saes` section.
        base: folder that relative paths start from.
        d_model: width of the model's residual stream.
        n_blocks: decoder blocks of the model.

    Raises:
        RequestError: a folder or file is missing or not supported, `d_in` is not the model's,
            the model lacks the block, or two SAEs read one block.
    """
    if not configs:
        raise RequestError("saes is empty: name at least one SAE")
    found: dict[int, str] = {}
    for place, config in enumerate(configs):
        folder = (base / Path(config.path).expanduser()).resolve()
        _check_folder(folder, f"saes.{place}.path: ")
        settings = read_config(folder)
        layer = hook_layer(folder, settings)
        if config.layer not in (None, layer):
            raise RequestError(f"{folder} reads block {layer}, not {config.layer}: mend saes.layer")
        if settings["d_in"] != d_model:
            raise RequestError(
                f"{folder} was trained on d_in = {settings['d_in']}, but the model's d_model is "
                f"{d_model}: it belongs to another model"
            )
        if layer >= n_blocks:
            raise RequestError(
                f"{folder} reads block {layer}, but the model has blocks 0 to {n_blocks - 1}"
            )
        if layer in found:
            raise RequestError(f"two SAEs read block {layer}: {found[layer]} and {folder}")
        found[layer] = str(folder)
    return dict(sorted(found.items()))


def load_sae(path: str | Path, layer: int | None = None, release: str | None = None) -> SAE:
    """Return the SAE of a folder in canonical float32 form.

    Raises:
        RequestError: the folder, a file or a weight is missing, not supported, or not finite, or
            the SAE reads another block than `layer`.
    """
    _check_folder(Path(path))
    return read_saelens(Path(path), layer, release)


def _check_folder(folder: Path, setting: str = "") -> None:
    if not folder.is_dir():
        raise RequestError(f"{setting}there is no folder {folder}")


def sae_revision(path: str | Path) -> str:
    """Return the sha256 of an SAE folder's settings and weights."""
    return revision(Path(path))
