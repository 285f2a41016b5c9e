"""Plain values to schema objects by cattrs, strictly: no extra key, no conversion between types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from decimal import Decimal
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
)
from cattrs.cols import homogenous_tuple_structure_factory, mapping_structure_factory
from cattrs.gen import make_dict_structure_fn
from ruamel.yaml.error import YAMLError

from igds.config.text import CommandLineText, parse_yaml
from igds.errors import RequestError, did_you_mean

_Hook = Callable[[Any, Any], Any]
T = TypeVar("T")

_NULLS = ("~", "null")
"""What unsets a text on the command line; nothing between quotes is text without a letter."""
_SCALARS: tuple[tuple[type, tuple[type, ...], str], ...] = (
    (str, (str,), "text (a number in quotes is text)"),
    (bool, (bool,), "true or false"),
    (int, (int,), "a whole number"),
    (float, (int, float, Decimal), "a number"),
    (Decimal, (int, Decimal), "a number"),
)


class SettingsError(RequestError):
    """Settings that do not fit the schema."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep one line a problem, each starting with its dotted key."""
        super().__init__("\n  ".join(problems))
        self.problems = problems


def structure(raw: Mapping[str, Any], schema: type[T]) -> T:
    """Return the settings that a plain mapping describes, as an object of a schema class.

    Raises:
        SettingsError: naming every unknown key with the nearest valid one, every missing key and
            every value of the wrong type or range.
    """
    try:
        return _converter().structure(raw, schema)
    except ClassValidationError as error:
        raise SettingsError(list(_problems(error, "", schema, schema))) from error


def dotted_keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Return every key of a schema class and of the sections below it; items of lists left out."""
    for name, hint in get_type_hints(cls).items():
        yield prefix + name
        section = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if section is not None and get_origin(hint) is not tuple:
            yield from dotted_keys(section, f"{prefix}{name}.")  # type: ignore[arg-type]


class _UnexpectedError(TypeError):
    """A value of another type than the schema's; the message goes on from `is expected to be`."""


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    for target, accepted, words in _SCALARS:
        converter.register_structure_hook(target, _scalar(target, accepted, words))
    factory = converter.register_structure_hook_factory
    factory(lambda hint: get_origin(hint) is Literal, _literal)
    factory(lambda hint: get_origin(hint) is UnionType, _optional)
    factory(_is_choice_or_number, _choice_or_number)
    factory(is_dataclass, _guarded(dict, "a section of keys and values", _class_factory))
    factory(_of(dict), _guarded(dict, "a mapping of names to values", mapping_structure_factory))
    factory(_of(tuple), _guarded(list, "a list", homogenous_tuple_structure_factory))
    return converter


def _scalar(target: type, accepted: tuple[type, ...], words: str) -> _Hook:
    def hook(value: Any, _: Any) -> Any:
        value = str(value) if target is str and _typed(value) else _plain(value)
        if not isinstance(value, accepted) or (isinstance(value, bool) and target is not bool):
            raise _UnexpectedError(f"is {_shown(value)}, expected {words}")
        return target(value)

    return hook


def _literal(hint: Any, _: Converter) -> _Hook:
    choices = get_args(hint)

    def hook(value: Any, _: Any) -> Any:
        value = str(value) if _typed(value) else value
        if value not in choices:
            raise _UnexpectedError(f"is {_shown(value)}, expected one of {', '.join(choices)}")
        return value

    return hook


def _optional(hint: Any, converter: Converter) -> _Hook:
    inner = next(part for part in get_args(hint) if part is not NoneType)

    def hook(value: Any, _: Any) -> Any:
        # Text that was typed is taken as it is: a template may look like YAML.
        typed = _typed(value) and inner is str
        if value not in _NULLS if typed else _plain(value) is not None:
            return converter.structure(value, inner)
        if is_dataclass(inner) and not _typed(value):
            raise _UnexpectedError("is empty: write {} for its defaults, or leave it out")
        return None

    return hook


def _is_choice_or_number(hint: Any) -> bool:
    """Return whether a hint is `Literal[...] | int`, which typing makes a Union of its own."""
    return get_origin(hint) in (Union, UnionType) and NoneType not in get_args(hint)


def _choice_or_number(hint: Any, _: Converter) -> _Hook:
    choices = get_args(get_args(hint)[0])

    def hook(value: Any, _: Any) -> Any:
        value = _plain(value)
        if value in choices or type(value) is int:
            return value
        words = f"one of {', '.join(choices)}, or a whole number"
        raise _UnexpectedError(f"is {_shown(value)}, expected {words}")

    return hook


def _guarded(kind: type, words: str, factory: Callable[[Any, Converter], _Hook]) -> Any:
    """Return a hook factory that lets only values of one kind reach another factory's hook."""

    def guarded_factory(hint: Any, converter: Converter) -> _Hook:
        inner = factory(hint, converter)

        def hook(value: Any, _: Any) -> Any:
            value = _plain(value)
            if not isinstance(value, kind):
                raise _UnexpectedError(f"is {_shown(value)}, expected {words}")
            return inner(value, hint)

        return hook

    return guarded_factory


def _class_factory(cls: Any, converter: Converter) -> _Hook:
    return make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)


def _of(kind: type) -> Callable[[Any], bool]:
    return lambda hint: get_origin(hint) is kind


def _typed(value: Any) -> bool:
    return isinstance(value, CommandLineText)


def _plain(value: Any) -> Any:
    """Return what a value typed on the command line means in YAML; any other value as it is."""
    if not _typed(value):
        return value
    try:
        return parse_yaml(value)
    except YAMLError as error:
        raise _UnexpectedError(f"is {str(value)!r}, which is not YAML") from error


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else repr(value)


def _problems(error: Exception, where: str, cls: Any, root: Any) -> Iterator[str]:
    """Return one line a problem, each starting with its dotted key."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            name = note.name if isinstance(note, AttributeValidationNote) else note.index
            yield from _problems(inner, f"{where}.{name}" if where else str(name), error.cl, root)
        for inner in others:
            yield from _problems(inner, where, error.cl, root)
    elif isinstance(error, ForbiddenExtraKeysError):
        for key in sorted(map(str, error.extra_fields)):
            yield _unknown(key, where, error.cl, root)
    elif isinstance(error, KeyError):
        yield f"{where} is missing"
    elif isinstance(error, _UnexpectedError):
        yield f"{where} {error}"
    else:
        first = str(error).split()[0]
        own = is_dataclass(cls) and first in {field.name for field in fields(cls)}
        yield f"{where}{'.' if own else ' '}{error}" if where else str(error)


def _unknown(key: str, where: str, cls: type, root: type) -> str:
    """Return what to say of an unknown key: a near name beside it, or that name's right place."""
    prefix = f"{where}." if where else ""
    siblings = [field.name for field in fields(cls)]
    elsewhere = [name for name in dotted_keys(root) if name.rpartition(".")[2] == key]
    below = [name for name in elsewhere if where and name.startswith(prefix)]
    if below or (elsewhere and not get_close_matches(key, siblings)):
        hint = f"did you mean {' or '.join(below or elsewhere)}?"
    else:
        hint = did_you_mean(key, siblings, prefix)
    return f"{prefix}{key} is not a setting; {hint}"
