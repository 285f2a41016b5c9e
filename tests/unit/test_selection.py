from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igds.config.scoring import Budget, Select
from igds.errors import RequestError
from igds.rows import content_hash
from igds.selection.budgets import choose, rows_to_keep
from igds.selection.resembling import resembling_scores
from igds.selection.showcase import showcase
from igds.selection.strata import numbered, shares, tenths
from igds.selection.tables import (
    prompt_numbers,
    read_pool_scores,
    selection_summary,
    selection_table,
    tie_breaks,
    unique_mask,
)


def pick(
    scores,
    budget,
    *,
    tie=None,
    duplicate=None,
    tokens=None,
    n_ok=None,
    prompt=None,
    per_prompt=1,
    quotas=None,
    strata=None,
):
    scores = np.asarray(scores, dtype=np.float64)
    n = len(scores)
    return choose(
        scores,
        tie_break=np.asarray(range(n) if tie is None else tie, dtype=np.uint64),
        duplicate=np.zeros(n, dtype=bool)
        if duplicate is None
        else np.asarray(duplicate, dtype=bool),
        n_tokens=np.full(n, 10) if tokens is None else np.asarray(tokens),
        n_ok=n if n_ok is None else n_ok,
        budget=budget,
        prompt=None if prompt is None else np.asarray(prompt),
        per_prompt=per_prompt,
        quotas=quotas,
        strata=strata,
    )


@pytest.mark.parametrize(
    ("ratio", "n_ok", "rows"),
    [
        ("0.145", 100, 15),  # 14.499999 in binary arithmetic
        ("0.2", 1503, 301),  # 300.6
        ("0.5", 3, 2),  # halves go up
        ("0.001", 10, 1),  # never nothing
        ("1", 7, 7),
    ],
)
def test_a_ratio_is_resolved_in_decimal_arithmetic(ratio, n_ok, rows):
    assert rows_to_keep(Budget(ratio=Decimal(ratio)), n_ok) == rows


def test_rows_keep_the_highest_scores_and_say_why():
    result = pick([0.1, 5.0, 3.0, 4.0], Budget(rows=2))
    assert result.selected.tolist() == [False, True, False, True]
    assert result.rank.tolist() == [4, 1, 3, 2]
    assert result.reason == ["budget", "top", "budget", "top"]
    assert result.cut == 4.0


def test_ties_break_by_the_hash_and_not_by_place():
    first = pick([1.0, 1.0, 1.0], Budget(rows=1), tie=[5, 3, 4])
    assert first.selected.tolist() == [False, True, False]
    assert first.reason == ["tie", "tie", "tie"]
    # The same rows in another order: the same row is chosen.
    assert pick([1.0, 1.0, 1.0], Budget(rows=1), tie=[4, 5, 3]).selected.tolist() == [0, 0, 1]


def test_a_tie_that_the_cut_does_not_part_is_no_tie():
    assert pick([2.0, 2.0, 1.0], Budget(rows=2)).reason == ["top", "top", "budget"]


def test_tokens_stop_before_the_first_row_that_does_not_fit():
    # In rank order 40 + 50 fit into 100; 30 does not, and the 5 behind it is not reached for.
    result = pick([4.0, 3.0, 2.0, 1.0], Budget(tokens=100), tokens=[40, 50, 30, 5])
    assert result.selected.tolist() == [True, True, False, False]
    assert pick([2.0, 1.0], Budget(tokens=20)).selected.all()  # exactly full


def test_a_token_budget_under_the_best_row_is_refused():
    with pytest.raises(RequestError, match="best row alone has 10 tokens"):
        pick([2.0, 1.0], Budget(tokens=9))


def test_a_budget_over_the_pool_is_refused_with_the_counts():
    with pytest.raises(RequestError, match="only 2 rows of the pool have status ok"):
        pick([1.0, 2.0], Budget(rows=3))
    with pytest.raises(
        RequestError, match=r"asks for 2 rows, but only 1 can be chosen.*1 of those"
    ):
        pick([1.0, 2.0], Budget(rows=2), duplicate=[False, True])


def test_a_method_that_scores_fewer_rows_gets_no_smaller_budget():
    with pytest.raises(RequestError, match="asks for 3 rows, but only 2 can be chosen"):
        pick([1.0, np.nan, 2.0], Budget(ratio=Decimal(1)), n_ok=3)


