"""Command-line overrides: `--recall.min-frequency 0.9`, `--data.pool.0.path=x`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from igds.config.text import CommandLineText
from igds.errors import RequestError

_BUDGET = ["select", "budget"]


def parse_overrides(words: Sequence[str]) -> list[tuple[list[str], CommandLineText]]:
    """Return (keys, value) of each override, dashes in keys read as underscores.

    Raises:
        RequestError: a word that is no option, or an option without a value.
    """
    found: list[tuple[list[str], CommandLineText]] = []
    rest = list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--") or len(name) == 2:
            raise RequestError(f"{name!r} is not an override: write --section.field value")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise RequestError(f"{name} has no value: write {name} VALUE")
            value = rest.pop(0)
        found.append((name[2:].replace("-", "_").split("."), CommandLineText(value)))
    return found


def apply_overrides(raw: dict[str, Any], words: Sequence[str]) -> list[str]:
    """Set the overridden values in the mapping read from YAML and return their dotted keys.

    A budget on the command line replaces the whole budget section, since exactly one of its
    fields may be set.

    Raises:
        RequestError: as `parse_overrides`, or a key below a list's end or below a plain value.
    """
    overrides = parse_overrides(words)
    if any(keys[:2] == _BUDGET and len(keys) > 2 for keys, _ in overrides):
        _set(raw, _BUDGET, {})
    for keys, value in overrides:
        try:
            _set(raw, keys, value)
        except RequestError as error:
            raise RequestError(f"--{'.'.join(keys)}: {error}") from error
    return [".".join(keys) for keys, _ in overrides]


def _set(raw: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    place: Any = raw
    for depth, key in enumerate(keys):
        if key.isdecimal() and place in (None, [], {}):
            raise RequestError(_without_items(keys, depth, value))
        known, item = _key(place, key, ".".join(keys[:depth]))
        if depth == len(keys) - 1:
            place[item] = value
            return
        if not known:
            place[item] = {}
        place = place[item]


def _key(place: Any, key: str, where: str) -> tuple[bool, str | int]:
    """Return whether the place has the key, and the key as the place spells it."""
    if isinstance(place, list):
        if not key.isdecimal() or int(key) >= len(place):
            raise RequestError(f"{where} has {len(place)} items, counted from 0: no item {key}")
        return True, int(key)
    if not isinstance(place, dict):
        raise RequestError(f"{where} is {place!r} in the file: nothing can be set below it")
    if key.isdecimal():
        raise RequestError(f"{where} is a section, which has no item {key}")
    return key in place, key


def _without_items(keys: Sequence[str], depth: int, value: str) -> str:
    """Return what to write in place of an item of a list that is absent or empty."""
    where, item = ".".join(keys[:depth]), value
    for key in reversed(keys[depth + 1 :]):
        item = f"{{{key}: {item}}}"
    return (
        f"{where} has no items in the file, and none can be set one by one: give the list as a "
        f"whole, --{where} '[{item}]'"
    )
