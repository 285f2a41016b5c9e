"""What the readers of release formats share: hook names, blocks, settings files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igds.errors import RequestError
from igds.saes.stored import StoredSAE

_RESID_POST = re.compile(
    r"blocks\.(\d+)\.hook_resid_post|(?:\w+\.)*layers\.(\d+)(?:\.output)?|resid_post_layer_(\d+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One release format: by which files it is known, and its reader."""

    name: str
    """Name in messages and in docs/saes_formats.md."""
    files: tuple[str, ...]
    """Files that the folder of one SAE must hold; empty where an SAE is a single file."""
    optional: tuple[str, ...] = ()
    """Files that are read when they are there."""
    file_pattern: str | None = None
    """Regular expression of the file's name where an SAE is a single file."""
    open: Callable[[Path, int | None, float | None], StoredSAE]
    """(path, block that `saes.layer` states, input scale) -> the SAE; reads no matrix."""

    def matches(self, path: Path) -> bool:
        """Return whether the folder or file has this format."""
        if self.file_pattern:
            return path.is_file() and re.fullmatch(self.file_pattern, path.name) is not None
        return all((path / name).is_file() for name in self.files)


def read_json(path: Path) -> dict[str, Any]:
    """Return a settings file.

    Raises:
        RequestError: it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}") from error


def setting(path: Path, settings: dict[str, Any], name: str) -> Any:
    """Return a setting that must be there.

    Raises:
        RequestError: it is not.
    """
    if name not in settings:
        raise RequestError(f"{path} has no setting {name!r}; it has {sorted(settings)}")
    return settings[name]


def block_of(path: Path, hook_name: str, stated: int | None) -> int:
    """Return the decoder block whose output a hook name means.

    Raises:
        RequestError: it means another place, or another block than `saes.layer` states.
    """
    match = _RESID_POST.fullmatch(hook_name)
    if match is None:
        raise RequestError(
            f"{path} reads {hook_name!r}; igds takes SAEs on the output of a decoder "
            "block, as blocks.14.hook_resid_post (a transcoder or an SAE on attention or MLP "
            "describes something else)"
        )
    return agreed(path, int(next(filter(None, match.groups()))), stated)


def agreed(path: Path, found: int, stated: int | None) -> int:
    """Return the block that the files name.

    Raises:
        RequestError: `saes.layer` states another one.
    """
    if stated not in (None, found):
        raise RequestError(f"{path} reads block {found}, not {stated}: mend saes.layer")
    return found


def block_in_path(path: Path, place: str, stated: int | None) -> int:
    """Return the block of a format whose files do not name it, from their folder's name.

    Args:
        path: folder or file.
        place: regular expression, found in the path of a block output's SAE, with one group: the
            block.
        stated: `saes.layer`, which stands for the name where the path does not have it.

    Raises:
        RequestError: neither says which block, or both and not the same.
    """
    match = re.search(place, path.as_posix())
    if match is not None:
        return agreed(path, int(match[1]), stated)
    if stated is None:
        raise RequestError(
            f"{path}: neither its files nor its folder's name say which block's output it reads: "
            "set saes.layer (only if it reads a block's output)"
        )
    return stated


def l0_in_path(path: Path) -> float | None:
    """Return the mean l0 that a folder of a release is named after, as `average_l0_71`."""
    found = re.findall(r"average_l0_(\d+)", path.as_posix())
    return float(found[-1]) if found else None


def refuse_scale(path: Path, input_scale: float | None) -> None:
    """Raise RequestError where `saes.input_scale` is set but the format knows its own scaling."""
    if input_scale is not None:
        raise RequestError(
            f"{path}: saes.input_scale is for SAELens folders with normalize_activations "
            "expected_average_only_in; this SAE's input is scaled as its files say"
        )
