"""Reads a configuration: strict YAML, then command-line overrides, then the schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from igds.config.overrides import apply_overrides
from igds.config.schema import Config
from igds.config.structure import structure
from igds.config.text import read_yaml
from igds.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """A configuration and the folder its relative paths start from."""

    config: Config
    """The settings."""
    base: Path
    """Folder of the config file, absolute."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigFile:
    """Return the configuration in a YAML file, changed by command-line overrides.

    Args:
        path: YAML file.
        overrides: words of the command line, `--recall.min-frequency 0.9`.

    Raises:
        RequestError: no such file, not YAML, an unknown key, a value of the wrong type or range.
    """
    path = Path(path)
    raw = read_yaml(path)
    try:
        apply_overrides(raw, overrides)
        return ConfigFile(config=structure(raw), base=path.resolve().parent)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error
