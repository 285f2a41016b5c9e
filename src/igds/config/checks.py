"""Checks that several schema classes make of their fields; each message starts with the field."""

from __future__ import annotations

import math
from typing import Any


def not_empty(section: Any, *names: str) -> None:
    """Raise ValueError for the first of the fields that is empty."""
    for name in names:
        if not getattr(section, name):
            raise ValueError(f"{name} must not be empty")


def at_least(section: Any, least: int, *names: str) -> None:
    """Raise ValueError for the first of the fields that is given and below `least`."""
    for name in names:
        value = getattr(section, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")


def finite(section: Any, *names: str) -> None:
    """Raise ValueError for the first of the fields that is infinite or not a number."""
    for name in names:
        if not math.isfinite(getattr(section, name)):
            raise ValueError(f"{name} must be a finite number, not {getattr(section, name)}")
