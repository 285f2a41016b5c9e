"""Words about the settings, all from the schema's own docstrings: YAML comments and a page."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from textwrap import wrap
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from igds.config import schema
from igds.config.identity import field_default, to_plain

_PLAIN = re.compile(r"(?!true$|false$|null$)[A-Za-z][\w./*-]*")
_WIDTH = 100


@cache
def field_docs(cls: type) -> Mapping[str, str]:
    """Return field -> docstring of a schema class, each on one line."""
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef), "a class's source is one class"
    return {
        left.target.id: " ".join(str(right.value.value).split())
        for left, right in itertools.pairwise(node.body)
        if isinstance(left, ast.AnnAssign)
        and isinstance(left.target, ast.Name)
        and isinstance(right, ast.Expr)
        and isinstance(right.value, ast.Constant)
    }


def commented_yaml(section: Any) -> str:
    """Return a schema object as YAML with a comment above each key; absent keys commented out.

    An absent section is `# name: {}` where that is all it takes.
    """
    return "\n".join(_lines(section, 0)) + "\n"


def reference_page() -> str:
    """Return the Markdown page that lists every setting with its type, default and meaning."""
    parts = [
        "# Settings",
        "Made from `src/igds/config/` by `make docs`; do not edit. Relative paths start "
        "from the config file's folder. Any value can be set on the command line after the config, "
        "as `--recall.min-frequency 0.9` or `--data.pool.0.path more.jsonl`; a setting of "
        "`select.budget` there replaces that whole section, and text is taken as it is typed (null "
        "unsets it). A stage whose section is absent is not run.",
    ]
    return "\n\n".join([*parts, *setting_tables(schema.Config)]) + "\n"


def setting_tables(root: type) -> Iterator[str]:
    """Yield heading, description and table of a schema class and of each section below it."""
    for title, cls in _sections(root, ""):
        yield f"## {title or 'Top level'}"
        yield inspect.cleandoc(cls.__doc__ or "")
        yield _table(cls)


def _lines(section: Any, depth: int) -> Iterator[str]:
    indent = "  " * depth
    docs, hints = field_docs(type(section)), get_type_hints(type(section))
    for spec in fields(section):
        value = getattr(section, spec.name)
        for line in wrap(docs[spec.name], _WIDTH - len(indent) - 2):
            yield f"{indent}# {line}"
        if value is None:
            empty = " {}" if any(map(_complete, get_args(hints[spec.name]))) else ""
            yield f"{indent}# {spec.name}:{empty}"
        elif is_dataclass(value):
            yield f"{indent}{spec.name}:"
            yield from _lines(value, depth + 1)
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            yield f"{indent}{spec.name}:"
            yield from (f"{indent}  - {_flow(_given(item))}" for item in value)
        else:
            yield f"{indent}{spec.name}: {_flow(value)}"


def _complete(hint: Any) -> bool:
    """Return whether a type is a section that needs nothing set."""
    return is_dataclass(hint) and all(field_default(one) is not MISSING for one in fields(hint))


def _given(item: Any) -> dict[str, Any]:
    """Return the fields of a list item that are not at their defaults."""
    pairs = ((spec, getattr(item, spec.name)) for spec in fields(item))
    return {spec.name: value for spec, value in pairs if value != field_default(spec)}


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}: {_flow(item)}" for key, item in value.items())
        return f"{{{inside}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, Decimal) or (isinstance(value, str) and _PLAIN.fullmatch(value)):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _sections(cls: type, key: str) -> Iterator[tuple[str, type]]:
    yield key, cls
    for name, hint in get_type_hints(cls).items():
        parts = [part for part in (hint, *get_args(hint)) if is_dataclass(part)]
        for part in parts[:1]:
            item = "[]" if get_origin(hint) is tuple else ""
            yield from _sections(part, f"{key}.{name}{item}" if key else f"{name}{item}")  # type: ignore[arg-type]


def _table(cls: Any) -> str:
    hints, docs = get_type_hints(cls), field_docs(cls)
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for spec in fields(cls):
        cells = (f"`{spec.name}`", _type_words(hints[spec.name]), _default_words(spec))
        rows.append(f"| {' | '.join(cells)} | {docs[spec.name]} |")
    return "\n".join(rows)


def _type_words(hint: Any) -> str:
    words = {
        str: "text",
        int: "whole number",
        float: "number",
        Decimal: "number",
        bool: "yes or no",
    }
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in args)
    if NoneType in args:
        return _type_words(args[0])
    if get_origin(hint) in (Union, UnionType):
        return ", ".join(map(_type_words, args))
    if get_origin(hint) is tuple:
        return f"list of {_type_words(args[0])}"
    if get_origin(hint) is dict:
        return "mapping"
    return words.get(hint, "section")


def _default_words(spec: Field[Any]) -> str:
    value = field_default(spec)
    if value is MISSING:
        return "required"
    if value is None:
        return "absent"
    if is_dataclass(value):
        return "its defaults"
    if isinstance(value, Decimal):
        return f"`{value}`"
    return f"`{json.dumps(to_plain(value), ensure_ascii=False)}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference_page(), encoding="utf-8")
