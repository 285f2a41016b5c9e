"""Numbers as tables and JSON have them."""

from __future__ import annotations

import math


def or_null(value: float | int) -> float | int | None:
    """Return the value, None where it is NaN or infinite."""
    return value if math.isfinite(value) else None
