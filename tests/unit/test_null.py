"""What is no number becomes null."""

from __future__ import annotations

import math

import pytest

from igds.stats.null import or_null


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(value: float) -> None:
    assert or_null(value) is None


@pytest.mark.parametrize("value", [0.0, -1.5, 3])
def test_a_number_stays(value: float) -> None:
    assert or_null(value) == value