def test_rows_without_a_score_and_duplicates_are_left_out():
    result = pick([3.0, np.nan, 3.0, 1.0], Budget(rows=2), duplicate=[0, 0, 1, 0])
    assert result.selected.tolist() == [True, False, False, True]
    assert result.reason == ["top", "status", "duplicate", "top"]
    assert result.rank[1] == 0


@pytest.mark.parametrize(
    ("per_prompt", "selected", "reasons"),
    [
        (1, [1, 0, 0, 1, 1], ["top", "per_prompt", "per_prompt", "top", "top"]),
        (2, [1, 0, 1, 1, 0], ["top", "per_prompt", "top", "top", "budget"]),
        (3, [1, 1, 1, 0, 0], ["top", "top", "top", "budget", "budget"]),
    ],
)
def test_of_one_prompt_the_first_in_rank_order_may_be_chosen(per_prompt, selected, reasons):
    scores, prompt = [9.0, 7.0, 8.0, 5.0, 4.0], [7, 7, 7, 3, 5]
    result = pick(scores, Budget(rows=3), prompt=prompt, per_prompt=per_prompt)
    assert result.selected.tolist() == selected
    assert result.reason == reasons
    assert result.rank.tolist() == [1, 3, 2, 4, 5]  # ranks are of all scored rows


def test_responses_of_one_prompt_with_one_score_are_taken_by_the_tie_break():
    result = pick([1.0] * 4, Budget(rows=2), tie=[4, 3, 2, 1], prompt=[0, 0, 1, 1])
    assert result.selected.tolist() == [False, True, False, True]
    # The same rows in another order: the same rows are chosen.
    turned = pick([1.0] * 4, Budget(rows=2), tie=[1, 2, 3, 4], prompt=[1, 1, 0, 0])
    assert turned.selected.tolist() == [True, False, True, False]


def test_a_limit_that_no_prompt_reaches_changes_nothing():
    draw = np.random.default_rng(0)
    scores, tie = draw.integers(0, 9, 50).astype(float), draw.permutation(50)
    plain = pick(scores, Budget(rows=20), tie=tie)
    for prompt, k in ((np.arange(50), 1), (draw.integers(0, 5, 50), 50)):
        limited = pick(scores, Budget(rows=20), tie=tie, prompt=prompt, per_prompt=k)
        assert limited.selected.tolist() == plain.selected.tolist()
        assert limited.reason == plain.reason


def test_the_limit_holds_whatever_the_order_of_rows():
    draw = np.random.default_rng(1)
    scores, tie = draw.integers(0, 4, 60).astype(float), draw.permutation(60)
    prompt = draw.integers(0, 12, 60)
    result = pick(scores, Budget(rows=15), tie=tie, prompt=prompt, per_prompt=2)
    assert max(np.bincount(prompt[result.selected])) == 2
    turn = draw.permutation(60)
    other = pick(scores[turn], Budget(rows=15), tie=tie[turn], prompt=prompt[turn], per_prompt=2)
    assert other.selected.tolist() == result.selected[turn].tolist()


def test_duplicates_do_not_use_up_their_prompt_s_rows():
    limited = {"prompt": [1, 1, 1], "per_prompt": 2}
    result = pick([3.0, 3.0, 2.0], Budget(rows=2), duplicate=[0, 1, 0], **limited)
    assert result.reason == ["top", "duplicate", "top"]


def test_a_ratio_is_of_ok_rows_whatever_their_prompts():
    limited = {"prompt": [0, 0, 0, 1], "per_prompt": 1}
    assert pick([4.0, 3.0, 2.0, 1.0], Budget(ratio=Decimal("0.5")), **limited).selected.sum() == 2
    with pytest.raises(RequestError, match="3 rows, but only 2 .* 0 of those are dup.* 2 more"):
        pick([4.0, 3.0, 2.0, 1.0], Budget(ratio=Decimal("0.75")), **limited)


def test_equal_prompts_get_one_number():
    one, two = "1" * 32, "2" * 32
    column = pa.chunked_array([[two, one, None], [one, None, two]])
    numbers = prompt_numbers(pa.table({"prompt_hash": column}).slice(1))
    assert len(numbers) == 5
    assert numbers[0] == numbers[2] and numbers[1] == numbers[3]
    assert len(set(numbers.tolist())) == 3


