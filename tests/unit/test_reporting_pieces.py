"""The pure pieces of the page: colours, scales, tables of counts, and how values are written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from igds.features import FeatureId
from igds.reporting import summaries, text
from igds.reporting.strips import LISTED_TOKENS, SHOWN_ENDS, colour, heat_scale
from igds.reporting.values import Interval, ShownRow, Strip


def strip(activations: list[float]) -> Strip:
    tokens = tuple(f" w{place}" for place in range(len(activations)))
    return Strip(feature=FeatureId(1, 2), tokens=tokens, activations=tuple(activations))


def test_tokens_are_coloured_by_their_share_of_the_scale() -> None:
    drawn = colour(strip([400.0, 0.0, 0.0, 2.5, 10.0]), end=10.0)
    assert [(p.text, p.heat, p.position, p.read) for p in drawn.head] == [
        (" w0", 1.0, 1, False),
        (" w1 w2", 0.0, 2, False),
        (" w3", 0.25, 4, False),
        (" w4", 1.0, 5, True),
    ]
    assert (drawn.active, drawn.n_tokens, drawn.omitted) == (3, 5, 0)
    assert [p.activation for p in drawn.listed] == [400.0, 2.5, 10.0]


def test_the_middle_of_a_long_prompt_is_counted() -> None:
    activations = [0.0] * (2 * SHOWN_ENDS + 100)
    activations[SHOWN_ENDS + 7] = 3.5
    drawn = colour(strip(activations), end=3.5)
    assert (drawn.omitted, drawn.omitted_max, drawn.active) == (100, 3.5, 1)
    assert [p.activation for p in drawn.listed] == [3.5]
    assert drawn.tail[-1].read


def test_at_most_a_dozen_numbers_are_listed_in_order_of_the_prompt() -> None:
    activations = [float(x) for x in np.random.default_rng(0).permutation(40) + 1]
    drawn = colour(strip(activations), end=40.0)
    assert {p.activation for p in drawn.listed} == {40.0 - k for k in range(LISTED_TOKENS)}
    assert [p.position for p in drawn.listed] == sorted(p.position for p in drawn.listed)


def test_a_silent_prompt_is_drawn_without_colour() -> None:
    drawn = colour(strip([0.0, 0.0]), end=0.0)
    assert [p.heat for p in drawn.head] == [0.0, 0.0]
    assert drawn.listed == []


def test_first_tokens_do_not_set_the_scale() -> None:
    row = ShownRow(
        row_id="a",
        group="best",
        source="s",
        ordinal=0,
        response=None,
        pool_score=1.0,
        rank=1,
        selected=True,
        reason="top",
        strips=(strip([400.0, 1.0, 3.0]), strip([900.0])),
    )
    assert heat_scale([row]) == {FeatureId(1, 2): 3.0}


def test_whiskers_share_an_axis_that_holds_zero() -> None:
    first = Interval(value=2.0, low=1.0, high=4.0)
    second = Interval(value=3.0, low=math.nan, high=9.0)
    low, high = summaries.whisker_scale([first, second])
    assert low < 0.0 < 9.0 < high
    marks = summaries.whisker(first, (0.0, 10.0))
    assert marks == {"zero": 0.0, "dot": 20.0, "start": 10.0, "width": 30.0}


def test_status_table_has_every_status_of_every_method() -> None:
    methods = {"igds": {"ok": 3}, "x": {"late": 1}}
    columns, rows = summaries.status_table(methods, {"ok": 3, "bad": 2})
    assert columns == ["index", "igds", "x"]
    assert rows == [("ok", [3, 3, 0]), ("bad", [2, 0, 0]), ("late", [0, 0, 1])]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("\x00\x1b\x7f", "␀␛⟨U+007F⟩"),
        ("\u202ea\u2028\u2029\u0085", "⟨U+202E⟩a⟨U+2028⟩⟨U+2029⟩⟨U+0085⟩"),
        ("\ud800\ufeff", "⟨U+D800⟩⟨U+FEFF⟩"),
        ("👩\u200d🔬 مرحبا", "👩\u200d🔬 مرحبا"),
    ],
)
def test_hidden_characters_are_made_visible(given: str, shown: str) -> None:
    assert text.visible(given) == shown
    assert text.visible(shown) == shown


def test_numbers_read_well() -> None:
    assert text.number(-0.00049) == "0.000"
    assert text.number(-0.0005001) == "−0.001"
    assert text.number(math.nan) == "n/a"
    assert text.number(None) == "n/a"
    assert text.signed(0.0421) == "+0.042"
    assert text.signed(0.0001) == "0.000"
    assert text.signed(math.nan) == "n/a"
    assert text.percent(0.12345) == "12.3 %"
    assert text.compact(12345.6) == "1.235e+04"
    assert text.count(1234567) == "1,234,567"
    assert [text.duration(s) for s in (0.42, 61, 3725)] == ["0.4 s", "1 min 01 s", "1 h 02 min"]


def test_nested_identities_become_dotted_names() -> None:
    nested = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}, "f"]}
    assert list(text.flatten(nested)) == [
        ("a.b", "1"),
        ("a.c", "1, 2"),
        ("d.0.e", "None"),
        ("d.1", "f"),
    ]
