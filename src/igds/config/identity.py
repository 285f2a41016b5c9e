"""What makes two runs the same work: plain values, their digest, and where two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

ABSENT = "absent"
"""Stands for a key that only one of two mappings has."""


def to_plain(value: Any) -> Any:
    """Return the value as JSON knows it: dataclasses as dicts, tuples as lists, Decimals as text.

    Raises:
        TypeError: something else is in it.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no plain form")


def chosen(value: Any) -> Any:
    """Return plain values of a configuration, without those that are their field's default."""
    if not is_dataclass(value) or isinstance(value, type):
        if isinstance(value, list | tuple):
            return [chosen(item) for item in value]
        return to_plain(value)
    found = {}
    for one in fields(value):
        own = getattr(value, one.name)
        if own != field_default(one):
            found[one.name] = chosen(own)
    return found


def field_default(spec: Field[Any]) -> Any:
    """Return a field's default, MISSING where it has none."""
    return spec.default if spec.default_factory is MISSING else spec.default_factory()


def digest(value: Any) -> str:
    """Return 64 hex digits: sha256 of the value's canonical JSON, whatever the order of keys."""
    text = json.dumps(to_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(left: Any, right: Any) -> list[tuple[str, Any, Any]]:
    """Return (dotted key, left value, right value) wherever the two differ, left's keys first."""
    a, b = dict(_leaves(to_plain(left))), dict(_leaves(to_plain(right)))
    pairs = [(key, a.get(key, ABSENT), b.get(key, ABSENT)) for key in a | b]
    return [(key, x, y) for key, x, y in pairs if x != y or type(x) is not type(y)]


def dump_yaml(config: Any) -> str:
    """Return the settings as YAML that loads back to an equal object; absent ones are left out."""
    return yaml_text(given_values(config))


def yaml_text(value: Any) -> str:
    """Return plain values as YAML in block style, keys in their order."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.representer.add_representer(Decimal, _represent_decimal)
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def _represent_decimal(representer: Any, number: Decimal) -> Any:
    text = format(number, "f")
    return representer.represent_scalar(
        "tag:yaml.org,2002:float", text if "." in text else f"{text}.0"
    )


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    if not children or not value:
        yield key, value
        return
    for name, item in children:
        yield from _leaves(item, f"{key}.{name}" if key else str(name))


def given_values(value: Any) -> Any:
    """Return nested dicts and lists without the fields that are None; Decimals stay."""
    if is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: given_values(item) for name, item in items if item is not None}
    if isinstance(value, tuple | list):
        return [given_values(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