def test_tie_breaks_follow_seed_and_id_alone():
    ids = pa.chunked_array([["a", "b", "c"]])
    assert tie_breaks(ids, 1).tolist() == tie_breaks(ids, 1).tolist()
    assert tie_breaks(ids, 1).tolist() != tie_breaks(ids, 2).tolist()
    turned = pa.chunked_array([["c", "b", "a"]])
    assert tie_breaks(turned, 1).tolist() == tie_breaks(ids, 1).tolist()[::-1]


def test_of_equal_rows_the_first_is_unique():
    hashes = pa.array([content_hash(text) for text in (b"w", b"x", b"y", b"x", b"z", b"y")])
    # a column in chunks, the first of which is a part of a longer one
    rows = pa.table({"content_hash": pa.chunked_array([hashes[1:3], hashes[3:]])})
    assert unique_mask(rows, "row").tolist() == [True, True, False, True, False]
    assert unique_mask(rows, "none").all()


def test_the_summary_counts_what_the_page_shows():
    scores = np.array([0.0, 0.0, 2.0, 5.0, np.nan])
    result = pick(scores, Budget(rows=3), n_ok=4)
    rows = pa.table(
        {
            "status": ["ok", "ok", "ok", "ok", "torn_line"],
            "n_prompt_tokens": pa.array([1, 2, 3, 4, None], pa.int32()),
            "n_train_tokens": pa.array([10, 20, 30, 40, None], pa.int32()),
        }
    )
    summary = selection_summary(rows, scores, result, Select(budget=Budget(rows=3)))
    assert summary["scored"] == 4
    assert summary["selected"] == 3
    assert summary["selected_tokens"] == 80
    assert summary["share_zero"] == 0.5
    assert summary["tied_at_cut"] == 2
    assert summary["tied_at_cut_selected"] == 1
    assert summary["reasons"] == {"tie": 2, "top": 2, "status": 1}
    assert summary["spearman_prompt_length"] == pytest.approx(0.9486833)  # ranks 1.5 1.5 3 4


def test_the_showcase_is_best_worst_and_around_the_cut_without_repeats():
    scores = np.arange(20, dtype=np.float64)
    ids = pa.chunked_array([[f"r{place}" for place in range(20)]])
    table = selection_table(ids, scores, pick(scores, Budget(rows=10)))
    shown = showcase(table, 4)
    groups = dict(zip(shown["row_id"].to_pylist(), shown["group"].to_pylist(), strict=True))
    assert [k for k, v in groups.items() if v == "best"] == ["r19", "r18", "r17", "r16"]
    assert [k for k, v in groups.items() if v == "borderline"] == ["r11", "r10", "r9", "r8"]
    assert [k for k, v in groups.items() if v == "worst"] == ["r3", "r2", "r1", "r0"]
    small = showcase(table.slice(0, 3), 4)
    assert sorted(small["row_id"].to_pylist()) == ["r0", "r1", "r2"]


def test_with_strata_rows_around_the_cut_are_those_of_each_stratum():
    scores = np.array([20.0, 19, 18, 17, 16, 15, 4, 3, 2, 1])
    strata = np.array([0] * 6 + [1] * 4)
    ids = pa.chunked_array([[f"r{place}" for place in range(10)]])
    table = selection_table(ids, scores, pick(scores, Budget(rows=5), strata=strata))
    kept = [row["row_id"] for row in table.to_pylist() if row["selected"]]
    assert kept == ["r0", "r1", "r2", "r6", "r7"]
    shown = showcase(table, 2).to_pylist()
    assert [row["row_id"] for row in shown if row["group"] == "borderline"] == ["r3", "r7"]


def test_a_token_budget_under_each_stratums_best_row_names_the_parts():
    scores, strata = np.arange(8, dtype=np.float64), np.arange(8) // 2
    tokens = np.full(8, 10)
    with pytest.raises(RequestError, match="tokens is 20, at most 5 for one of 4 strata"):
        pick(scores, Budget(tokens=20), strata=strata, tokens=tokens)


def test_shards_are_read_by_their_numbers(tmp_path):
    numbers = [0, 9, 10, 99_999, 100_000, 100_001]
    for number in reversed(numbers):
        pq.write_table(pa.table({"x": [float(number)]}), tmp_path / f"shard-{number:05d}.parquet")
    (tmp_path / "method.json").write_text(json.dumps({"weights": {"x": 2.0}, "offset": 1.0}))
    assert read_pool_scores(tmp_path).tolist() == [1 + 2.0 * number for number in numbers]


