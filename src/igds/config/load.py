"""Reads a configuration: strict YAML, then command-line overrides, then the schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from igds.config.identity import given_values
from igds.config.overrides import apply_overrides
from igds.config.schema import Config
from igds.config.structure import SettingsError, structure
from igds.config.text import read_yaml
from igds.errors import RequestError

T = TypeVar("T")


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
    return ConfigFile(config=read_settings(path, overrides, Config), base=path.resolve().parent)


def changed(config: Config, overrides: Sequence[str]) -> Config:
    """Return the configuration with other settings, written as on the command line.

    Raises:
        RequestError: an unknown key, a value of the wrong type or range.
    """
    raw = given_values(config)
    apply_overrides(raw, overrides)
    return structure(raw, Config)


def read_settings(path: Path, overrides: Sequence[str], schema: type[T]) -> T:
    """Return the settings in a YAML file, changed by command-line overrides, as a schema object.

    Raises:
        RequestError: as `load_config`; a wrong value that was typed names its option.
    """
    raw = read_yaml(path)
    typed = apply_overrides(raw, overrides)
    try:
        return structure(raw, schema)
    except SettingsError as error:
        lines = [
            f"--{problem}" if _concerns(problem, typed) else f"{path}: {problem}"
            for problem in error.problems
        ]
        raise RequestError("\n  ".join(lines)) from error


def _concerns(problem: str, keys: Sequence[str]) -> bool:
    """Return whether a problem's dotted key is one of the keys, above or below one of them."""
    where = f"{problem.split(' ')[0]}."
    return any(where.startswith(f"{key}.") or f"{key}.".startswith(where) for key in keys)
