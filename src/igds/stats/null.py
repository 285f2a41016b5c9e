"""Numbers as tables and JSON have them."""

from __future__ import annotations

import math


def or_null(value: float | int) -> float | int | None:
    """Return the value, None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def or_nan(value: float | int | None) -> float:
    """Return the value, NaN where it is None."""
    return float("nan") if value is None else float(value)