def test_a_budget_is_shared_over_strata_by_largest_remainder():
    assert shares(5, np.array([10, 10, 10])).tolist() == [2, 2, 1]  # equal: the earlier first
    assert shares(7, np.array([1, 2, 4])).tolist() == [1, 2, 4]
    assert shares(3, np.array([1, 1, 98])).tolist() == [0, 0, 3]
    # 0.145 of 100 rows is 15: 10.5 and 4.5 by size, halves to the larger
    assert shares(15, np.array([70, 30])).tolist() == [11, 4]


@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=12), part=st.integers(0, 100))
def test_shares_add_up_and_are_within_one_of_proportion(sizes, part):
    budget = sum(sizes) * part // 100
    found = shares(budget, np.array(sizes))
    assert found.sum() == budget
    exact = np.array(sizes) * budget / sum(sizes)
    assert (abs(found - exact) < 1).all()
    assert (found <= np.array(sizes)).all()


def test_rows_are_ranked_within_their_stratum():
    scores = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]
    strata = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    result = pick(scores, Budget(ratio=Decimal("0.5")), strata=strata)
    assert result.selected.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert result.rank.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]  # over the whole pool
    assert result.reason == ["top", "top", "budget", "budget"] * 2
    assert result.cut == 4.0


def test_each_stratum_has_a_cut_and_ties_of_its_own():
    strata = np.array([0, 0, 0, 1, 1, 1])
    result = pick([3.0, 1.0, 1.0, 9.0, 9.0, 2.0], Budget(rows=4), strata=strata)
    assert result.reason == ["top", "tie", "tie", "top", "top", "budget"]
    assert result.at_cut.tolist() == [0, 1, 1, 1, 1, 0]


def test_a_stratum_whose_rows_may_not_be_chosen_gives_its_share_to_the_others():
    strata = np.array([0, 0, 1, 1])
    result = pick([4.0, 3.0, np.nan, np.nan], Budget(rows=2), strata=strata, n_ok=4)
    assert result.selected.tolist() == [1, 1, 0, 0]


def test_a_token_budget_is_shared_by_tokens():
    strata, tokens = np.array([0, 0, 0, 1, 1, 1]), [30, 30, 30, 10, 10, 10]
    result = pick([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], Budget(tokens=80), strata=strata, tokens=tokens)
    assert result.selected.tolist() == [1, 1, 0, 1, 1, 0]  # 60 and 20 tokens
    with pytest.raises(RequestError, match="best row alone has 10 tokens"):
        pick([2.0, 1.0], Budget(tokens=9), strata=np.array([0, 1]))


def test_tenths_hold_equal_lengths_together():
    lengths = np.array([*range(100), 1000])
    counted = np.ones(101, dtype=bool)
    counted[100] = False
    found = tenths(lengths, counted)
    assert np.bincount(found[:100]).tolist() == [11, 10, 10, 10, 10, 10, 10, 10, 10, 9]
    assert found[100] == 9
    assert tenths(np.array([5, 5, 5]), np.ones(3, dtype=bool)).tolist() == [0, 0, 0]
    assert numbered(["b", "a", "b"]).tolist() == [1, 0, 1]


def test_random_rows_resemble_a_selection_in_every_cell():
    rng = np.random.default_rng(0)
    cell = rng.integers(0, 6, size=600)
    selected = (cell == 2) & (rng.random(600) < 0.6) | (cell == 4) & (rng.random(600) < 0.2)
    allowed = np.ones(600, dtype=bool)
    allowed[::50] = False
    uniform = rng.random(600)
    scores = resembling_scores(selected & allowed, cell, uniform, allowed)
    n = int((selected & allowed).sum())
    drawn = np.argsort(-np.nan_to_num(scores, nan=-1))[:n]
    wanted = np.bincount(cell[selected & allowed], minlength=6)
    assert np.bincount(cell[drawn], minlength=6).tolist() == wanted.tolist()
    assert (scores[drawn] >= 1).all()
    assert np.isnan(scores[~allowed]).all()
    # It is another selection: a row of the cell is drawn whether it was selected or not.
    inside = selected[drawn[cell[drawn] == 4]].mean()
    assert 0.05 < inside < 0.4
