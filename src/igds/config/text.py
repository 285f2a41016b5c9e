"""YAML text to plain values: duplicate keys refused, decimal numbers kept as they were written."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from igds.errors import RequestError


class CommandLineText(str):
    """A value typed on the command line: text where text is expected, a YAML value elsewhere."""

    __slots__ = ()


class _Constructor(SafeConstructor):
    """Builds a number with a fraction as Decimal: 0.145 stays 0.145."""


def _decimal(constructor: SafeConstructor, node: Any) -> Decimal | float:
    try:
        return Decimal(node.value)
    except ArithmeticError:
        return constructor.construct_yaml_float(node)


_Constructor.add_constructor("tag:yaml.org,2002:float", _decimal)


def parse_yaml(text: str) -> Any:
    """Return the plain value of one YAML 1.2 document.

    Raises:
        YAMLError: not one YAML document, or a key given twice.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    return yaml.load(text)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        RequestError: no such file, not UTF-8, not YAML (with the line), not a mapping.
    """
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 at byte {error.start}") from error
    except MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RequestError(f"{path}{line}: {error.problem}") from error
    except YAMLError as error:
        raise RequestError(f"{path} is not YAML: {error}") from error
    if not isinstance(value, dict):
        raise RequestError(f"{path} holds no settings: a mapping of keys to values is expected")
    return value
